package idmap

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxRanges is how many the kernel takes for one namespace.
const maxRanges = 340

// ParseMount reads how the owners of a mount's files are shown in a container:
// "uids=DISK-CONTAINER-SIZE[#…][;gids=…]", where DISK is the id on the file
// system. Without gids they are as the uids. Ids that no range has belong to
// nobody in the container.
func ParseMount(text string) (Map, error) {
	var m Map
	for part := range strings.SplitSeq(text, ";") {
		kind, list, _ := strings.Cut(part, "=")
		if kind != "uids" && kind != "gids" {
			return m, fmt.Errorf("invalid idmap %q: expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]", text)
		}
		ranges, err := parseRanges(list)
		if err != nil {
			return m, err
		}
		switch {
		case kind == "uids" && m.UIDs == nil:
			m.UIDs = ranges
		case kind == "gids" && m.GIDs == nil:
			m.GIDs = ranges
		default:
			return m, fmt.Errorf("invalid idmap %q: expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]", text)
		}
	}
	if m.UIDs == nil {
		return m, fmt.Errorf("invalid idmap %q: expected uids=DISK-CONTAINER-SIZE[#...][;gids=...]", text)
	}
	if m.GIDs == nil {
		m.GIDs = m.UIDs
	}
	return m, nil
}

func parseRanges(list string) ([]Range, error) {
	var out []Range
	for text := range strings.SplitSeq(list, "#") {
		var n [3]uint32
		f := strings.Split(text, "-")
		if len(f) != 3 {
			return nil, fmt.Errorf("invalid idmap range %q: expected DISK-CONTAINER-SIZE", text)
		}
		for i, s := range f {
			v, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("invalid idmap range %q: %q is no id", text, s)
			}
			n[i] = uint32(v)
		}
		r := Range{Host: n[0], Container: n[1], Size: n[2]}
		if r.Size == 0 || uint64(r.Host)+uint64(r.Size) > math.MaxUint32 || uint64(r.Container)+uint64(r.Size) > math.MaxUint32 {
			return nil, fmt.Errorf("invalid idmap range %q: it has no ids, or too many", text)
		}
		for _, o := range out {
			if overlap(r.Host, o.Host, r.Size, o.Size) || overlap(r.Container, o.Container, r.Size, o.Size) {
				return nil, fmt.Errorf("invalid idmap range %q: it overlaps another one", text)
			}
		}
		if out = append(out, r); len(out) > maxRanges {
			return nil, fmt.Errorf("more than %d idmap ranges", maxRanges)
		}
	}
	return out, nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// Show gives the ranges that show the owner disk as another id and all others
// as they are. The two places that this leaves open stay empty: nobody in the
// container can act as whom seen is on the file system.
func Show(disk, seen uint32) []Range {
	if disk == seen {
		return []Range{{Size: math.MaxUint32}}
	}
	out := []Range{{Container: seen, Host: disk, Size: 1}}
	lo, hi := min(disk, seen), max(disk, seen)
	for _, r := range [][2]uint32{{0, lo}, {lo + 1, hi}, {hi + 1, math.MaxUint32}} {
		if r[0] < r[1] {
			out = append(out, Range{Container: r[0], Host: r[0], Size: r[1] - r[0]})
		}
	}
	return out
}

// Within gives the ranges that do for a container in a user namespace with the
// ranges outer what list does for one without. An empty outer is none.
func Within(list, outer []Range) []Range {
	if len(outer) == 0 {
		return slices.Clone(list)
	}
	var out []Range
	for _, r := range list {
		for _, o := range outer {
			from := max(r.Container, o.Container)
			to := min(uint64(r.Container)+uint64(r.Size), uint64(o.Container)+uint64(o.Size))
			if uint64(from) < to {
				out = append(out, Range{Container: o.Host + (from - o.Container), Host: r.Host + (from - r.Container), Size: uint32(to - uint64(from))})
			}
		}
	}
	return out
}
