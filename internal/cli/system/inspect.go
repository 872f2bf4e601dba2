package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/container"
	"github.com/wherry-engine/wherry/internal/cli/image"
	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// kind is one type of object that `inspect` can find.
type kind struct {
	name string
	get  func(ctx context.Context, api client.APIClient, ref string, size bool) (any, []byte, error)
	// sized kinds know --size.
	sized bool
	// swarm kinds are tried without --type only on a swarm manager.
	swarm bool
}

func kinds() []kind {
	return []kind{
		{name: "container", sized: true, get: func(ctx context.Context, api client.APIClient, ref string, size bool) (any, []byte, error) {
			r, err := api.ContainerInspect(ctx, ref, client.ContainerInspectOptions{Size: size})
			return r.Container, r.Raw, err
		}},
		{name: "image", get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			var raw bytes.Buffer
			r, err := api.ImageInspect(ctx, ref, client.ImageInspectWithRawResponse(&raw))
			return r.InspectResponse, raw.Bytes(), err
		}},
		{name: "network", get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.NetworkInspect(ctx, ref, client.NetworkInspectOptions{})
			return r.Network, r.Raw, err
		}},
		{name: "volume", get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.VolumeInspect(ctx, ref, client.VolumeInspectOptions{})
			return r.Volume, r.Raw, err
		}},
		{name: "service", swarm: true, get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.ServiceInspect(ctx, ref, client.ServiceInspectOptions{})
			return r.Service, r.Raw, err
		}},
		{name: "task", swarm: true, get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.TaskInspect(ctx, ref, client.TaskInspectOptions{})
			return r.Task, r.Raw, err
		}},
		{name: "node", swarm: true, get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.NodeInspect(ctx, ref, client.NodeInspectOptions{})
			return r.Node, r.Raw, err
		}},
		{name: "plugin", get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.PluginInspect(ctx, ref, client.PluginInspectOptions{})
			return r.Plugin, r.Raw, err
		}},
		{name: "secret", swarm: true, get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.SecretInspect(ctx, ref, client.SecretInspectOptions{})
			return r.Secret, r.Raw, err
		}},
		{name: "config", swarm: true, get: func(ctx context.Context, api client.APIClient, ref string, _ bool) (any, []byte, error) {
			r, err := api.ConfigInspect(ctx, ref, client.ConfigInspectOptions{})
			return r.Config, r.Raw, err
		}},
	}
}

// NewInspect is `inspect`: whatever has that name.
func NewInspect(sh *shell.Shell) *cobra.Command {
	var format, typ string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Return low-level information on objects of any type",
		Args:  shell.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkType(typ, cmd.Flags().Changed("type")); err != nil {
				return err
			}
			f := finder{sh: sh, typ: typ, size: size}
			return show.Inspect(sh.Out, args, format, func(ref string) (any, []byte, error) {
				return f.find(cmd.Context(), ref)
			})
		},
		ValidArgsFunction: shell.Complete(sh, 0, func(ctx context.Context, api client.APIClient) ([]string, error) {
			c, err := container.Names(ctx, api)
			if err != nil {
				return nil, err
			}
			i, err := image.Names(ctx, api)
			return append(c, i...), err
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", show.InspectHelp)
	f.StringVar(&typ, "type", "", "Only objects of this type")
	f.BoolVarP(&size, "size", "s", false, "Display total file sizes of containers")
	return cmd
}

func checkType(typ string, given bool) error {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	slices.Sort(names)
	list := `"` + strings.Join(names, `", "`) + `"`
	switch {
	case given && typ == "":
		return errors.New("type is empty: must be one of " + list)
	case typ != "" && !slices.Contains(names, typ):
		return fmt.Errorf("unknown type: %q: must be one of %s", typ, list)
	}
	return nil
}

type finder struct {
	sh      *shell.Shell
	typ     string
	size    bool
	manager *bool // asked once, and only if nothing else was found
}

func (f *finder) find(ctx context.Context, ref string) (any, []byte, error) {
	api, err := f.sh.API()
	if err != nil {
		return nil, nil, err
	}
	for _, k := range kinds() {
		if f.typ != "" && k.name != f.typ || f.typ == "" && k.swarm && !f.isManager(ctx, api) {
			continue
		}
		v, raw, err := k.get(ctx, api, ref, f.size)
		if err != nil {
			if f.typ == "" && notThisKind(err) {
				continue
			}
			return nil, nil, err
		}
		if f.size && !k.sized {
			fmt.Fprintln(f.sh.Err, "WARNING: --size ignored for", k.name)
		}
		return v, raw, nil
	}
	return nil, nil, fmt.Errorf("Error: No such object: %s", ref)
}

// notThisKind says whether the next type may be tried: nothing has that name,
// it cannot be a name of that type, or the engine has no such objects.
func notThisKind(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) ||
		strings.Contains(err.Error(), "not supported") ||
		strings.Contains(err.Error(), "invalid reference format")
}

func (f *finder) isManager(ctx context.Context, api client.APIClient) bool {
	if f.manager == nil {
		r, err := api.Info(ctx, client.InfoOptions{})
		if err != nil {
			fmt.Fprintln(f.sh.Err, err)
		}
		m := err == nil && r.Info.Swarm.ControlAvailable
		f.manager = &m
	}
	return *f.manager
}
