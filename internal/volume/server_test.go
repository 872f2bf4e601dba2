package volume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWithoutPassword(t *testing.T) {
	for options, want := range map[string]string{
		"user=a,password=p":      "mount cifs: option password=********: modprobe pass=secret",
		"pass=secret,password=p": "mount cifs: option password=********: modprobe pass=********",
		"password=":              "mount cifs: option password=p: modprobe pass=secret",
	} {
		if err := withoutPassword(errors.New("mount cifs: option password=p: modprobe pass=secret"), strings.Split(options, ",")); err.Error() != want {
			t.Errorf("%s: %v", options, err)
		}
	}
}

func TestFromServer(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", "# who\nusername=me\r\n  password=a=b,c \n\ndomain=d")
	bad, long := write("bad", "username=me\nsecret\n"), write("long", strings.Repeat("\n", maxCredentials+1))
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind, device, options string
		wantDevice            string
		want                  []string
		failure               string
	}{
		{"cifs", "//127.0.0.1/s", "user=a,password=b", "//127.0.0.1/s", []string{"user=a", "password=b"}, ""},
		{"cifs", "//localhost/s/localhost", "", "//127.0.0.1/s/localhost", []string{""}, ""},
		{"smb3", "//[::1]/s", "", "//::1/s", []string{""}, ""},
		{"cifs", "//no.such.host.invalid/s", "addr=127.0.0.1", "//no.such.host.invalid/s", []string{"addr=127.0.0.1"}, ""},
		{"cifs", "//name/s", "uid=1,addr=localhost", "//name/s", []string{"uid=1", "addr=127.0.0.1"}, ""},
		{"cifs", "//no.such.host.invalid/s", "", "", nil, "error resolving passed in network volume address: "},
		{"nfs", ":/e", "addr=no.such.host.invalid", "", nil, "error resolving passed in network volume address: "},
		{"nfs", ":/e", "addr=localhost,,vers=4", ":/e", []string{"addr=127.0.0.1", "", "vers=4"}, ""},
		{"cifs", "//127.0.0.1/s", "password=a,,b,,,,c,uid=1,,gid=2", "//127.0.0.1/s", []string{"password=a,b,,c", "uid=1", "", "gid=2"}, ""},
		{"cifs", "//127.0.0.1/s", "ro,credentials=" + good, "//127.0.0.1/s", []string{"username=me", "password=a=b,c ", "domain=d", "ro"}, ""},
		{"cifs", "//127.0.0.1/s", "cred=" + bad, "", nil, "line 2 is none of username=, password= and domain="},
		{"cifs", "//127.0.0.1/s", "cred=" + long, "", nil, "it has more than 16384 bytes"},
		{"cifs", "//127.0.0.1/s", "cred=" + fifo, "", nil, "it is not a file"},
		{"cifs", "//127.0.0.1/s", "cred=" + dir, "", nil, "it is not a file"},
		{"cifs", "//127.0.0.1/s", "credentials=x", "", nil, "option credentials=x: expected the absolute path of a file"},
		{"cifs", "//127.0.0.1/s", "credentials=/no/such", "", nil, "failed to mount local volume: option credentials=/no/such: open /no/such: no such file or directory"},
	} {
		device, options, err := fromServer(t.Context(), c.kind, c.device, strings.Split(c.options, ","))
		switch {
		case c.failure != "":
			if err == nil || !strings.Contains(err.Error(), c.failure) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s %s: %v", c.device, c.options, err)
			}
		case err != nil || device != c.wantDevice || !slices.Equal(options, c.want):
			t.Errorf("%s %s: %s %q, %v", c.device, c.options, device, options, err)
		}
	}
}

func TestShareExplained(t *testing.T) {
	if err := explained("cifs", unix.EACCES); !errors.Is(err, unix.EACCES) || err.Error() != "permission denied (the server refuses this user name, password or share)" {
		t.Error(err)
	}
	for kind, err := range map[string]error{"ext4": unix.EACCES, "cifs": unix.EINVAL} {
		if got := explained(kind, err); got != err { //nolint:errorlint // it is the same
			t.Error(got)
		}
	}
}
