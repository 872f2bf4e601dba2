package httpapi

import (
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// headLimit is how long a client may take to read the head of an answer until
// the stream begins all the same.
const headLimit = time.Second

// headRead waits until a client of docker's Python library has read the head
// of the answer. The library reads it through a buffer and everything after it
// from the socket below, so that what arrives together with the head is lost
// to it. A container here is faster than the library expects: `exec` of a
// command that prints a line and ends would at times come out empty.
//
// The kernel tells how much of what was sent on a Unix socket is unread
// (unix(7), SIOCOUTQ), but not when that changes; hence the short naps. Of
// other connections it does not tell.
func headRead(conn net.Conn, userAgent string) {
	socket, ok := conn.(*net.UnixConn)
	if !ok || !strings.HasPrefix(userAgent, "docker-sdk-python/") {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	unread := func() bool {
		n := 0
		cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		return cerr == nil && err == nil && n > 0
	}
	for end := time.Now().Add(headLimit); unread() && time.Now().Before(end); {
		time.Sleep(200 * time.Microsecond)
	}
}
