package system

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/docker/cli/templates"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/security"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// information is what `info --format` templates see: the engine's fields at
// the top level and the client's beside them.
type information struct {
	*system.Info
	ServerErrors []string `json:",omitempty"`
	ClientInfo   clientInfo
}

type clientInfo struct {
	Debug bool
	clientVersion
	Plugins  []struct{}
	Warnings []string
}

// NewInfo is `info`.
func NewInfo(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:         "info [OPTIONS]",
		Short:       "Display system-wide information",
		Args:        shell.NoArgs,
		Annotations: shell.Aliases("system info", "info"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format == "json" {
				format = "{{json .}}"
			}
			tmpl, err := templates.Parse(format)
			if err != nil {
				return &shell.StatusError{Code: 64, Message: fmt.Sprintf("template parsing error: %v", err)}
			}
			all := information{
				Info:       &system.Info{},
				ClientInfo: clientInfo{Debug: sh.Global.Debug, clientVersion: newClientVersion(sh), Plugins: []struct{}{}},
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			r, failed := api.Info(cmd.Context(), client.InfoOptions{})
			switch {
			case shell.TooNew(failed) != "":
				return failed
			case failed == nil:
				all.Info = &r.Info
			case !client.IsErrConnectionFailed(failed):
				all.ServerErrors = append(all.ServerErrors, failed.Error())
			}
			if format != "" {
				err := tmpl.Execute(sh.Out, all)
				sh.Println()
				return errors.Join(failed, err)
			}
			printClient(sh.Out, &all.ClientInfo)
			fmt.Fprintln(sh.Out, "\nServer:")
			if failed == nil {
				p := printer{w: sh.Out, debug: sh.Global.Debug}
				p.server(all.Info)
				for _, w := range all.Warnings {
					fmt.Fprintln(sh.Err, w)
				}
			}
			for _, e := range all.ServerErrors {
				fmt.Fprintln(sh.Err, "ERROR:", e)
			}
			if len(all.ServerErrors) > 0 {
				return errors.New("errors pretty printing info")
			}
			return failed
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", show.InspectHelp)
	return cmd
}

func printClient(w io.Writer, c *clientInfo) {
	fmt.Fprintf(w, "Client:\n Version:    %s\n Context:    %s\n Debug Mode: %t\n", c.Version, c.Context, c.Debug)
}

// printer writes the indented "name: value" lines of `info`.
type printer struct {
	w     io.Writer
	debug bool
}

func (p *printer) line(indent int, name string, value any) {
	fmt.Fprintf(p.w, "%*s%s: %v\n", indent, "", name, value)
}

func (p *printer) some(indent int, name, value string) {
	if value != "" {
		p.line(indent, name, value)
	}
}

func (p *printer) list(name string, values []string) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintf(p.w, " %s:\n", name)
	for _, v := range values {
		fmt.Fprintf(p.w, "  %s\n", v)
	}
}

func (p *printer) server(i *system.Info) {
	p.line(1, "Containers", i.Containers)
	p.line(2, "Running", i.ContainersRunning)
	p.line(2, "Paused", i.ContainersPaused)
	p.line(2, "Stopped", i.ContainersStopped)
	p.line(1, "Images", i.Images)
	p.some(1, "Server Version", i.ServerVersion)
	p.some(1, "Storage Driver", i.Driver)
	for _, kv := range i.DriverStatus {
		p.line(2, kv[0], kv[1])
	}
	p.some(1, "Logging Driver", i.LoggingDriver)
	p.some(1, "Cgroup Driver", i.CgroupDriver)
	p.some(1, "Cgroup Version", i.CgroupVersion)
	p.plugins(i)
	p.list("CDI spec directories", i.CDISpecDirs)
	if len(i.DiscoveredDevices) > 0 {
		fmt.Fprintln(p.w, " Discovered Devices:")
		for _, d := range i.DiscoveredDevices {
			p.line(2, d.Source, d.ID)
		}
	}
	p.swarm(&i.Swarm)
	p.runtimes(i)
	p.host(i)
	p.registries(i)
	p.line(1, "Live Restore Enabled", i.LiveRestoreEnabled)
	p.some(1, "Product License", i.ProductLicense)
	if len(i.DefaultAddressPools) > 0 {
		fmt.Fprintln(p.w, " Default Address Pools:")
		for _, a := range i.DefaultAddressPools {
			fmt.Fprintf(p.w, "   Base: %s, Size: %d\n", a.Base, a.Size)
		}
	}
	if f := i.FirewallBackend; f != nil {
		p.line(1, "Firewall Backend", f.Driver)
		for _, kv := range f.Info {
			p.line(2, kv[0], kv[1])
		}
	}
	fmt.Fprintln(p.w)
}

func (p *printer) plugins(i *system.Info) {
	fmt.Fprintln(p.w, " Plugins:")
	p.line(2, "Volume", strings.Join(i.Plugins.Volume, " "))
	p.line(2, "Network", strings.Join(i.Plugins.Network, " "))
	p.some(2, "Authorization", strings.Join(i.Plugins.Authorization, " "))
	p.line(2, "Log", strings.Join(i.Plugins.Log, " "))
}

func (p *printer) swarm(s *swarm.Info) {
	p.line(1, "Swarm", s.LocalNodeState)
	if s.LocalNodeState == swarm.LocalNodeStateInactive || s.LocalNodeState == swarm.LocalNodeStateLocked {
		return
	}
	p.line(2, "NodeID", s.NodeID)
	p.some(2, "Error", s.Error)
	p.line(2, "Is Manager", s.ControlAvailable)
	if s.ControlAvailable && s.Cluster != nil && s.Error == "" {
		p.line(2, "ClusterID", s.Cluster.ID)
		p.line(2, "Managers", s.Managers)
		p.line(2, "Nodes", s.Nodes)
	}
	p.line(2, "Node Address", s.NodeAddr)
}

func (p *printer) runtimes(i *system.Info) {
	if len(i.Runtimes) > 0 {
		var names []string
		for n := range i.Runtimes {
			names = append(names, n)
		}
		p.line(1, "Runtimes", strings.Join(names, " "))
		p.line(1, "Default Runtime", i.DefaultRuntime)
	}
	if i.OSType != "linux" {
		return
	}
	p.line(1, "Init Binary", i.InitBinary)
	p.line(1, "containerd version", i.ContainerdCommit.ID)
	p.line(1, "runc version", i.RuncCommit.ID)
	p.line(1, "init version", i.InitCommit.ID)
	if options := security.DecodeOptions(i.SecurityOptions); len(options) > 0 {
		fmt.Fprintln(p.w, " Security Options:")
		for _, o := range options {
			fmt.Fprintln(p.w, "  "+o.Name)
			for _, kv := range o.Options {
				if kv.Key == "profile" {
					p.line(3, "Profile", kv.Value)
				}
			}
		}
	}
}

func (p *printer) host(i *system.Info) {
	p.some(1, "Kernel Version", i.KernelVersion)
	p.some(1, "Operating System", i.OperatingSystem)
	p.some(1, "OSType", i.OSType)
	p.some(1, "Architecture", i.Architecture)
	p.line(1, "CPUs", i.NCPU)
	p.line(1, "Total Memory", units.BytesSize(float64(i.MemTotal)))
	p.some(1, "Name", i.Name)
	p.some(1, "ID", i.ID)
	p.line(1, "Docker Root Dir", i.DockerRootDir)
	p.line(1, "Debug Mode", i.Debug)
	if i.Debug || p.debug {
		p.line(2, "File Descriptors", i.NFd)
		p.line(2, "Goroutines", i.NGoroutines)
		p.line(2, "System Time", i.SystemTime)
		p.line(2, "EventsListeners", i.NEventsListener)
	}
	p.some(1, "HTTP Proxy", i.HTTPProxy)
	p.some(1, "HTTPS Proxy", i.HTTPSProxy)
	p.some(1, "No Proxy", i.NoProxy)
	p.list("Labels", i.Labels)
	p.line(1, "Experimental", i.ExperimentalBuild)
}

func (p *printer) registries(i *system.Info) {
	r := i.RegistryConfig
	if r == nil {
		return
	}
	var insecure []string
	for _, c := range r.IndexConfigs {
		if !c.Secure {
			insecure = append(insecure, c.Name)
		}
	}
	for _, c := range r.InsecureRegistryCIDRs {
		insecure = append(insecure, c.String())
	}
	p.list("Insecure Registries", insecure)
	p.list("Registry Mirrors", r.Mirrors)
	for _, name := range slices.Sorted(maps.Keys(r.IndexConfigs)) {
		if m := r.IndexConfigs[name].Mirrors; name != "docker.io" && len(m) > 0 {
			p.list("Registry Mirrors of "+name, m)
		}
	}
}
