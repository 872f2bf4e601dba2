// Package change applies Dockerfile instructions to an image's configuration:
// the -c option of import and commit.
package change

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-connections/nat"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/sys/signal"
)

type config = dockerspec.DockerOCIImageConfig

// instruction carries out one instruction; rest is the text after its name.
type instruction func(c *config, rest string) error

var instructions = map[string]instruction{
	"cmd": cmd, "entrypoint": entrypoint, "env": env, "expose": expose, "healthcheck": healthcheck,
	"label": label, "onbuild": onbuild, "stopsignal": stopsignal, "user": user, "volume": volume, "workdir": workdir,
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Apply carries out the instructions in order. Each text may hold several
// lines. What is not allowed here is refused with dockerd's words, and then c
// may have been changed by the instructions before it.
func Apply(c *config, changes []string) error {
	for _, text := range changes {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\\\n", "")
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			name, rest, _ := strings.Cut(line, " ")
			if i := strings.IndexAny(line, " \t"); i >= 0 {
				name, rest = line[:i], strings.TrimSpace(line[i:])
			}
			do := instructions[strings.ToLower(name)]
			if do == nil {
				return invalid("%s is not a valid change command", name)
			}
			if rest == "" {
				return invalid("%s requires at least one argument", strings.ToUpper(name))
			}
			if err := do(c, rest); err != nil {
				return err
			}
		}
	}
	return nil
}

// list reads the JSON form of an instruction's arguments.
func list(rest string) ([]string, bool) {
	if !strings.HasPrefix(rest, "[") {
		return nil, false
	}
	var l []string
	if err := json.Unmarshal([]byte(rest), &l); err != nil {
		return nil, false
	}
	return l, true
}

// command is the JSON form, or a line for the image's shell.
func command(c *config, rest string) []string {
	if l, ok := list(rest); ok {
		return l
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), rest)
}

func cmd(c *config, rest string) error {
	_, exec := list(rest)
	c.Cmd, c.ArgsEscaped = command(c, rest), !exec && c.ArgsEscaped //nolint:staticcheck // Windows' field, cleared
	return nil
}

func entrypoint(c *config, rest string) error {
	c.Entrypoint = command(c, rest)
	return nil
}

func env(c *config, rest string) error {
	pairs, err := pairs("ENV", rest, c)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		i := slices.IndexFunc(c.Env, func(e string) bool { k, _, _ := strings.Cut(e, "="); return k == p.key })
		if i >= 0 {
			c.Env[i] = p.key + "=" + p.value
		} else {
			c.Env = append(c.Env, p.key+"="+p.value)
		}
	}
	return nil
}

func label(c *config, rest string) error {
	pairs, err := pairs("LABEL", rest, c)
	if err != nil {
		return err
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for _, p := range pairs {
		c.Labels[p.key] = p.value
	}
	return nil
}

func expose(c *config, rest string) error {
	words, err := words(rest, c)
	if err != nil {
		return err
	}
	ports, _, err := nat.ParsePortSpecs(words)
	if err != nil {
		return invalid("%s", err)
	}
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for p := range ports {
		c.ExposedPorts[string(p)] = struct{}{}
	}
	return nil
}

func onbuild(c *config, rest string) error {
	first, _, _ := strings.Cut(strings.ToUpper(rest), " ")
	switch first {
	case "ONBUILD":
		return invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return invalid("%s isn't allowed as an ONBUILD trigger", first)
	}
	c.OnBuild = append(c.OnBuild, rest)
	return nil
}

func stopsignal(c *config, rest string) error {
	v, err := one("STOPSIGNAL", rest, c)
	if err != nil {
		return err
	}
	if _, err := signal.ParseSignal(v); err != nil {
		return invalid("%s", err)
	}
	c.StopSignal = v
	return nil
}

func user(c *config, rest string) (err error) {
	c.User, err = one("USER", rest, c)
	return err
}

func workdir(c *config, rest string) error {
	v, err := expand(rest, c)
	if err != nil {
		return err
	}
	if !path.IsAbs(v) {
		v = path.Join("/", c.WorkingDir, v)
	}
	c.WorkingDir = path.Clean(v)
	return nil
}

func volume(c *config, rest string) error {
	l, ok := list(rest)
	if !ok {
		var err error
		if l, err = words(rest, c); err != nil {
			return err
		}
	}
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, v := range l {
		if v = strings.TrimSpace(v); v == "" {
			return invalid("VOLUME specified can not be an empty string")
		}
		c.Volumes[v] = struct{}{}
	}
	return nil
}

func healthcheck(c *config, rest string) error {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(rest, "--") {
		var flag string
		flag, rest, _ = strings.Cut(rest, " ")
		rest = strings.TrimSpace(rest)
		name, value, _ := strings.Cut(flag[2:], "=")
		if err := healthFlag(h, name, value); err != nil {
			return err
		}
	}
	kind, args, _ := strings.Cut(rest, " ")
	args = strings.TrimSpace(args)
	switch strings.ToUpper(kind) {
	case "NONE":
		if args != "" {
			return invalid("HEALTHCHECK NONE takes no arguments")
		}
		h.Test = []string{"NONE"}
	case "CMD":
		if args == "" {
			return invalid("missing command after HEALTHCHECK CMD")
		}
		if l, ok := list(args); ok {
			h.Test = append([]string{"CMD"}, l...)
		} else {
			h.Test = []string{"CMD-SHELL", args}
		}
	default:
		return invalid("unknown type %q in HEALTHCHECK (try CMD)", kind)
	}
	c.Healthcheck = h
	return nil
}

func healthFlag(h *dockerspec.HealthcheckConfig, name, value string) error {
	if name == "retries" {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return invalid("%s", err)
		}
		if n < 0 {
			return invalid("--retries cannot be negative (%d)", n)
		}
		h.Retries = int(n)
		return nil
	}
	at := map[string]*time.Duration{"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval}[name]
	if at == nil {
		return invalid("unknown flag: --%s", name)
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return invalid("%s", err)
	}
	if d < 0 || d > 0 && d < time.Millisecond {
		return invalid("interval %q cannot be less than 1ms", name)
	}
	*at = d
	return nil
}

// one reads an instruction's only argument.
func one(name, rest string, c *config) (string, error) {
	if len(strings.Fields(rest)) != 1 {
		return "", invalid("%s requires exactly one argument", name)
	}
	return expand(rest, c)
}
