package lending

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/session"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wherry-engine/wherry/api/lend"
	"github.com/wherry-engine/wherry/internal/build/conn"
)

func connected(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	ours, theirs, err := conn.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
	})
	return ours, theirs
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(at("a"), []byte("one"), 0o600), os.WriteFile(at("b"), []byte("two"), 0o600), os.Mkdir(at("d"), 0o700), unix.Mkfifo(at("p"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := connected(t)
	ended := make(chan error, 1)
	go func() {
		ended <- lend.Serve(theirs, func(dir, name string) (*os.File, error) {
			if dir != "context" {
				return nil, os.ErrNotExist
			}
			return os.OpenFile(at(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
		})
	}()
	b, err := Borrow(ours)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, name, want string }{
		{"context", "a", "one"}, {"context", "b", "two"}, {"context", "a", "one"},
		{"context", "gone", ""}, {"other", "a", ""}, {"context", "d", ""}, {"context", "p", ""}, {"context", strings.Repeat("x", 10000), ""}, {"", "", ""},
		{"context", "b", "two"},
	} {
		f, err := b.Open(c.dir, c.name)
		if c.want == "" {
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%s of %s: %v, %v", c.name, c.dir, f, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(c, err)
		}
		text, err := io.ReadAll(f)
		f.Close()
		if string(text) != c.want || err != nil {
			t.Errorf("%s is %q, %v", c.name, text, err)
		}
	}
	b.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := b.Open("context", "a"); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("of a connection that is closed: %v", err)
	}
}

// TestHostile has a client do what none of ours does.
func TestHostile(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	self, err := os.Open("lending_test.go")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	send := func(c *net.UnixConn, files ...*os.File) {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		var rights []byte
		if fds != nil {
			rights = unix.UnixRights(fds...)
		}
		c.WriteMsgUnix([]byte{7}, rights, nil)
	}
	for _, c := range []struct {
		name     string
		do       func(c *net.UnixConn)
		borrows  bool
		opens    bool
		refusals bool
	}{
		{"no descriptor", func(c *net.UnixConn) { send(c) }, false, false, false},
		{"nothing", func(c *net.UnixConn) { c.Close() }, false, false, false},
		{"an end", func(c *net.UnixConn) { send(c, null); c.Close() }, true, false, false},
		{"several files", func(c *net.UnixConn) { send(c, null, null, self); send(c, self, null, null, null) }, true, true, false},
		{"a device", func(c *net.UnixConn) { send(c, null); send(c, null) }, true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := descriptors(t)
			ours, theirs := connected(t)
			c.do(theirs)
			b, err := Borrow(ours)
			if (err == nil) != c.borrows {
				t.Fatal(err)
			}
			if err == nil {
				f, err := b.Open("a", "b")
				if (err == nil) != c.opens || errors.Is(err, ErrRefused) != c.refusals {
					t.Error(err)
				}
				if err == nil {
					f.Close()
				}
			}
			ours.Close()
			theirs.Close()
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// caller is a session of a client.
type caller struct {
	session.Caller
	conn *grpc.ClientConn
}

func (c caller) Conn() *grpc.ClientConn { return c.conn }

// client is one whose answer to a ticket is f's.
func client(t *testing.T, f func(ticket string) error) session.Caller {
	t.Helper()
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{ServiceName: lend.Service, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: lend.Method,
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var v wrapperspb.StringValue
			if err := decode(&v); err != nil {
				return nil, err
			}
			return &emptypb.Empty{}, f(v.Value)
		},
	}}}, nil)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	c, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return caller{conn: c}
}

func TestDesk(t *testing.T) {
	var d Desk
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.Serve(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
		}
	}))
	unixListener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go server.Config.Serve(unixListener)
	defer unixListener.Close()
	server.Start() // by TCP
	defer server.Close()
	// ask begins with a ticket, and gives the head of the answer.
	ask := func(network, addr, ticket, proto string) (net.Conn, string) {
		c, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, "POST "+lend.Path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: "+proto+"\r\n"+lend.Header+": "+ticket+"\r\n\r\n")
		var head []byte
		one := make([]byte, 1)
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			if _, err := c.Read(one); err != nil {
				break
			}
			head = append(head, one...)
		}
		line, _, _ := strings.Cut(string(head), "\r\n")
		return c, line
	}
	here := unixListener.Addr().String()
	expect := func(network, addr, ticket, proto, want string) {
		t.Helper()
		if _, line := ask(network, addr, ticket, proto); !strings.Contains(line, want) {
			t.Errorf("%s %q %s: %q", network, ticket, proto, line)
		}
	}
	expect("unix", here, "", lend.Protocol, "418")
	expect("unix", here, "guessed", lend.Protocol, "418")
	lent := make(chan error, 1)
	b, err := d.Open(t.Context(), client(t, func(ticket string) error {
		expect("unix", here, ticket, "h2c", "418")
		expect("tcp", server.Listener.Addr().String(), ticket, lend.Protocol, "400")
		c, line := ask("unix", here, ticket, lend.Protocol)
		if !strings.Contains(line, "101") {
			t.Errorf("the answer is %q", line)
		}
		expect("unix", here, ticket, lend.Protocol, "418") // there is one
		go func() {
			lent <- lend.Serve(c.(*net.UnixConn), func(_, name string) (*os.File, error) { return os.Open(name) })
		}()
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.Open("", "lending_test.go")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	b.Close()
	if err := <-lent; err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func(string) error{
		"does not connect": func(string) error { return nil },
		"fails":            func(string) error { return io.ErrUnexpectedEOF },
		"connects, and fails": func(ticket string) error {
			ask("unix", here, ticket, lend.Protocol)
			return io.ErrUnexpectedEOF
		},
		"sends no descriptor": func(ticket string) error {
			c, _ := ask("unix", here, ticket, lend.Protocol)
			c.Write([]byte{0})
			return nil
		},
	} {
		if b, err := d.Open(t.Context(), client(t, f)); err == nil {
			b.Close()
			t.Errorf("of a client that %s something is borrowed", name)
		}
	}
	// One that sends nothing is waited for as long as its build lives.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = d.Open(ctx, client(t, func(ticket string) error {
		ask("unix", here, ticket, lend.Protocol)
		time.AfterFunc(50*time.Millisecond, cancel)
		return nil
	}))
	if err == nil {
		t.Error("something is borrowed of a client that sends nothing")
	}
	if len(d.waiting) > 0 {
		t.Error("tickets are left")
	}
}
