package script

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/wherry-engine/wherry/internal/network/remote/remotetest"
	"github.com/wherry-engine/wherry/internal/plugin/plugintest"
)

// volumeDriver is the command `volumedriver SOCKET DIRECTORY` of the scripts:
// a volume plugin that serves until it is interrupted.
func volumeDriver() {
	v := plugintest.Volumes{Dir: os.Args[2]}
	serve(v.Server(), os.Args[1])
}

// networkDriver is the command `networkdriver SOCKET` of the scripts: a plugin
// of networks and of addresses, in the network namespace that it is started in.
func networkDriver() {
	d, err := remotetest.New()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := d.Server()
	serve(s, os.Args[1])
	s.Close() // the socket goes
	d.Close()
}

func serve(s *plugintest.Server, socket string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	if err := s.Listen(socket); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-stop
}
