package script

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/wherry-engine/wherry/internal/plugin/plugintest"
)

// volumeDriver is the command `volumedriver SOCKET DIRECTORY` of the scripts:
// a volume plugin that serves until it is interrupted.
func volumeDriver() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	v := plugintest.Volumes{Dir: os.Args[2]}
	s := v.Server()
	s.Implements = append(s.Implements, "NetworkDriver", "IpamDriver")
	if err := s.Listen(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-stop
}
