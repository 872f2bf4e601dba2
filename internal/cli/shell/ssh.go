package shell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/docker/cli/cli/connhelper/commandconn"
	"github.com/docker/cli/cli/connhelper/ssh"
)

// remoteDial runs on the engine's machine: wherry if it is there, else docker,
// so that an engine of either kind can be reached. $1 is the engine's address
// there, or empty for what the client there finds by itself.
const remoteDial = `c=docker; command -v wherry >/dev/null 2>&1 && c=wherry; if [ "$1" ]; then exec "$c" --host "$1" system dial-stdio; fi; exec "$c" system dial-stdio`

// sshDialer reaches an engine through the user's own ssh, with everything that
// ~/.ssh/config says: ssh://[user@]host[:port][/path of the socket there].
func sshDialer(host string) (func(context.Context, string, string) (net.Conn, error), error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, err
	}
	spec, err := ssh.NewSpec(u)
	if err != nil {
		return nil, fmt.Errorf("ssh host connection is not valid: %w", err)
	}
	command := []string{"sh", "-c", remoteDial, "sh"}
	if strings.Trim(spec.Path, "/") != "" {
		command = append(command, "unix://"+spec.Path)
	}
	// -T: no terminal is asked for, as the stream is not text.
	args, err := spec.Command([]string{"-o", "ConnectTimeout=30", "-T"}, command...)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := commandconn.New(ctx, "ssh", args...)
		if err != nil {
			return nil, err
		}
		return sshConn{c}, nil
	}, nil
}

// sshConn is the stream of an ssh that may end before anything is written to
// it. Why it did is what reading says.
type sshConn struct{ net.Conn }

func (c sshConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		if _, why := c.Conn.Read(make([]byte, 1)); why != nil {
			err = why
		}
	}
	return n, err
}

// CloseWrite ends what the other side reads.
func (c sshConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}
