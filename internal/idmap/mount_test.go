package idmap

import (
	"fmt"
	"math"
	"testing"
)

func TestParseMount(t *testing.T) {
	for text, want := range map[string]string{
		"uids=1000-0-1":                      "[{0 1000 1}] [{0 1000 1}]",
		"uids=1000-0-1#0-1-999;gids=100-0-2": "[{0 1000 1} {1 0 999}] [{0 100 2}]",
		"":                                   `invalid idmap "": expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]`,
		"nope":                               `invalid idmap "nope": expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]`,
		"uids=":                              `invalid idmap range "": expected DISK-CONTAINER-SIZE`,
		"gids=1-0-1":                         `invalid idmap "gids=1-0-1": expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]`,
		"uids=1-0":                           `invalid idmap range "1-0": expected DISK-CONTAINER-SIZE`,
		"uids=1-0-0":                         `invalid idmap range "1-0-0": it has no ids, or too many`,
		"uids=1-0-4294967295":                `invalid idmap range "1-0-4294967295": it has no ids, or too many`,
		"uids=x-0-1":                         `invalid idmap range "x-0-1": "x" is no id`,
		"uids=0-0-10#5-20-1":                 `invalid idmap range "5-20-1": it overlaps another one`,
		"uids=0-0-10#20-5-1":                 `invalid idmap range "20-5-1": it overlaps another one`,
		"uids=0-0-1;uids=1-1-1":              `invalid idmap "uids=0-0-1;uids=1-1-1": expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]`,
		"uids=4294967296-0-1":                `invalid idmap range "4294967296-0-1": "4294967296" is no id`,
		"uids=-1-0-1":                        `invalid idmap range "-1-0-1": expected DISK-CONTAINER-SIZE`,
	} {
		m, err := ParseMount(text)
		got := fmt.Sprint(m.UIDs, " ", m.GIDs)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// seen follows an id of the file system through ranges, as the kernel does.
func seen(list []Range, disk uint32) (uint32, bool) {
	for _, r := range list {
		if disk >= r.Host && disk-r.Host < r.Size {
			return r.Container + disk - r.Host, true
		}
	}
	return 0, false
}

func TestShow(t *testing.T) {
	for _, c := range [][2]uint32{{1000, 0}, {0, 1000}, {999, 1000}, {7, 7}, {math.MaxUint32 - 1, 0}} {
		list := Show(c[0], c[1])
		if got, ok := seen(list, c[0]); !ok || got != c[1] {
			t.Errorf("%v: shown as %d %t", c, got, ok)
		}
		if got, ok := seen(list, c[1]); c[0] != c[1] && ok {
			t.Errorf("%v: %d is shown as %d", c, c[1], got)
		}
		for _, other := range []uint32{1, 500, 998, 1001, 65534, 1 << 30} {
			if got, ok := seen(list, other); other != c[0] && other != c[1] && (!ok || got != other) {
				t.Errorf("%v: %d is shown as %d %t", c, other, got, ok)
			}
		}
	}
}

func TestWithin(t *testing.T) {
	outer := []Range{{0, 100000, 1000}, {1000, 500000, 100}}
	list := Within(Show(33, 0), outer)
	for disk, want := range map[uint32]uint32{33: 100000, 1: 100001, 999: 100999, 1005: 500005} {
		if got, ok := seen(list, disk); !ok || got != want {
			t.Errorf("%d: %d %t, want %d", disk, got, ok, want)
		}
	}
	for _, disk := range []uint32{0, 1100, 100000} {
		if got, ok := seen(list, disk); ok {
			t.Errorf("%d is shown as %d", disk, got)
		}
	}
}
