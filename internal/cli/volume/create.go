package volume

import (
	"errors"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewCreate is `volume create`.
func NewCreate(sh *shell.Shell) *cobra.Command {
	var o client.VolumeCreateOptions
	options, labels := opts.NewMapOpts(nil, nil), opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Args:  shell.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if o.Name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				o.Name = args[0]
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			o.DriverOpts, o.Labels = options.GetAll(), opts.ConvertKVStringsToMap(labels.GetSlice())
			r, err := api.VolumeCreate(cmd.Context(), o)
			if err != nil {
				return err
			}
			sh.Println(r.Volume.Name)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVarP(&o.Driver, "driver", "d", "local", "Volume driver")
	f.StringVar(&o.Name, "name", "", "Name of the volume")
	f.Lookup("name").Hidden = true
	f.VarP(options, "opt", "o", "Driver option, as in type=tmpfs")
	f.Var(&labels, "label", "Metadata of the volume")
	_ = cmd.RegisterFlagCompletionFunc("driver", shell.Complete(sh, 0, Drivers))
	return cmd
}
