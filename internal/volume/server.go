package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// File systems of a server: the kernel mounts them itself, and takes addresses
// and passwords where the programs mount.nfs and mount.cifs take names and files.

func isCIFS(kind string) bool { return kind == "cifs" || kind == "smb3" }

func onServer(kind string) bool { return kind == "nfs" || kind == "nfs4" || isCIFS(kind) }

// fromServer gives the device and the options of o= as the kernel takes them.
func fromServer(ctx context.Context, kind, device string, options []string) (string, []string, error) {
	if isCIFS(kind) {
		var err error
		if options, err = credentials(joinCommas(options)); err != nil {
			return "", nil, err
		}
	}
	return resolveServer(ctx, kind, device, options)
}

func isPassword(option string) bool {
	key, value, _ := strings.Cut(option, "=")
	return value != "" && slices.Contains([]string{"password", "password2", "pass"}, key)
}

// joinCommas undoes a split at the two commas that stand for one in a password.
func joinCommas(options []string) (joined []string) {
	for i := 0; i < len(options); i++ {
		o := options[i]
		for isPassword(o) && i+2 < len(options) && options[i+1] == "" {
			o += "," + options[i+2]
			i += 2
		}
		joined = append(joined, o)
	}
	return joined
}

// maxCredentials is the size in bytes from which a file of credentials is none.
const maxCredentials = 16 << 10

// credentials replaces credentials=FILE, which the kernel takes and ignores, by
// what the file of the host says. Options that stand beside it win, as they do
// with mount.cifs.
func credentials(options []string) ([]string, error) {
	var out, read []string
	for _, o := range options {
		key, file, _ := strings.Cut(o, "=")
		if key != "credentials" && key != "cred" {
			out = append(out, o)
			continue
		}
		text, err := readCredentials(file)
		if err != nil {
			return nil, fmt.Errorf("failed to mount local volume: option %s: %w", o, err)
		}
		for n, line := range strings.Split(text, "\n") {
			key, value, ok := strings.Cut(strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t"), "=")
			switch key = strings.TrimSpace(key); {
			case key == "" && !ok, strings.HasPrefix(key, "#"):
			case ok && slices.Contains([]string{"username", "user", "password", "password2", "pass", "domain", "dom", "workgroup"}, key):
				read = append(read, key+"="+value)
			default:
				// Not the line itself: it may be a password.
				return nil, fmt.Errorf("failed to mount local volume: option %s: line %d is none of username=, password= and domain=", o, n+1)
			}
		}
	}
	return append(read, out...), nil
}

func readCredentials(file string) (string, error) {
	if !strings.HasPrefix(file, "/") {
		return "", errors.New("expected the absolute path of a file")
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", errors.Join(errors.New("it is not a file"), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCredentials+1))
	if err == nil && len(text) > maxCredentials {
		err = fmt.Errorf("it has more than %d bytes", maxCredentials)
	}
	return string(text), err
}

// resolveServer turns the name of a file server into its address, for the
// kernel takes nothing else.
func resolveServer(ctx context.Context, kind, device string, options []string) (string, []string, error) {
	for i, o := range options {
		name, ok := strings.CutPrefix(o, "addr=")
		if !ok || name == "" {
			continue
		}
		address, err := lookup(ctx, name)
		options = slices.Clone(options)
		options[i] = "addr=" + address
		return device, options, err
	}
	if !isCIFS(kind) {
		return device, options, nil
	}
	u, err := url.Parse(device)
	if err != nil {
		return "", nil, fmt.Errorf("error parsing mount device url: %w", err)
	}
	if u.Host == "" {
		return device, options, nil
	}
	address, err := lookup(ctx, u.Hostname()) // without the brackets of an IPv6 address
	return strings.Replace(device, u.Host, address, 1), options, err
}

func lookup(ctx context.Context, name string) (string, error) {
	if net.ParseIP(name) != nil {
		return name, nil
	}
	list, err := net.DefaultResolver.LookupIPAddr(ctx, name)
	if err != nil {
		return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
	}
	for _, a := range list {
		if a.IP.To4() != nil {
			return a.String(), nil // first, as with dockerd
		}
	}
	return list[0].String(), nil
}

// explained adds to the errno of a share what it means there.
func explained(kind string, err error) error {
	if !isCIFS(kind) {
		return err
	}
	for errno, meaning := range map[unix.Errno]string{
		unix.EACCES:     "the server refuses this user name, password or share",
		unix.ENOENT:     "the server has no such share or directory",
		unix.EHOSTDOWN:  "the server does not answer, or does not speak this version; vers= says which",
		unix.EOPNOTSUPP: "the server does not speak this version; vers= says which",
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w (%s)", err, meaning)
		}
	}
	return err
}

// withoutPassword keeps what the user is told free of what nobody should read.
func withoutPassword(err error, options []string) error {
	for _, o := range options {
		// Only as the whole option: a short password is part of many words.
		if isPassword(o) && strings.Contains(err.Error(), o) {
			key, _, _ := strings.Cut(o, "=")
			err = errors.New(strings.ReplaceAll(err.Error(), o, key+"=********"))
		}
	}
	return err
}
