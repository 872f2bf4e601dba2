// Package driver owns the logging drivers: their names, the options that each
// takes, with docker's words for those it does not, and the translation to
// where the keeper writes and to where lines are sent.
//
// Every driver but none has a file that the keeper writes; what is sent
// elsewhere is read from that file. So logs can be shown with any driver, and
// nothing is lost while the engine is down.
package driver

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/wherry-engine/wherry/internal/logs"
)

// Names lists the drivers, as `info` shows them: without none.
func Names() []string {
	return []string{"fluentd", "gelf", "journald", "json-file", "local", "syslog"}
}

// The bounds of a log whose user gave none.
const (
	defaultSize      = 100 << 20 // of a json-file, uncompressed
	defaultLocalSize = 20 << 20  // of local and of the file beside a remote driver, as docker's
	defaultFiles     = 5
	defaultBuffer    = 1 << 20 // of mode=non-blocking
)

// JournalSocket is where journald takes messages.
const JournalSocket = "/run/systemd/journal/socket"

// Config is --log-driver and --log-opt.
type Config struct {
	Type    string
	Options map[string]string
}

// Merge completes what a container asks for by the engine's defaults.
func Merge(c, defaults Config) Config {
	if c.Type == "" {
		c.Type = defaults.Type
	}
	if c.Type != defaults.Type || len(defaults.Options) == 0 {
		return c
	}
	all := maps.Clone(defaults.Options)
	maps.Copy(all, c.Options)
	c.Options = all
	return c
}

// Info is what options and tags can refer to. The names of its fields and
// methods are those that docker's templates know.
type Info struct {
	Config              map[string]string
	ContainerID         string
	ContainerName       string // with its slash
	ContainerEntrypoint string
	ContainerArgs       []string
	ContainerImageID    string
	ContainerImageName  string
	ContainerCreated    time.Time
	ContainerEnv        []string
	ContainerLabels     map[string]string
	LogPath             string
	DaemonName          string
	HostName            string
}

// ID is the short id.
func (i *Info) ID() string { return i.ContainerID[:min(12, len(i.ContainerID))] }

// FullID is the whole id.
func (i *Info) FullID() string { return i.ContainerID }

// Name is the name without its slash.
func (i *Info) Name() string { return strings.TrimPrefix(i.ContainerName, "/") }

// ImageID is the short id of the image.
func (i *Info) ImageID() string { return i.ContainerImageID[:min(12, len(i.ContainerImageID))] }

// ImageFullID is the whole id of the image.
func (i *Info) ImageFullID() string { return i.ContainerImageID }

// ImageName is the image as the user wrote it.
func (i *Info) ImageName() string { return i.ContainerImageName }

// Hostname is the host's.
func (i *Info) Hostname() string { return i.HostName }

// Command is what the container runs.
func (i *Info) Command() string {
	return strings.Join(append([]string{i.ContainerEntrypoint}, i.ContainerArgs...), " ")
}

// ExtraAttributes picks the labels and variables that the options ask for.
func (i *Info) ExtraAttributes() (map[string]string, error) {
	return i.attributes(func(name string) string { return name })
}

func (i *Info) attributes(rename func(string) string) (map[string]string, error) {
	out := map[string]string{}
	env := map[string]string{}
	for _, kv := range i.ContainerEnv {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	for _, from := range []struct {
		option string
		values map[string]string
	}{{"labels", i.ContainerLabels}, {"env", env}} {
		if list := i.Config[from.option]; list != "" {
			for _, name := range strings.Split(list, ",") {
				if v, ok := from.values[name]; ok {
					out[rename(name)] = v
				}
			}
		}
		if text := i.Config[from.option+"-regex"]; text != "" {
			re, err := regexp.Compile(text)
			if err != nil {
				return nil, err
			}
			for k, v := range from.values {
				if re.MatchString(k) {
					out[rename(k)] = v
				}
			}
		}
	}
	return out, nil
}

// tag fills the template of --log-opt tag.
func (i *Info) tag(standard string) (string, error) {
	text := i.Config["tag"]
	if text == "" {
		text = standard
	}
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"split": strings.Split, "join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper,
		"truncate": func(s string, n int) string { return s[:min(n, len(s))] },
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, i)
	return b.String(), err
}

