package system

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
	"github.com/wherry-engine/wherry/internal/cli/show"
)

// versions is what `version --format` templates see.
type versions struct {
	Client clientVersion
	Server *serverVersion
}

type clientVersion struct {
	Version           string `json:",omitempty"`
	APIVersion        string `json:"ApiVersion,omitempty"`
	DefaultAPIVersion string `json:",omitempty"`
	GitCommit         string `json:",omitempty"`
	GoVersion         string `json:",omitempty"`
	Os                string `json:",omitempty"`
	Arch              string `json:",omitempty"`
	BuildTime         string `json:",omitempty"`
	Context           string
}

type serverVersion struct {
	Platform      client.PlatformInfo
	Components    []system.ComponentVersion `json:",omitempty"`
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string `json:",omitempty"`
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	KernelVersion string `json:",omitempty"`
	Experimental  bool   `json:",omitempty"`
	BuildTime     string `json:",omitempty"`
}

// NewVersion is `version`.
func NewVersion(sh *shell.Shell) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Show the version of client and server",
		Args:  shell.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: newClientVersion(sh)}
			if format == "json" {
				format = "{{json .}}"
			}
			tmpl, err := templates.New("version").Parse(format)
			if err != nil {
				return &shell.StatusError{Code: 64, Message: fmt.Sprintf("template parsing error: %v", err)}
			}
			api, err := sh.API()
			if err != nil {
				return err
			}
			v.Client.APIVersion = api.ClientVersion()
			r, failed := api.ServerVersion(cmd.Context(), client.ServerVersionOptions{})
			if shell.TooNew(failed) != "" {
				return failed
			}
			if failed == nil {
				v.Server = newServerVersion(r)
			}
			if format != "" {
				err = tmpl.Execute(sh.Out, v)
				sh.Println()
			} else {
				err = v.print(sh.Out)
			}
			if failed != nil {
				return failed
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", show.InspectHelp)
	return cmd
}

func newClientVersion(sh *shell.Shell) clientVersion {
	v := clientVersion{
		Version: sh.Build.Version, GitCommit: sh.Build.Commit, BuildTime: ansic(sh.Build.Time),
		DefaultAPIVersion: client.MaxAPIVersion, GoVersion: runtime.Version(),
		Os: runtime.GOOS, Arch: runtime.GOARCH, Context: shell.DefaultContext,
	}
	if ep, err := sh.Endpoint(); err == nil {
		v.Context = ep.Context
	}
	return v
}

func newServerVersion(r client.ServerVersionResult) *serverVersion {
	s := &serverVersion{
		Platform: r.Platform, Version: r.Version, APIVersion: r.APIVersion, MinAPIVersion: r.MinAPIVersion,
		Os: r.Os, Arch: r.Arch, Experimental: r.Experimental, Components: r.Components, //nolint:staticcheck // older engines send it
	}
	for _, c := range s.Components {
		if c.Name != "Engine" {
			continue
		}
		s.GitCommit, s.GoVersion, s.KernelVersion = c.Details["GitCommit"], c.Details["GoVersion"], c.Details["KernelVersion"]
		s.BuildTime = c.Details["BuildTime"]
		if c.Details["BuildTime"] != "" {
			c.Details["BuildTime"] = ansic(s.BuildTime)
		}
		return s
	}
	s.Components = append(s.Components, system.ComponentVersion{
		Name: "Engine", Version: r.Version,
		Details: map[string]string{
			"ApiVersion": r.APIVersion, "MinAPIVersion": r.MinAPIVersion, "Os": r.Os, "Arch": r.Arch,
			"Experimental": strconv.FormatBool(r.Experimental), //nolint:staticcheck // older engines send it
		},
	})
	return s
}

func ansic(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.Format(time.ANSIC)
	}
	return s
}

func (v *versions) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 20, 1, 1, ' ', 0)
	c := &v.Client
	fmt.Fprintf(w, "Client:\n Version:\t%s\n API version:\t%s", c.Version, c.APIVersion)
	if c.APIVersion != c.DefaultAPIVersion {
		fmt.Fprintf(w, " (downgraded from %s)", c.DefaultAPIVersion)
	}
	fmt.Fprintf(w, "\n Go version:\t%s\n Git commit:\t%s\n Built:\t%s\n OS/Arch:\t%s/%s\n Context:\t%s\n",
		c.GoVersion, c.GitCommit, c.BuildTime, c.Os, c.Arch, c.Context)
	if s := v.Server; s != nil {
		fmt.Fprint(w, "\nServer:")
		if s.Platform.Name != "" {
			fmt.Fprint(w, " "+s.Platform.Name)
		}
		fmt.Fprintln(w)
		for _, c := range s.Components {
			printComponent(w, c)
		}
	}
	return w.Flush()
}

func printComponent(w io.Writer, c system.ComponentVersion) {
	d := c.Details
	fmt.Fprintf(w, " %s:\n  Version:\t%s\n", c.Name, c.Version)
	if c.Name != "Engine" {
		for _, k := range slices.Sorted(maps.Keys(d)) {
			fmt.Fprintf(w, "  %s:\t%s\n", k, d[k])
		}
		return
	}
	fmt.Fprintf(w, "  API version:\t%s (minimum version %s)\n  Go version:\t%s\n  Git commit:\t%s\n  Built:\t%s\n  OS/Arch:\t%s/%s\n  Experimental:\t%s\n",
		d["ApiVersion"], d["MinAPIVersion"], d["GoVersion"], d["GitCommit"], d["BuildTime"], d["Os"], d["Arch"], d["Experimental"])
}
