package apparmor

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/promise"
)

func TestListed(t *testing.T) {
	const profiles = "docker-default (enforce)\n/usr/bin/man (enforce)\nlsb_release (complain)\nname with space (enforce)\n"
	for name, want := range map[string]bool{"docker-default": true, "/usr/bin/man": true, "name with space": true, "docker": false, "": false} {
		if listed(profiles, name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// The parser reads the profile without the kernel's having AppArmor.
func TestProfile(t *testing.T) {
	parser := promise.Program(t, "apparmor_parser")
	cmd := exec.Command(parser, "-QK")
	cmd.Stdin = strings.NewReader(Profile("docker-default"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestEnsureSaysWhy(t *testing.T) {
	if Enabled() {
		t.Skip("the kernel has AppArmor; this is about one without")
	}
	if err := Ensure("docker-default", Profile("docker-default")); err == nil || !strings.Contains(err.Error(), "securityfs is not mounted") && !strings.Contains(err.Error(), "apparmor") {
		t.Error(err)
	}
}
