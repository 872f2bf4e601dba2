// Package embedded owns the programs that wherryd carries inside itself, so
// that it is a whole installation by itself.
package embedded

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed all:bin
var files embed.FS

// Keeper returns the program that supervises processes.
func Keeper() ([]byte, error) { return program("wherry-keeper") }

// Init returns the program that is run first inside new namespaces.
func Init() ([]byte, error) { return program("wherry-init") }

// Hello returns the program of the built-in hello-world image.
func Hello() ([]byte, error) { return program("wherry-hello") }

func program(name string) ([]byte, error) {
	b, err := files.ReadFile("bin/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("built without %s: run make build", name)
	}
	return b, err
}