// common options belong to every driver.
var common = []string{"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}

var attrs = []string{"tag", "labels", "labels-regex", "env", "env-regex"}

var known = map[string][]string{
	"json-file": append([]string{"max-size", "max-file", "compress"}, attrs...),
	"local":     {"max-size", "max-file", "compress"},
	"journald":  attrs,
	"syslog":    append([]string{"syslog-address", "syslog-facility", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify", "syslog-format"}, attrs...),
	"gelf":      append([]string{"gelf-address", "gelf-compression-type", "gelf-compression-level", "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"}, attrs...),
	"fluentd": append([]string{"fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval", "fluentd-buffer-limit", "fluentd-max-retries",
		"fluentd-read-timeout", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision", "fluentd-write-timeout"}, attrs...),
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Validate checks names and forms, as dockerd does when a container is created.
func Validate(c Config) error {
	switch mode := c.Options["mode"]; mode {
	case "", "blocking", "non-blocking":
	default:
		return invalid("logger: logging mode not supported: %s", mode)
	}
	if s, ok := c.Options["max-buffer-size"]; ok {
		if c.Options["mode"] != "non-blocking" {
			return invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
		}
		if _, err := units.RAMInBytes(s); err != nil {
			return invalid("error parsing option max-buffer-size: %v", err)
		}
	}
	switch c.Type {
	case "none":
		if len(c.Options) > 0 {
			return invalid("invalid logging opts for driver none")
		}
		return nil
	case "splunk", "awslogs", "gcplogs", "etwlogs", "logentries":
		return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("the log driver '%s' is not served by wherryd; "+
			"use syslog, gelf or fluentd, which the agents of that service take in, or have one read the files of json-file", c.Type))
	}
	names, ok := known[c.Type]
	if !ok {
		return invalid("logger: no log driver named '%s' is registered", c.Type)
	}
	for _, k := range []string{"cache-disabled", "cache-compress"} {
		if v, ok := c.Options[k]; ok {
			if _, err := strconv.ParseBool(v); err != nil {
				return invalid("invalid value for option %s: %s", k, v)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Options)) {
		if slices.Contains(names, k) || slices.Contains(common, k) {
			continue
		}
		if c.Type == "local" {
			return invalid("unknown log opt '%s' for log driver local", k)
		}
		return invalid("unknown log opt '%s' for %s log driver", k, c.Type)
	}
	s, err := parseSink(c)
	if err == nil && strings.HasPrefix(s.Network, "unix") && c.Type == "syslog" {
		if _, err = os.Stat(s.Address); err != nil {
			return invalid("%v", err)
		}
	}
	return err
}

// Remote tells whether lines are sent elsewhere.
func (c Config) Remote() bool { return c.Type != "none" && c.Type != "json-file" && c.Type != "local" }

// Readable tells whether logs can be shown.
func (c Config) Readable() bool {
	off, _ := strconv.ParseBool(c.Options["cache-disabled"])
	return c.Type != "none" && (!c.Remote() || !off)
}

// Path is the newest file of the log of a container whose directory is dir.
func (c Config) Path(dir, id string) string {
	switch c.Type {
	case "none":
		return ""
	case "json-file":
		return filepath.Join(dir, id+"-json.log")
	case "local":
		return filepath.Join(dir, "local.log")
	}
	return filepath.Join(dir, "cached.log")
}

func failed(err error) error {
	return invalid("failed to initialize logging driver: %v", err)
}

// Files tells where the keeper writes, and what it may use of the disk.
func Files(c Config, dir, id string) (logs.Target, error) {
	t := logs.Target{Driver: logs.DriverLocal, Path: c.Path(dir, id), MaxSize: defaultLocalSize, MaxFile: defaultFiles, Compress: true}
	prefix := ""
	switch {
	case c.Type == "none":
		return logs.Target{}, nil
	case c.Type == "json-file":
		t.Driver, t.MaxSize = logs.DriverJSONFile, defaultSize
		if c.Options["max-size"] != "" {
			t.MaxFile = 1 // as docker's, unless it is given too
		}
		if c.Options["max-size"] != "" || c.Options["max-file"] != "" {
			t.Compress = false
		}
	case c.Remote():
		prefix = "cache-"
	}
	if err := setBounds(&t, c, prefix); err != nil {
		return t, failed(err)
	}
	if c.Options["mode"] == "non-blocking" {
		t.Buffer = defaultBuffer
		if s, ok := c.Options["max-buffer-size"]; ok {
			n, err := units.RAMInBytes(s)
			if err != nil {
				return t, failed(err)
			}
			t.Buffer = n
		}
	}
	return t, nil
}

// setBounds reads the options about size, whose names begin with prefix.
func setBounds(t *logs.Target, c Config, prefix string) error {
	if v, ok := c.Options[prefix+"max-size"]; ok {
		n, err := units.FromHumanSize(v)
		switch {
		case v == "-1" && c.Type == "json-file":
			n = -1
		case err != nil && c.Type != "json-file":
			return fmt.Errorf("invalid value for %smax-size: %s: %w", prefix, v, err)
		case err != nil:
			return err
		case n <= 0:
			return fmt.Errorf("%smax-size must be a positive number", prefix)
		}
		t.MaxSize = n
	}
	if v, ok := c.Options[prefix+"max-file"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return err
		}
		if n < 1 {
			return fmt.Errorf("%smax-file cannot be less than 1", prefix)
		}
		t.MaxFile = n
		t.Compress = t.Compress && n > 1
	}
	if v, ok := c.Options[prefix+"compress"]; ok {
		on, err := strconv.ParseBool(v)
		switch {
		case err != nil && c.Type != "json-file":
			return fmt.Errorf("error reading %scompress log option: %w", prefix, err)
		case err != nil:
			return err
		case on && (t.MaxFile == 1 || t.MaxSize <= 0):
			return errors.New("compress cannot be true when max-file is less than 2 or max-size is not set")
		}
		t.Compress = on
	}
	return nil
}

// Target is Files with the attributes that each line of a json-file has; it
// checks all that Validate leaves to the start.
func Target(c Config, i *Info, dir string) (logs.Target, error) {
	t, err := Files(c, dir, i.ContainerID)
	if err != nil || c.Type == "none" {
		return t, err
	}
	i.Config = c.Options
	if c.Type == "journald" {
		if _, err := os.Stat(JournalSocket); err != nil {
			return t, failed(errors.New("journald is not enabled on this host"))
		}
	}
	if c.Type != "json-file" {
		_, err := Remote(c, i)
		return t, err
	}
	if t.Attrs, err = i.ExtraAttributes(); err != nil {
		return t, failed(err)
	}
	tag, err := i.tag("") // there is a tag only if it was asked for
	if err != nil {
		return t, failed(err)
	}
	if tag != "" {
		t.Attrs["tag"] = tag
	}
	return t, nil
}
