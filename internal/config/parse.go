package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Parse reads the command line (without the program's name) and the file that
// it names. It is also how SIGHUP reads both again: call it with the same
// arguments and give the result to Merge.
func Parse(args []string, getenv func(string) string) (*Config, error) {
	c := New(getenv)
	flags := flagSet(c)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if c.Help || c.Version {
		return c, nil
	}
	if flags.NArg() > 0 {
		return nil, errors.New(`"wherryd" accepts no arguments`)
	}
	if err := c.checkFlags(flags); err != nil {
		return nil, err
	}
	c.GroupExplicit = flags.Changed("group")
	if err := c.readFile(flags); err != nil {
		return nil, err
	}
	return c, c.finish(flags)
}

// Usage is the text of --help: what is served, and nothing else.
func Usage() string {
	flags := Flags()
	return "\nUsage:\twherryd [OPTIONS]\n\nA self-sufficient runtime for containers.\n\nOptions:\n" + flags.FlagUsagesWrapped(80)
}

// Flags are those that --help shows, with their defaults.
func Flags() *pflag.FlagSet { return flagSet(New(os.Getenv)) }

// held stands in for the value of a flag that is not served.
type held struct{ text, kind string }

func (h *held) String() string     { return h.text }
func (h *held) Set(s string) error { h.text = s; return nil }
func (h *held) Type() string       { return h.kind }

func flagSet(c *Config) *pflag.FlagSet {
	flags := pflag.NewFlagSet("wherryd", pflag.ContinueOnError)
	flags.Usage = func() {}
	for _, o := range options {
		if o.flag == "" {
			continue
		}
		var v pflag.Value = &held{kind: "string"}
		toggle := o.toggle
		if o.class == served {
			v = o.bind(c)
			toggle = v.Type() == "bool"
		}
		f := flags.VarPF(v, o.flag, o.short, o.say)
		f.Hidden = o.class != served
		if toggle {
			f.NoOptDefVal = "true"
		}
	}
	return flags
}

// checkFlags refuses given flags that are not served and notes idle ones.
func (c *Config) checkFlags(flags *pflag.FlagSet) error {
	var bad []string
	for _, o := range options {
		if o.flag == "" || o.class == served || !flags.Changed(o.flag) {
			continue
		}
		if !c.accept(o, "--"+o.flag, flags.Lookup(o.flag).Value.String()) {
			bad = append(bad, "--"+o.flag)
		}
	}
	return notSupported(bad)
}

// accept reports whether a setting that is not served may be given this value,
// and adds the warning that belongs to it.
func (c *Config) accept(o option, name, given string) bool {
	switch {
	case o.harmless != "" && given == o.harmless:
	case o.class == idle:
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s has no effect: %s", name, o.say))
	default:
		return false
	}
	c.accepted[o.name()] = given
	return true
}

func (o option) name() string {
	if o.key != "" {
		return o.key
	}
	return o.flag
}

// notSupported refuses settings by name; with the only one comes the reason, if
// there is more to say.
func notSupported(names []string) error {
	switch len(names) {
	case 0:
		return nil
	case 1:
		why := ""
		for _, o := range options {
			if o.class == refused && o.say != "" && (names[0] == o.key || names[0] == "--"+o.flag) {
				why = ": " + o.say
			}
		}
		return fmt.Errorf("%s is not supported by this version of wherryd%s", names[0], why)
	}
	return fmt.Errorf("%s are not supported by this version of wherryd", strings.Join(names, ", "))
}

// readFile merges the configuration file into what the flags said.
func (c *Config) readFile(flags *pflag.FlagSet) error {
	data, err := os.ReadFile(c.File)
	if errors.Is(err, fs.ErrNotExist) && !flags.Changed("config-file") {
		return nil
	}
	if err == nil {
		err = c.mergeFile(data, flags)
	}
	if err != nil {
		return fmt.Errorf("unable to configure the Docker daemon with file %s: %w", c.File, err)
	}
	return nil
}

// whole are the keys whose value is an object; dockerd takes any other object
// for a group of settings (proxies, for one) and looks at what is in it.
var whole = []string{"log-opts", "runtimes", "default-ulimits", "features", "builder", "default-network-opts", "nri-opts", "registry-hosts"}

func (c *Config) mergeFile(data []byte, flags *pflag.FlagSet) error {
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	if len(data) == 0 {
		return nil
	}
	given, err := flatten(data)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(given))
	for k := range given {
		keys = append(keys, k)
	}
	slices.Sort(keys)

	var unknown, conflicts, bad []string
	use := map[string]option{}
	for _, k := range keys {
		i := slices.IndexFunc(options, func(o option) bool { return o.key == k })
		if i < 0 {
			unknown = append(unknown, k)
			continue
		}
		o := options[i]
		if o.flag != "" && flags.Changed(o.flag) && k != "runtimes" {
			conflicts = append(conflicts, fmt.Sprintf("%s: (from flag: %v, from file: %s)", k, flags.Lookup(o.flag).Value, plain(given[k])))
			continue
		}
		if o.class == served {
			use[k] = o
		} else if !c.accept(o, k, plain(given[k])) {
			bad = append(bad, k)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if len(conflicts) > 0 {
		return fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(conflicts, ", "))
	}
	if err := notSupported(bad); err != nil {
		return err
	}
	for k, o := range use {
		if err := o.bind(c).decode(given[k]); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		switch k {
		case "group":
			c.GroupExplicit = true
		case "tlscert", "tlskey":
			c.TLS.explicitCert = true
		case "tlsverify":
			c.TLS.verifyInFile = true
			c.TLS.Enabled = true // as --tlsverify, whatever its value
		}
	}
	return nil
}

// flatten reads the file's object, with the groups dissolved.
func flatten(data []byte) (map[string]json.RawMessage, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, fmt.Errorf("invalid JSON: %w", err)
	}
	out := map[string]json.RawMessage{}
	for k, raw := range top {
		var group map[string]json.RawMessage
		if bytes.HasPrefix(raw, []byte("{")) && !slices.Contains(whole, k) {
			if err := json.Unmarshal(raw, &group); err != nil {
				return nil, fmt.Errorf("invalid JSON: %w", err)
			}
			for k, raw := range group {
				out[k] = raw
			}
			continue
		}
		out[k] = raw
	}
	return out, nil
}

// plain shows a value of the file as the flag would have it.
func plain(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var words []string
	if json.Unmarshal(raw, &words) == nil {
		return fmt.Sprint(words)
	}
	return string(raw)
}
