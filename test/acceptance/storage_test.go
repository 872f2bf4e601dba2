package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestStorage: what a user sees is the same with both drivers, for images of as many
// layers as docker allows.
func TestStorage(t *testing.T) {
	harness.Require(t, "busybox")
	const layers = 127
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			e := harness.Run(t, harness.Options{Flags: []string{"--storage-driver", driver}})
			deep, err := harness.Busybox()
			if err != nil {
				t.Fatal(err)
			}
			deep.Names = []string{"deep:latest"}
			n := layers
			if driver == "vfs" {
				n = 12 // each is a copy of all before it
			}
			for i := len(deep.Layers); i < n; i++ {
				deep.Layers = append(deep.Layers, []harness.File{
					{Name: fmt.Sprintf("layer%d", i), Mode: 0o644, Data: []byte(fmt.Sprintln(i))},
					{Name: "top", Mode: 0o644, Data: []byte(fmt.Sprintln(i))},
				})
			}
			deep.Layers = append(deep.Layers[:n-1], []harness.File{
				{Name: ".wh.layer3", Mode: 0o644},
				{Name: "top", Mode: 0o644, Data: []byte("last\n")},
			})
			if err := e.Load(deep.DockerArchive()); err != nil {
				t.Fatal(err)
			}
			run := func(want string, args ...string) {
				t.Helper()
				out, errOut, code, err := e.CLI(args...)
				if err != nil || code != 0 || strings.TrimSpace(out) != want {
					t.Errorf("%q: %d %q %q %v, want %q", args, code, out, errOut, err, want)
				}
			}
			run(driver, "info", "-f", "{{.Driver}}")
			run(driver, "image", "inspect", "-f", "{{.GraphDriver.Name}}", "deep")
			run(fmt.Sprint(n), "image", "inspect", "-f", "{{len .RootFS.Layers}}", "deep")
			run("last", "run", "--rm", "deep", "cat", "/top")
			run(fmt.Sprint(n-3), "run", "--rm", "deep", "sh", "-c", "ls /layer* | wc -l")
			// Writing, deleting, and that neither is seen by the next container.
			run("mine", "run", "--name", "writer", "deep", "sh", "-c", "echo mine >/top; rm /layer1; mkdir /new; echo x >/new/file; cat /top")
			run("last\n/layer1", "run", "--rm", "deep", "sh", "-c", "cat /top; ls /layer1 /new/file 2>/dev/null || true")
			out, _, _, err := e.CLI("diff", "writer")
			changes := strings.Fields(strings.ReplaceAll(out, " ", ""))
			slices.Sort(changes)
			if want := []string{"A/new", "A/new/file", "C/top", "D/layer1"}; err != nil || !slices.Equal(changes, want) {
				t.Errorf("diff: %q %v, want %q", changes, err, want)
			}
			run("mine", "start", "-a", "writer")
		})
	}
}
