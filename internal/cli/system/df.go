package system

import (
	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// NewDf is `system df`.
func NewDf(sh *shell.Shell) *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show what uses the engine's disk",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, err := api.DiskUsage(cmd.Context(), client.DiskUsageOptions{Verbose: verbose})
			if err != nil {
				return err
			}
			if format == "" {
				format = formatter.TableFormatKey
			}
			c := formatter.DiskUsageContext{
				Context: formatter.Context{Output: sh.Out, Format: formatter.NewDiskUsageFormat(format, verbose)}, Verbose: verbose,
				ImageDiskUsage: r.Images, BuildCacheDiskUsage: r.BuildCache, ContainerDiskUsage: r.Containers, VolumeDiskUsage: r.Volumes,
			}
			return c.Write()
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.BoolVarP(&verbose, "verbose", "v", false, "Every image, container and volume")
	f.StringVar(&format, "format", "", show.FormatHelp)
	return cmd
}
