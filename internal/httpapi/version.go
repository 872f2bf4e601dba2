package httpapi

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxVersion is the newest API version: that of github.com/moby/moby/api.
const MaxVersion = "1.56"

// version is an API version; its major number has always been 1, so the minor
// one is what is compared.
type version int

const (
	oldest version = 24
	newest version = 56
)

func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// before reports whether v is older than 1.minor.
func (v version) before(minor int) bool { return int(v) < minor }

// splitVersion takes the version prefix off a path. given is the text between
// "/v" and the next slash, "" when the path has none.
func splitVersion(path string) (given, rest string) {
	if len(path) < 3 || path[1] != 'v' || path[2] < '0' || path[2] > '9' {
		return "", path
	}
	end := strings.IndexByte(path[1:], '/')
	if end < 0 {
		return "", path
	}
	given = path[2 : end+1]
	if strings.Trim(given, "0123456789.") != "" {
		return "", path
	}
	return given, path[end+1:]
}

// parseVersion checks that the version is served, with dockerd's words.
func parseVersion(given string, min version) (version, error) {
	major, minor, _ := strings.Cut(given, ".")
	minor, _, _ = strings.Cut(minor, ".")
	a, _ := strconv.Atoi(major) // nothing but digits and dots; what overflows is too new
	b, err := strconv.Atoi(minor)
	if err != nil && minor != "" {
		a = 2
	}
	switch v := version(b); {
	case a < 1 || a == 1 && v < min:
		return v, invalid(fmt.Sprintf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", given, min))
	case a > 1 || v > newest:
		return newest + 1, invalid(fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", given, newest))
	default:
		return v, nil
	}
}
