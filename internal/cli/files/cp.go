package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// copier is one run of `cp`.
type copier struct {
	sh                     *shell.Shell
	follow, archive, quiet bool
	container              string
	source, destination    string // paths, one of them in the container
}

// NewCp is `cp`.
func NewCp(sh *shell.Shell) *cobra.Command {
	c := &copier{sh: sh}
	cmd := &cobra.Command{
		Use: "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\t" +
			sh.Name + " cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Long: `Copy files/folders between a container and the local filesystem

Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout.`,
		Args:        shell.ExactArgs(2),
		Annotations: shell.Aliases("container cp", "cp"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return errors.New("source can not be empty")
			}
			if args[1] == "" {
				return errors.New("destination can not be empty")
			}
			if !cmd.Flag("quiet").Changed {
				c.quiet = !sh.Out.IsTerminal()
			}
			return c.run(cmd.Context(), args[0], args[1])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&c.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&c.follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

// splitArgument cuts CONTAINER:PATH; a path that is absolute or begins with a
// dot is local whatever follows.
func splitArgument(arg string) (container, path string) {
	if filepath.IsAbs(arg) {
		return "", arg
	}
	container, path, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(container, ".") {
		return "", arg
	}
	return container, path
}

func (c *copier) run(ctx context.Context, from, to string) error {
	src, srcPath := splitArgument(from)
	dst, dstPath := splitArgument(to)
	c.source, c.destination = srcPath, dstPath
	switch {
	case src != "" && dst != "":
		return errors.New("copying between containers is not supported")
	case src != "":
		c.container = src
		return c.fromContainer(ctx)
	case dst != "":
		c.container = dst
		return c.toContainer(ctx)
	}
	return errors.New("must specify at least one container source")
}

func (c *copier) stat(ctx context.Context, p string) (client.ContainerStatPathResult, error) {
	api, err := c.sh.API()
	if err != nil {
		return client.ContainerStatPathResult{}, err
	}
	return api.ContainerStatPath(ctx, c.container, client.ContainerStatPathOptions{Path: p})
}

// linkTarget is where the link at p in the container leads.
func linkTarget(p, target string) string {
	if path.IsAbs(target) {
		return target
	}
	dir, _ := split(p)
	return path.Join(dir, target)
}

func (c *copier) fromContainer(ctx context.Context) (err error) {
	dst := c.destination
	if dst != "-" {
		if dst, err = localPath(dst); err != nil {
			return err
		}
		if err := checkOutput(dst); err != nil {
			return err
		}
	}
	src := place{path: c.source, exists: true}
	if c.follow {
		if st, err := c.stat(ctx, src.path); err == nil && st.Stat.Mode&os.ModeSymlink != 0 {
			src.path, src.rename = rebased(src.path, linkTarget(src.path, st.Stat.LinkTarget))
		}
	}
	api, err := c.sh.API()
	if err != nil {
		return err
	}
	r, err := api.CopyFromContainer(ctx, c.container, client.CopyFromContainerOptions{SourcePath: src.path})
	if err != nil {
		return err
	}
	defer r.Content.Close()
	if dst == "-" {
		_, err = io.Copy(c.sh.Out, r.Content)
		return err
	}
	src.dir = r.Stat.Mode.IsDir()
	place, err := localDestination(dst)
	if err != nil {
		return err
	}
	p, err := arrangeFrom(src, place)
	if err != nil {
		return err
	}
	m := c.meter("Copying from container - ")
	err = unpack(m.reader(r.Content), p)
	m.stop()
	if !c.quiet {
		size := m.n.Load()
		if !src.dir {
			size = r.Stat.Size
		}
		c.summary(size, m.n.Load(), dst)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, r.Content) // to the end, so that the engine has told everything
	}
	return err
}

// arrangeFrom is arrange for entries that carry the name of a followed link's
// target rather than the link's.
func arrangeFrom(src, dst place) (plan, error) {
	rename := src.rename
	src.rename = ""
	p, err := arrange(src, dst)
	if err == nil && p.from == "" && rename != "" {
		_, p.from = split(src.path)
		p.to = rename
	}
	return p, err
}

func (c *copier) toContainer(ctx context.Context) error {
	if err := c.sh.Negotiate(ctx); err != nil {
		return err
	}
	api, err := c.sh.API()
	if err != nil {
		return err
	}
	dst := place{path: c.destination}
	// Errors are left to the copy itself: only the parent need be there.
	if st, err := c.stat(ctx, dst.path); err == nil {
		if st.Stat.Mode&os.ModeSymlink != 0 {
			dst.path = linkTarget(dst.path, st.Stat.LinkTarget)
			st, err = c.stat(ctx, dst.path)
		}
		if err == nil {
			if err := checkMode(st.Stat.Mode); err != nil {
				return fmt.Errorf(`destination "%s:%s" must be a directory or a regular file: %w`, c.container, c.destination, err)
			}
			dst.exists, dst.dir = true, st.Stat.Mode.IsDir()
		}
	}
	o := client.CopyToContainerOptions{DestinationPath: dst.path, CopyUIDGID: c.archive}
	m := c.meter("Copying to container - ")
	size := int64(-1)
	if c.source == "-" {
		if !dst.dir {
			m.stop()
			return fmt.Errorf(`destination "%s:%s" must be a directory`, c.container, c.destination)
		}
		o.Content = m.reader(c.sh.In)
	} else {
		content, p, total, err := c.local(dst)
		if err != nil {
			m.stop()
			return err
		}
		defer content.Close()
		o.DestinationPath, o.Content, size = p.dir, m.reader(content), total
	}
	_, err = api.CopyToContainer(ctx, c.container, o)
	m.stop()
	if !c.quiet {
		if size < 0 {
			size = m.n.Load()
		}
		c.summary(size, m.n.Load(), c.container+":"+dst.path)
	}
	return err
}

// local opens the local source as a tar stream.
func (c *copier) local(dst place) (io.ReadCloser, plan, int64, error) {
	p, err := localPath(c.source)
	if err != nil {
		return nil, plan{}, 0, err
	}
	src, err := localSource(p, c.follow)
	if err != nil {
		return nil, plan{}, 0, err
	}
	how, err := arrange(src, dst)
	if err != nil {
		return nil, plan{}, 0, err
	}
	size, err := contentSize(src.path)
	if err != nil {
		size = -1
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(pack(w, src, how)) }()
	return r, how, size, nil
}

// contentSize sums the sizes of the regular files at p.
func contentSize(p string) (total int64, err error) {
	err = filepath.WalkDir(p, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			total += st.Size()
		}
		return err
	})
	return total, err
}

func human(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

func (c *copier) summary(size, moved int64, to string) {
	if size != moved {
		fmt.Fprintf(c.sh.Err, "Successfully copied %s (transferred %s) to %s\n", human(size), human(moved), to)
		return
	}
	fmt.Fprintf(c.sh.Err, "Successfully copied %s to %s\n", human(size), to)
}

// meter counts what is copied and shows it on a terminal.
type meter struct {
	n    atomic.Int64
	quit chan struct{}
	done chan struct{}
}

// step is how often the number on the terminal changes.
const step = 75 * time.Millisecond

func (c *copier) meter(head string) *meter {
	m := &meter{quit: make(chan struct{}), done: make(chan struct{})}
	if c.quiet || !c.sh.Err.IsTerminal() {
		close(m.done)
		return m
	}
	go func() {
		defer close(m.done)
		t := time.NewTicker(step)
		defer t.Stop()
		for {
			fmt.Fprintf(c.sh.Err, "\r\x1b[2K%s%s", head, human(m.n.Load()))
			select {
			case <-m.quit:
				fmt.Fprint(c.sh.Err, "\r\x1b[2K")
				return
			case <-t.C:
			}
		}
	}()
	return m
}

func (m *meter) stop() {
	close(m.quit)
	<-m.done
}

func (m *meter) reader(r io.Reader) io.Reader { return &counted{r, &m.n} }

type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
