package filter

import (
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Args{
		"":                                    {},
		`{"status":{"exited":true,"a":true}}`: {"status": {"a", "exited"}},
		`{"label":["x=1","y"]}`:               {"label": {"x=1", "y"}},
	} {
		if got, err := Parse(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%s) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", `{"a":1}`, `[]`} {
		if _, err := Parse(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Parse(%s): %v", text, err)
		}
	}
	if err := (Args{"b": {"1"}, "a": {"2"}}).Validate("b"); err == nil || err.Error() != "invalid filter 'a'" {
		t.Error(err)
	}
}

func TestMatching(t *testing.T) {
	a := Args{"name": {"^web", "db"}, "id": {"ab"}, "label": {"x=1", "y"}, "ref": {"deb*"}}
	for _, tt := range []struct {
		what      string
		got, want bool
	}{
		{"regexp", a.Match("name", "web1"), true},
		{"part", a.Match("name", "mydb1"), true},
		{"anchor", a.Match("name", "myweb"), false},
		{"absent key", a.Match("none", "x"), true},
		{"exact", a.Exact("name", "mydb"), false},
		{"prefix", a.Prefix("id", "abc"), true},
		{"no prefix", a.Prefix("id", "cab"), false},
		{"labels", a.Labels("label", map[string]string{"x": "1", "y": "z"}), true},
		{"one label missing", a.Labels("label", map[string]string{"x": "1"}), false},
		{"other value", a.Labels("label", map[string]string{"x": "2", "y": ""}), false},
		{"glob", a.Glob("ref", "debian"), true},
		{"no glob", a.Glob("ref", "mydeb"), false},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v", tt.what, tt.got)
		}
	}
}

func TestBool(t *testing.T) {
	for v, want := range map[string]bool{"1": true, "true": true, "0": false, "false": false} {
		if got, err := (Args{"k": {v}}).Bool("k", !want); err != nil || got != want {
			t.Errorf("%s: %v, %v", v, got, err)
		}
	}
	if _, err := (Args{"k": {"maybe"}}).Bool("k", true); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestTime(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for text, want := range map[string]time.Time{
		"":                          {},
		"10m":                       now.Add(-10 * time.Minute),
		"12":                        time.Unix(12, 0),
		"12.5":                      time.Unix(12, 500_000_000),
		"12.000000001":              time.Unix(12, 1),
		"2020-01-02T03:04:05Z":      time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC),
		"2020-01-02T03:04:05.5Z":    time.Date(2020, 1, 2, 3, 4, 5, 5e8, time.UTC),
		"2020-01-02T03:04:05+01:00": time.Date(2020, 1, 2, 2, 4, 5, 0, time.UTC),
		"2020-01-02":                time.Date(2020, 1, 2, 0, 0, 0, 0, time.Local),
	} {
		if got, err := Time(text, now); err != nil || !got.Equal(want) {
			t.Errorf("Time(%q) = %v, %v", text, got, err)
		}
	}
	if _, err := Time("yesterday", now); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
