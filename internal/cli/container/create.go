package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/wherry-engine/wherry/internal/cli/image"
	"github.com/wherry-engine/wherry/internal/cli/runopts"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// createFlags are the flags of run and create that are about making the
// container rather than about the container.
type createFlags struct {
	name      string
	platform  string
	pull      string
	quiet     bool
	apiSocket bool
	untrusted bool
}

func (c *createFlags) add(f *pflag.FlagSet) {
	f.StringVar(&c.name, "name", "", "Name for the container")
	f.StringVar(&c.pull, "pull", "missing", `Pull the image first ("always", "missing", "never")`)
	f.BoolVarP(&c.quiet, "quiet", "q", false, "Do not show the progress of a pull")
	f.StringVar(&c.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Platform, if the engine can run several")
	f.BoolVar(&c.apiSocket, "use-api-socket", false, "Give the container the engine's API socket and logins")
	f.BoolVar(&c.untrusted, "disable-content-trust", true, "Skip image verification")
	f.Bool("help", false, "Print usage") // takes -h away from help: it is --hostname here
}

// check refuses what can be refused before anything is sent.
func (c *createFlags) check() error {
	switch c.pull {
	case "always", "missing", "never", "":
	default:
		return fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", c.pull, "always", "missing", "never")
	}
	if !c.untrusted {
		return errors.New("content trust is not supported by this client")
	}
	return nil
}

// NewCreate is `create`.
func NewCreate(sh *shell.Shell) *cobra.Command {
	var c createFlags
	var o *runopts.Options
	cmd := &cobra.Command{
		Use:         "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:       "Create a new container",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container create", "create"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := runopts.Supported(cmd.Flags()); err != nil {
				return err
			}
			o.Image, o.Args = args[0], args[1:]
			if err := c.check(); err != nil {
				return sh.WithHelp(err, "create", 125)
			}
			if err := proxyEnv(sh, o); err != nil {
				return err
			}
			spec, err := o.Parse(cmd.Flags())
			if err != nil {
				return sh.WithHelp(err, "create", 125)
			}
			id, err := create(cmd.Context(), sh, spec, &c)
			if err != nil {
				return err
			}
			sh.Println(id)
			return nil
		},
		ValidArgsFunction: shell.Complete(sh, 1, image.Names),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	c.add(f)
	o = runopts.AddFlags(f)
	completeRunFlags(sh, cmd)
	return cmd
}

// proxyEnv adds the proxies of config.json in front of what the user set.
func proxyEnv(sh *shell.Shell, o *runopts.Options) error {
	if len(sh.Config().Proxies) == 0 {
		return nil
	}
	api, err := sh.API()
	if err != nil {
		return err
	}
	set := o.Env.GetSlice()
	for _, e := range sh.Config().ProxyEnv(api.DaemonHost(), set) {
		if err := o.Env.Set(e); err != nil {
			return err
		}
	}
	return nil
}

// create makes the container, pulling its image when the engine has none and
// the user did not forbid it, and returns its id.
func create(ctx context.Context, sh *shell.Shell, spec *runopts.Container, c *createFlags) (string, error) {
	var platform *ocispec.Platform
	if c.platform != "" {
		p, err := platforms.Parse(c.platform)
		if err != nil {
			return "", fmt.Errorf("error parsing specified platform: %w", err)
		}
		platform = &p
	}
	cid, err := newCIDFile(spec.Host.ContainerIDFile)
	if err != nil {
		return "", err
	}
	defer cid.abandon(sh)
	ref, err := reference.ParseAnyReference(spec.Config.Image)
	if err != nil {
		return "", err
	}
	api, err := sh.API()
	if err != nil {
		return "", err
	}
	var logins []byte
	if c.apiSocket {
		if logins, err = giveSocket(ctx, sh, api, spec); err != nil {
			return "", err
		}
	}
	pull := func() error {
		return image.PullTo(ctx, sh, spec.Config.Image, platform, c.quiet, sh.Err)
	}
	if c.pull == "always" {
		if err := pull(); err != nil {
			return "", err
		}
	}
	spec.Host.ConsoleSize[0], spec.Host.ConsoleSize[1] = sh.Out.Size()
	req := client.ContainerCreateOptions{
		Name: c.name, Platform: platform,
		Config: spec.Config, HostConfig: spec.Host, NetworkingConfig: spec.Networking,
	}
	res, err := api.ContainerCreate(ctx, req)
	if named, ok := ref.(reference.Named); ok && errdefs.IsNotFound(err) && c.pull == "missing" {
		if !c.quiet {
			fmt.Fprintf(sh.Err, "Unable to find image '%s' locally\n", reference.FamiliarString(reference.TagNameOnly(named)))
		}
		if err := pull(); err != nil {
			return "", err
		}
		res, err = api.ContainerCreate(ctx, req)
	}
	if err != nil {
		return "", err
	}
	if logins != nil {
		if err := putLogins(ctx, api, res.ID, logins); err != nil {
			_, _ = api.ContainerRemove(ctx, res.ID, client.ContainerRemoveOptions{Force: true}) // the first error tells more
			return "", err
		}
	}
	sh.Warn(res.Warnings)
	for _, a := range spec.LocalDNS() {
		sh.Warn([]string{"Localhost DNS (" + a + ") may fail in containers."})
	}
	return res.ID, cid.write(res.ID)
}

// cidFile is made before the container, so that two runs cannot share it, and
// removed again if there is no container in the end.
type cidFile struct {
	f       *os.File
	written bool
}

func newCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return &cidFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, os.ErrExist) {
		return nil, errors.New("container ID file found, make sure the other container isn't running or delete " + path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{f: f}, nil
}

func (c *cidFile) write(id string) error {
	if c.f == nil {
		return nil
	}
	if _, err := c.f.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.written = true
	return nil
}

func (c *cidFile) abandon(sh *shell.Shell) {
	if c.f == nil {
		return
	}
	_ = c.f.Close() // written with one call, nothing is buffered
	if !c.written {
		if err := os.Remove(c.f.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(sh.Err, "failed to remove the CID file:", err)
		}
	}
}
