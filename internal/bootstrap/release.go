package bootstrap

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/wherry-engine/wherry/internal/archive"
	"github.com/wherry-engine/wherry/internal/transfer/fetch"
)

// keyring holds the keys that sign Debian's archive, where a host has them.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Bounds on what a mirror sends.
const (
	maxRelease  = 4 << 20
	maxPackages = 512 << 20
	maxDeb      = 512 << 20
)

// file is what a Release says of one of the mirror's files.
type file struct {
	sha256 string
	size   int64
}

// release is a suite's table of contents.
type release struct {
	fields map[string]string
	files  map[string]file // path below dists/SUITE
}

// openRelease gets a suite's Release file. Its signature must be one of the
// keys' (openpgp form); without keys, warn is told that nobody checked it.
func openRelease(ctx context.Context, mirror, suite string, keys []byte, warn func(string)) (*release, error) {
	at := mirror + "/dists/" + suite + "/InRelease"
	b, err := get(ctx, at, maxRelease)
	if err != nil {
		return nil, err
	}
	block, _ := clearsign.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not a signed document", at)
	}
	if keys == nil {
		warn(fmt.Sprintf("WARNING: this host has no %s (package debian-archive-keyring): the signature of %s was NOT checked", keyring, at))
	} else {
		ring, err := openpgp.ReadKeyRing(bytes.NewReader(keys))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keyring, err)
		}
		if _, err := openpgp.CheckDetachedSignature(ring, bytes.NewReader(block.Bytes), block.ArmoredSignature.Body, nil); err != nil {
			return nil, fmt.Errorf("%s: signature: %w (keys: %s)", at, err, keyring)
		}
	}
	r, err := parseRelease(block.Plaintext)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if suite != r.fields["Codename"] && suite != r.fields["Suite"] {
		return nil, fmt.Errorf("%s is about %s (%s), not %s", at, r.fields["Codename"], r.fields["Suite"], suite)
	}
	if text := r.fields["Valid-Until"]; text != "" {
		if end, err := time.Parse("Mon, 2 Jan 2006 15:04:05 MST", text); err != nil || time.Now().After(end) {
			return nil, fmt.Errorf("%s was valid until %s", at, text)
		}
	}
	return r, nil
}

// hostKeys reads the host's keyring; nil without an error: it has none.
func hostKeys() ([]byte, error) {
	b, err := os.ReadFile(keyring)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func parseRelease(b []byte) (*release, error) {
	r := &release{fields: map[string]string{}, files: map[string]file{}}
	key := ""
	for _, line := range strings.Split(string(b), "\n") {
		line = strings.TrimRight(line, "\r")
		if strings.HasPrefix(line, " ") {
			if f := strings.Fields(line); key == "SHA256" && len(f) == 3 {
				n, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					return nil, fmt.Errorf("size of %s: %w", f[2], err)
				}
				r.files[f[2]] = file{f[0], n}
			}
			continue
		}
		var value string
		key, value, _ = strings.Cut(line, ":")
		r.fields[key] = strings.TrimSpace(value)
	}
	if len(r.files) == 0 {
		return nil, errors.New("no SHA256 sums")
	}
	return r, nil
}

// packages gets and reads the list of the main component's packages.
func (r *release) packages(ctx context.Context, mirror, suite, arch string) (*index, error) {
	for _, ext := range []string{".xz", ".gz", ""} {
		path := "main/binary-" + arch + "/Packages" + ext
		f, ok := r.files[path]
		if !ok {
			continue
		}
		at := mirror + "/dists/" + suite + "/" + path
		b, err := get(ctx, at, maxPackages)
		if err != nil {
			return nil, err
		}
		if err := f.check(at, b); err != nil {
			return nil, err
		}
		plain, _, err := archive.Decompress(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		defer plain.Close()
		x, err := parsePackages(bufio.NewReader(io.LimitReader(plain, maxPackages)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		return x, nil
	}
	return nil, fmt.Errorf("%s has no packages for %s", suite, arch)
}

func (f file) check(at string, b []byte) error {
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); int64(len(b)) != f.size || got != f.sha256 {
		return fmt.Errorf("%s has %d bytes with SHA256 %s, expected %d with %s", at, len(b), got, f.size, f.sha256)
	}
	return nil
}

// get downloads a file of at most limit bytes; it tries again twice.
func get(ctx context.Context, at string, limit int64) (b []byte, err error) {
	for range 3 {
		var r io.ReadCloser
		if r, _, err = fetch.Open(ctx, at); err != nil {
			if ctx.Err() != nil || strings.Contains(err.Error(), "with status 4") {
				return nil, err
			}
			continue
		}
		b, err = io.ReadAll(io.LimitReader(r, limit+1))
		r.Close()
		if err == nil && int64(len(b)) > limit {
			return nil, fmt.Errorf("%s has more than %d bytes", at, limit)
		}
		if err == nil {
			return b, nil
		}
		err = fmt.Errorf("%s: %w", at, err)
	}
	return nil, err
}
