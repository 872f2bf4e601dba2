package container

import (
	"errors"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	wherry "github.com/wherry-engine/wherry/client"
	"github.com/wherry-engine/wherry/internal/cli/shell"
)

// NewUpdate is `update`.
func NewUpdate(sh *shell.Shell) *cobra.Command {
	var (
		r                              container.Resources
		memory, reservation, kernelMem opts.MemBytes
		swap                           opts.MemSwapBytes
		cpus                           opts.NanoCPUs
		pids                           int64
		restart                        string
		live                           liveUpdate
	)
	cmd := &cobra.Command{
		Use:         "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short:       "Update configuration of one or more containers",
		Args:        shell.MinArgs(1),
		Annotations: shell.Aliases("container update", "update"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			var policy container.RestartPolicy
			if restart != "" {
				p, err := opts.ParseRestartPolicy(restart)
				if err != nil {
					return err
				}
				policy = p
			}
			if pids != 0 {
				r.PidsLimit = &pids
			}
			r.Memory, r.MemoryReservation = memory.Value(), reservation.Value()
			r.MemorySwap, r.NanoCPUs = swap.Value(), cpus.Value()
			var warnings []string
			api, err := sh.API()
			if err != nil {
				return err
			}
			change, err := live.update()
			if err != nil {
				return err
			}
			err = shell.Each(args, func(name string) error {
				if change != nil {
					if _, err := wherry.NetworkUpdate(cmd.Context(), api, name, *change); err != nil {
						return err
					}
				}
				if live.alone(cmd.Flags()) {
					sh.Println(name)
					return nil
				}
				res, err := api.ContainerUpdate(cmd.Context(), name, client.ContainerUpdateOptions{Resources: &r, RestartPolicy: &policy})
				if err != nil {
					return err
				}
				sh.Println(name)
				warnings = append(warnings, res.Warnings...)
				return nil
			})
			for _, w := range warnings {
				sh.Println(w)
			}
			return err
		},
		ValidArgsFunction: shell.Complete(sh, 0, all),
	}
	f := cmd.Flags()
	f.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block IO weight, 10 to 1000, or 0 for none (default 0)")
	f.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Period of the CPU CFS limit")
	f.Int64Var(&r.CPUQuota, "cpu-quota", 0, "Quota of the CPU CFS limit")
	f.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Real-time CPU period in microseconds")
	f.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Real-time CPU runtime in microseconds")
	f.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	f.Var(&cpus, "cpus", "Number of CPUs")
	f.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs that may be used (0-3, 0,1)")
	f.StringVar(&r.CpusetMems, "cpuset-mems", "", "Memory nodes that may be used (0-3, 0,1)")
	f.VarP(&memory, "memory", "m", "Memory limit")
	f.Var(&reservation, "memory-reservation", "Memory soft limit")
	f.Var(&swap, "memory-swap", "Limit of memory and swap together, -1 for unlimited swap")
	f.Var(&kernelMem, "kernel-memory", "Kernel memory limit")
	_ = f.MarkDeprecated("kernel-memory", "and no longer supported by the kernel")
	f.Int64Var(&pids, "pids-limit", 0, "Limit on the number of processes (-1 for unlimited)")
	f.StringVar(&restart, "restart", "", "Restart policy for when the container exits")
	live.flags(cmd)
	completeLive(sh, cmd)
	return cmd
}
