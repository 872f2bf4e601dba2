package driver

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/wherry-engine/wherry/internal/logs"
)

// opts reads "driver key=value ...".
func opts(text string) Config {
	f := strings.Fields(text)
	c := Config{Type: f[0], Options: map[string]string{}}
	for _, kv := range f[1:] {
		k, v, _ := strings.Cut(kv, "=")
		c.Options[k] = v
	}
	return c
}

func info() *Info {
	return &Info{
		ContainerID: strings.Repeat("ab", 32), ContainerName: "/web", ContainerImageName: "busybox", ContainerEntrypoint: "sh", ContainerArgs: []string{"-c", "true"},
		ContainerEnv: []string{"E1=x", "F=y"}, ContainerLabels: map[string]string{"tier": "front", "zone": "b"},
	}
}

func TestFiles(t *testing.T) {
	id := info().ContainerID
	for text, want := range map[string]logs.Target{
		"json-file":                                 {Driver: "json-file", Path: "/d/" + id + "-json.log", MaxSize: 100 << 20, MaxFile: 5, Compress: true},
		"json-file max-size=-1":                     {Driver: "json-file", Path: "/d/" + id + "-json.log", MaxSize: -1, MaxFile: 1},
		"json-file max-size=10k":                    {Driver: "json-file", Path: "/d/" + id + "-json.log", MaxSize: 10000, MaxFile: 1},
		"json-file max-size=10k max-file=3":         {Driver: "json-file", Path: "/d/" + id + "-json.log", MaxSize: 10000, MaxFile: 3},
		"json-file max-file=3":                      {Driver: "json-file", Path: "/d/" + id + "-json.log", MaxSize: 100 << 20, MaxFile: 3},
		"local":                                     {Driver: "local", Path: "/d/local.log", MaxSize: 20 << 20, MaxFile: 5, Compress: true},
		"local mode=non-blocking":                   {Driver: "local", Path: "/d/local.log", MaxSize: 20 << 20, MaxFile: 5, Compress: true, Buffer: 1 << 20},
		"syslog cache-max-size=1m cache-max-file=1": {Driver: "local", Path: "/d/cached.log", MaxSize: 1000000, MaxFile: 1},
		"json-file mode=non-blocking max-buffer-size=4m max-size=1m max-file=2 compress=true": {
			Driver: "json-file", Path: "/d/" + id + "-json.log", MaxSize: 1000000, MaxFile: 2, Compress: true, Buffer: 4 << 20},
		"none": {},
	} {
		got, err := Files(opts(text), "/d", id)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
}

func TestAttributes(t *testing.T) {
	got, err := Target(opts("json-file labels=tier,none env-regex=^E tag={{.Name}}/{{.ID}}/{{.Command}}"), info(), "/d")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"tier": "front", "E1": "x", "tag": "web/abababababab/sh -c true"}
	if diff := cmp.Diff(want, got.Attrs); diff != "" {
		t.Error(diff)
	}
	s, err := Remote(opts("journald labels-regex=."), info())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"TIER": "front", "ZONE": "b"}, s.Extra); diff != "" || s.Tag != "abababababab" {
		t.Error(s.Tag, diff)
	}
}

// The words are dockerd's.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"nope":                                 "logger: no log driver named 'nope' is registered",
		"splunk":                               "the log driver 'splunk' is not served by wherryd",
		"json-file max-size=abc":               "failed to initialize logging driver: invalid size: 'abc'",
		"json-file max-size=0":                 "failed to initialize logging driver: max-size must be a positive number",
		"json-file max-file=0":                 "failed to initialize logging driver: max-file cannot be less than 1",
		"json-file foo=1":                      "unknown log opt 'foo' for json-file log driver",
		"json-file mode=foo":                   "logger: logging mode not supported: foo",
		"json-file max-buffer-size=1m":         "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
		"json-file labels-regex=[":             "failed to initialize logging driver: error parsing regexp: missing closing ]: `[`",
		"json-file tag={{":                     "failed to initialize logging driver: template: log-tag:1: unclosed action",
		"local foo=1":                          "unknown log opt 'foo' for log driver local",
		"local max-size=x":                     "failed to initialize logging driver: invalid value for max-size: x: invalid size: 'x'",
		"syslog syslog-address=foo":            "syslog-address should be in form proto://address, got foo",
		"syslog syslog-address=unix:///nope/s": "stat /nope/s: no such file or directory",
		"syslog syslog-facility=99":            "invalid syslog facility",
		"syslog syslog-format=x":               "Invalid syslog format",
		"syslog cache-disabled=zz":             "invalid value for option cache-disabled: zz",
		"gelf":                                 "gelf-address is a required parameter",
		"gelf gelf-address=tcp://h:1 gelf-compression-level=1": "compression is only supported on UDP",
		"gelf gelf-address=udp://h:1 gelf-tcp-max-reconnect=1": `"gelf-tcp-max-reconnect" is only valid for TCP`,
		"fluentd fluentd-address=tcp://x:y":                    `invalid fluentd-address tcp://x:y: parse "tcp://x:y": invalid port ":y" after host`,
		"fluentd fluentd-retry-wait=x":                         `time: invalid duration "x"`,
	} {
		err := Validate(opts(text))
		if err == nil {
			_, err = Target(opts(text), info(), "/d")
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
