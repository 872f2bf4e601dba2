package system

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewDialStdio is `system dial-stdio`: what a client that came by ssh runs on
// the engine's machine to speak to its socket.
func NewDialStdio(sh *shell.Shell) *cobra.Command {
	return &cobra.Command{
		Use:    "dial-stdio",
		Short:  "Proxy stdin and stdout to the engine's socket; ssh:// clients run it",
		Args:   shell.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			conn, err := api.Dialer()(cmd.Context())
			if err != nil {
				return fmt.Errorf("failed to open the raw stream connection: %w", err)
			}
			defer conn.Close()
			return relay(conn, sh.In, sh.Out, os.Stdout)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// relay copies both ways. When the client has nothing more to say the engine
// is told so and may go on answering; when the engine has nothing more to say
// it is over, whatever the client still holds open.
func relay(conn net.Conn, in io.Reader, out io.Writer, end io.Closer) error {
	asked, answered := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, in)
		if w, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = w.CloseWrite()
		}
		asked <- err
	}()
	go func() {
		_, err := io.Copy(out, conn)
		end.Close() // the other side sees the end before this program is gone
		answered <- err
	}()
	select {
	case err := <-asked:
		if err != nil {
			return err
		}
		return <-answered
	case err := <-answered:
		return err
	}
}
