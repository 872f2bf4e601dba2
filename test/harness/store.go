package harness

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Chance is randomness that can be had again: the seed is printed, and
// WHERRY_SEED sets it.
func Chance(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("WHERRY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal("WHERRY_SEED: ", err)
		}
	}
	t.Logf("WHERRY_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Noise is content that nothing compresses, the same for the same seed.
func Noise(seed byte, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b) //nolint:errcheck // it has none
	return b
}

// CheckArchive reads what `save` gave and checks the digest of each blob in it;
// the answer of API lacks the zeros at the end.
func CheckArchive(archive []byte) (blobs int, err error) {
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && blobs > 0 {
			return blobs, nil
		}
		if err != nil {
			return blobs, err
		}
		want, ok := strings.CutPrefix(h.Name, "blobs/sha256/")
		if !ok || want == "" {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return blobs, err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != want {
			return blobs, fmt.Errorf("blob %s has the digest %s", want, got)
		}
		blobs++
	}
}

// CheckImages checks the digests of all that the listed images consist of, and
// returns how many there are.
func (c Client) CheckImages() (int, error) {
	var list []struct {
		ID       string `json:"Id"`
		RepoTags []string
	}
	if err := c.GetJSON("/images/json?all=1", &list); err != nil {
		return 0, err
	}
	var errs []error
	for _, one := range list {
		code, body, err := c.API("GET", "/images/"+one.ID+"/get", nil)
		if err == nil && code != 200 {
			err = fmt.Errorf("%d %s", code, body)
		}
		blobs := 0
		if err == nil {
			blobs, err = CheckArchive(body)
		}
		if err == nil && blobs < 3 {
			err = fmt.Errorf("only %d blobs", blobs)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("image %s %v: %w", one.ID, one.RepoTags, err))
		}
	}
	return len(list), errors.Join(errs...)
}

// StoreFiles lists what a stopped or idle engine keeps of images and builds,
// with sizes: the files in its data root, but for the databases, which do not
// shrink, and for records of the engine itself.
func (e *footprint) StoreFiles() (map[string]int64, error) {
	out := map[string]int64{}
	for _, dir := range []string{"content", "layers", "build"} {
		err := filepath.WalkDir(filepath.Join(e.DataRoot(), dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the background removed it
			}
			if err != nil {
				return err
			}
			if info, err := d.Info(); err == nil && d.Type().IsRegular() && filepath.Ext(path) != ".db" {
				out[strings.TrimPrefix(path, e.DataRoot())] = info.Size()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
