package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// makeInstall is `make install` into a directory, of what bin/ holds already.
func makeInstall(t *testing.T, prefix string) string {
	t.Helper()
	harness.Require(t, "engine")
	dest := t.TempDir()
	cmd := exec.Command("make", "-s", "-o", "build", "install", "DESTDIR="+dest, "PREFIX="+prefix)
	cmd.Dir = harness.Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	return filepath.Join(dest, prefix)
}

// TestInstall: what make install puts down is whole: systemd finds no fault
// with the units, man none with the pages, the shells none with the completion.
func TestInstall(t *testing.T) {
	root := makeInstall(t, "/usr")
	for _, program := range []string{"wherry", "wherryd", "wherry-build", "wherry-registry"} {
		if out, err := exec.Command(filepath.Join(root, "bin", program), "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), " version ") {
			t.Errorf("%s: %v %s", program, err, out)
		}
	}
	t.Run("man", func(t *testing.T) {
		harness.Require(t, "man")
		for page, want := range map[string]string{"man1/wherry-run.1": "--publish", "man1/wherry-build.1": "--build-arg", "man1/wherry.1": "wherry-system(1)", "man8/wherryd.8": "--tlsverify"} {
			cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", filepath.Join(root, "share/man", page))
			cmd.Env = append(os.Environ(), "MANROFFSEQ=", "MANWIDTH=400", "LC_ALL=C.UTF-8")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "warning:") {
				t.Errorf("%s: %v\n%s", page, err, out)
			}
		}
		pages, err := filepath.Glob(filepath.Join(root, "share/man/man1/*"))
		if err != nil || len(pages) < 50 {
			t.Errorf("%d pages %v", len(pages), err)
		}
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("grep", append([]string{"-l", "-F", home + "/"}, pages...)...).CombinedOutput(); err == nil {
			t.Errorf("pages that know who built them:\n%s", out)
		}
	})
	t.Run("units", func(t *testing.T) {
		harness.Require(t, "systemd")
		units := filepath.Join(root, "lib/systemd/system")
		service := filepath.Join(units, "wherry.service")
		text, err := os.ReadFile(service)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "ExecStart=/usr/bin/wherryd -H fd://\n") {
			t.Errorf("%s", text)
		}
		// systemd looks whether the program is there, so it is named where it is.
		here := strings.ReplaceAll(string(text), "/usr/bin/wherryd", filepath.Join(root, "bin/wherryd"))
		if err := os.WriteFile(service, []byte(here), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("systemd-analyze", "verify", service, filepath.Join(units, "wherry.socket"))
		cmd.Env = append(os.Environ(), "MANPATH="+filepath.Join(root, "share/man"))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	})
	t.Run("completion", func(t *testing.T) {
		path := filepath.Join(root, "share/bash-completion/completions/wherry")
		if out, err := exec.Command("bash", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
		out, err := exec.Command(filepath.Join(root, "bin/wherry"), "__complete", "ru").Output()
		if err != nil || !strings.HasPrefix(string(out), "run\t") {
			t.Errorf("%v %s", err, out)
		}
	})
}

// TestDeb: the package is what make install installs, and dpkg can read it.
func TestDeb(t *testing.T) {
	harness.Require(t, "engine", "dpkg")
	cmd := exec.Command("scripts/build_deb")
	cmd.Dir = harness.Root()
	cmd.Env = append(os.Environ(), "DEB_COMPRESSION=none")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(harness.Root(), "bin/wherry_*.deb"))
	if err != nil || len(debs) == 0 {
		t.Fatalf("no package: %v\n%s", err, out)
	}
	_, after, _ := strings.Cut(string(out), "building package 'wherry' in '")
	name, _, _ := strings.Cut(after, "'")
	deb := filepath.Join(harness.Root(), name)
	t.Cleanup(func() { os.Remove(deb) })
	list, err := exec.Command("dpkg-deb", "-c", deb).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	for _, want := range []string{" ./usr/bin/wherryd\n", " ./usr/lib/systemd/system/wherry.socket\n", " ./usr/share/man/man8/wherryd.8.gz\n", " ./usr/share/bash-completion/completions/wherry\n"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("not in the package: %s", want)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		if !strings.Contains(line, " root/root ") {
			t.Errorf("not root's: %s", line)
		}
	}
	// Installed into an empty root without its scripts: dpkg accepts it.
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg/updates"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"status", "available"} {
		if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg", f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("dpkg", "--root="+root, "--force-script-chrootless", "--unpack", deb).CombinedOutput(); err != nil {
		t.Errorf("dpkg --unpack: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/wherryd")); err != nil {
		t.Error(err)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		if out, err := exec.Command("sh", "-n", filepath.Join(harness.Root(), "dist/debian", script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", script, err, out)
		}
	}
}
