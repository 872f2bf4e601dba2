package idmap

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func etc(t *testing.T, subuid, subgid string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n", "group": "root:x:0:\nann:x:1000:\nstaff:x:50:\n",
		"subuid": subuid, "subgid": subgid,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	dir := etc(t, "# of people\nann:100000:1000\nbob:500000:65536\n1000:300000:64536\ndockremap:700000:65536\n77:800000:10\n",
		"ann:200000:65536\nstaff:400000:100\ndockremap:710000:65536\n77:900000:20\n")
	uids := []Range{{0, 100000, 1000}, {1000, 300000, 64536}}
	for _, c := range []struct {
		setting string
		want    Map
		fails   string
	}{
		{setting: ""},
		{setting: "root"},
		{setting: "0"},
		{setting: "ann", want: Map{uids, []Range{{0, 200000, 65536}}}},
		{setting: "1000", want: Map{uids, []Range{{0, 200000, 65536}}}},
		{setting: "ann:staff", want: Map{uids, []Range{{0, 400000, 100}}}},
		{setting: "1000:50", want: Map{uids, []Range{{0, 400000, 100}}}},
		{setting: "77", want: Map{[]Range{{0, 800000, 10}}, []Range{{0, 900000, 20}}}},
		{setting: "default", want: Map{[]Range{{0, 700000, 65536}}, []Range{{0, 710000, 65536}}}},
		{setting: "carl", fails: `there is no user "carl"`},
		{setting: "ann:nogroup", fails: `there is no group "nogroup"`},
		{setting: "ann:", fails: "want user, user:group"},
		{setting: "4000", fails: "add a line such as 4000:851968:65536"},
	} {
		got, err := Load(c.setting, dir)
		switch {
		case c.fails != "":
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%q: error %v, want %q", c.setting, err, c.fails)
			}
		case err != nil || !slices.Equal(got.UIDs, c.want.UIDs) || !slices.Equal(got.GIDs, c.want.GIDs):
			t.Errorf("%q: %v %v", c.setting, got, err)
		}
	}
	if u, g := (Map{uids, []Range{{0, 7, 1}}}).Root(); u != 100000 || g != 7 {
		t.Error(u, g)
	}
}

func TestNoRanges(t *testing.T) {
	_, err := Load("default", t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "subuid; add a line such as dockremap:100000:65536") {
		t.Error(err)
	}
	_, err = Load("ann", etc(t, "ann:1:x\n", ""))
	if err == nil || !strings.Contains(err.Error(), "is not name:first:count") {
		t.Error(err)
	}
	_, err = Load("ann", etc(t, "ann:100000:65536\n", "bob:100000:65536\n"))
	if err == nil || !strings.Contains(err.Error(), "subgid; add a line such as ann:196608:65536") {
		t.Error(err)
	}
}
