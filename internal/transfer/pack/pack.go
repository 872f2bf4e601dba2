// Package pack owns how layers that are plain here are compressed on their way
// to a registry: as a stream, of which two chunks are in memory, and to the
// same bytes each time. What a layer became is remembered in labels of its
// plain blob and ends with it:
//
//	wherry.push.gzip            <digest> <size>
//	wherry.push.gzip.in.<host>  <digest> <repository>[,<repository>…]
package pack

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Form is what plain layers are made into.
type Form string

// The forms.
const (
	Gzip Form = "gzip"
	Zstd Form = "zstd"
	None Form = "none"
)

// gzipBlock is how much a processor compresses at a time, in bytes: what comes
// out depends on it, and the memory that is taken.
const gzipBlock = 256 << 10

// maxProcs bounds that memory where there are many processors.
const maxProcs = 8

// dockerLayer is docker's media type of a layer, without its compression.
const dockerLayer = "application/vnd.docker.image.rootfs.diff.tar"

// MediaType is that of a layer of a media type once it has the form; not ok
// for what stays as it is: no layer, or one that is not to be distributed.
func (f Form) MediaType(of string) (string, bool) {
	switch of {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd:
		return ocispec.MediaTypeImageLayer + "+" + string(f), f != None
	case dockerLayer, dockerLayer + ".gzip", dockerLayer + ".zstd":
		return dockerLayer + "." + string(f), f != None
	}
	return "", false
}

// writer returns the compressor; its output depends on its input alone, not on
// how it comes or how many processors there are.
func (f Form) writer(w io.Writer) (io.WriteCloser, error) {
	switch f {
	case Gzip:
		z := pgzip.NewWriter(w)
		return z, z.SetConcurrency(gzipBlock, min(runtime.GOMAXPROCS(0), maxProcs))
	case Zstd:
		return zstd.NewWriter(w)
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown compression %q", f))
}

const label = "wherry.push."

// maxIn bounds how many repositories of a registry are remembered.
const maxIn = 8

// Recall reads from the labels of a plain blob what it became in a form, and
// in which repositories of a host that is.
func (f Form) Recall(labels map[string]string, host string) (d ocispec.Descriptor, in []string, ok bool) {
	sum, size, _ := strings.Cut(labels[label+string(f)], " ")
	n, err := strconv.ParseInt(size, 10, 64)
	d = ocispec.Descriptor{Digest: digest.Digest(sum), Size: n}
	if err != nil || d.Digest.Validate() != nil {
		return ocispec.Descriptor{}, nil, false
	}
	if was, list, _ := strings.Cut(labels[label+string(f)+".in."+host], " "); was == sum && list != "" {
		in = strings.Split(list, ",")
	}
	return d, in, true
}

// Remember returns the labels that say it, with one more repository.
func (f Form) Remember(labels map[string]string, host, repository string, d ocispec.Descriptor) map[string]string {
	was, in, _ := f.Recall(labels, host)
	if was.Digest != d.Digest {
		in = nil
	}
	if !slices.Contains(in, repository) {
		in = append(in, repository)
	}
	if len(in) > maxIn {
		in = in[1:]
	}
	return map[string]string{
		label + string(f):                 fmt.Sprintf("%s %d", d.Digest, d.Size),
		label + string(f) + ".in." + host: d.Digest.String() + " " + strings.Join(in, ","),
	}
}
