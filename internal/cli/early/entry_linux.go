//go:build amd64 || arm64

package early

// entry is the program's beginning, for the linker; see its other half.
func entry() //nolint:unused // by its name, -E
