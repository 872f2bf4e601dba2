package ship

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/internal/logs"
	"github.com/wherry-engine/wherry/internal/logs/driver"
)

func info() *driver.Info {
	return &driver.Info{
		ContainerID: strings.Repeat("c", 64), ContainerName: "/web", ContainerImageName: "busybox", HostName: "host",
		ContainerLabels: map[string]string{"tier": "front"}, ContainerEntrypoint: "sh",
	}
}

// setup gives the log of a container and its writer.
func setup(t *testing.T, name string, o map[string]string) (string, logs.Target, *driver.Sink, *logs.Writer) {
	t.Helper()
	dir := t.TempDir()
	c := driver.Config{Type: name, Options: o}
	if err := driver.Validate(c); err != nil {
		t.Fatal(err)
	}
	sink, err := driver.Remote(c, info())
	if err != nil {
		t.Fatal(err)
	}
	files, err := driver.Files(c, dir, info().ContainerID)
	if err != nil {
		t.Fatal(err)
	}
	w, err := logs.NewWriter(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return dir, files, sink, w
}

func write(t *testing.T, w *logs.Writer, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := w.Copy(logs.Stdout, fmt.Appendf(nil, "line %d\n", i), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// Every line arrives once and in order although the receiver is not there at
// first, goes away in between, and the engine is closed and opened meanwhile.
func TestNothingIsLost(t *testing.T) {
	const id = "x"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir, files, sink, w := setup(t, "syslog", map[string]string{"syslog-address": "tcp://" + address, "syslog-format": "rfc5424", "cache-max-size": "2k", "cache-max-file": "20"})
	s := New()
	write(t, w, 0, 10)
	s.Start(id, dir, files, sink)
	lines := make(chan string)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { c.Close() })
				go func() {
					for r := bufio.NewScanner(c); r.Scan(); {
						lines <- r.Text()
					}
				}()
			}
		}()
		return l
	}
	next := 0
	expect := func(to int) {
		t.Helper()
		for ; next < to; next++ {
			select {
			case got := <-lines:
				if !strings.HasSuffix(got, fmt.Sprintf(" - line %d", next)) {
					t.Fatalf("%q, want line %d", got, next)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("line %d does not come", next)
			}
		}
	}
	defer listen().Close()
	expect(10)
	write(t, w, 10, 100) // over several rotations, compressed
	expect(100)
	s.Close()
	write(t, w, 100, 200)
	s = New()
	s.Start(id, dir, files, sink)
	expect(200)
	write(t, w, 200, 210)
	s.Ended(id)
	expect(210)
	s.Finish(id)
	s.Close()
	s.Start(id, dir, files, sink)
	s.Ended(id)
	s.Finish(id)
	select {
	case got := <-lines:
		t.Errorf("%q was sent again", got)
	default:
	}
}

func entry(line string) *logs.Entry {
	return &logs.Entry{Stream: "stderr", Time: time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC), Line: []byte(line)}
}

func TestSyslogFormats(t *testing.T) {
	pid := os.Getpid()
	local := entry("").Time.Local()
	for format, want := range map[string]string{
		"":             fmt.Sprintf("<131>%s web[%d]: hi\n", local.Format(time.Stamp), pid),
		"rfc3164":      fmt.Sprintf("<131>%s host web[%d]: hi\n", local.Format(time.Stamp), pid),
		"rfc5424":      fmt.Sprintf("<131>1 %s host web %d web - hi\n", local.Format(time.RFC3339), pid),
		"rfc5424micro": fmt.Sprintf("<131>1 %s host web %d web - hi\n", local.Format("2006-01-02T15:04:05.000000Z07:00"), pid),
	} {
		_, _, sink, _ := setup(t, "syslog", map[string]string{"syslog-format": format, "syslog-facility": "local0", "tag": "{{.Name}}"})
		if got := string((&syslog{link: link{sink: sink}}).format(nil, entry("hi"))); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

func TestSyslogUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, sink, _ := setup(t, "syslog", map[string]string{"syslog-address": "unixgram://" + path})
	s := newSender(sink)
	defer s.close()
	if err := s.send(t.Context(), entry("hello")); err != nil {
		t.Fatal(err)
	}
	if got := string(receive(t, l)); !strings.HasSuffix(got, "]: hello\n") {
		t.Errorf("%q", got)
	}
}

func receive(t *testing.T, r net.Conn) []byte {
	t.Helper()
	buf := make([]byte, 64<<10)
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := r.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestGelf(t *testing.T) {
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, sink, _ := setup(t, "gelf", map[string]string{"gelf-address": "udp://" + l.LocalAddr().String(), "labels": "tier"})
	s := newSender(sink)
	defer s.close()
	for _, line := range []string{"hello", randomText(16 << 10)} {
		if err := s.send(t.Context(), entry(line)); err != nil {
			t.Fatal(err)
		}
		data := receive(t, l)
		if data[0] == 0x1e && data[1] == 0x0f {
			count := int(data[11])
			whole := data[12:]
			for i := 1; i < count; i++ {
				part := receive(t, l)
				if int(part[10]) != i || !bytes.Equal(part[2:10], data[2:10]) {
					t.Fatal("chunks are in disorder")
				}
				whole = append(bytes.Clone(whole), part[12:]...)
			}
			data = whole
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		if m["short_message"] != line || m["level"] != 3.0 || m["_tier"] != "front" || m["_container_name"] != "web" || m["timestamp"] != 1767323045.678 {
			t.Errorf("%.300s", text)
		}
	}
}

// randomText does not compress to one datagram.
func randomText(n int) string {
	var b strings.Builder
	x := uint32(1)
	for b.Len() < n {
		x = x*1664525 + 1013904223
		b.WriteByte(' ' + byte(x>>24)%90)
	}
	return b.String()
}

func TestFluentd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		_, chunk, _ := bytes.Cut(buf[:n], []byte("chunk"))
		c.Write(append([]byte{0x81, 0xa3, 'a', 'c', 'k'}, chunk...))
		got <- buf[:n]
	}()
	_, _, sink, _ := setup(t, "fluentd", map[string]string{"fluentd-address": l.Addr().String(), "fluentd-request-ack": "true", "fluentd-sub-second-precision": "true", "tag": "app"})
	s := newSender(sink)
	defer s.close()
	if err := s.send(t.Context(), entry("hello")); err != nil {
		t.Fatal(err)
	}
	want := "\x94\xa3app\xd7\x00" + "\x69\x57\x35\xa5" + "\x28\x77\x35\xf2" + "\x84\xaccontainer_id\xd9\x40" + strings.Repeat("c", 64) +
		"\xaecontainer_name\xa4/web\xa3log\xa5hello\xa6source\xa6stderr\x81\xa5chunk"
	if b := <-got; !bytes.HasPrefix(b, []byte(want)) {
		t.Errorf("%q,\nwant %q", b, want)
	}
}

func TestJournald(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, sink, _ := setup(t, "journald", map[string]string{"labels": "tier"})
	j := &journald{sink: sink, path: path}
	defer j.close()
	if err := j.send(t.Context(), entry("two\nlines")); err != nil {
		t.Fatal(err)
	}
	got := string(receive(t, l))
	for _, want := range []string{"MESSAGE\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n", "PRIORITY=3\n", "CONTAINER_NAME=web\n", "TIER=front\n", "CONTAINER_TAG=cccccccccccc\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
}
