// Package promise owns the deal between the tests and the machine they run on:
// a test that misses something is skipped and says what, unless WHERRY_REQUIRE
// promised it. Then it fails, so that a lane that promises everything cannot
// pass by skipping.
package promise

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Made says whether WHERRY_REQUIRE, a list with commas, has the name.
func Made(name string) bool {
	return slices.Contains(strings.FieldsFunc(os.Getenv("WHERRY_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' }), name)
}

// Lacks ends a test on a machine without what has this name.
func Lacks(t testing.TB, name string, why ...any) {
	t.Helper()
	if Made(name) {
		t.Fatal(append([]any{name + " is required by this test and promised by WHERRY_REQUIRE, but not there: "}, why...)...)
	}
	t.Skip(append([]any{"needs " + name + ", which this machine does not offer: "}, why...)...)
}

// Root ends a test of another user than root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacks(t, "root", "namespaces, mounts and the owners of files are root's")
	}
}

// Program is the path of an installed program; scripts/promise promises it
// under its own name.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Lacks(t, name, err)
	}
	return path
}
