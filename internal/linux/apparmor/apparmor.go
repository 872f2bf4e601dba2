// Package apparmor owns what is asked of the kernel's AppArmor: whether it is
// there, which profiles it has, and the loading of one through the parser that
// the distribution ships, since the kernel takes compiled policy only.
package apparmor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// Paths of the kernel's files, for tests to replace.
const (
	enabledFile  = "/sys/module/apparmor/parameters/enabled"
	profilesFile = "/sys/kernel/security/apparmor/profiles"
)

// Enabled tells whether the kernel confines by profiles.
func Enabled() bool {
	b, err := os.ReadFile(enabledFile)
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

// Loaded tells whether the kernel has the profile. The list is only readable
// where securityfs is mounted.
func Loaded(name string) (bool, error) {
	b, err := os.ReadFile(profilesFile)
	if err != nil {
		return false, err
	}
	return listed(string(b), name), nil
}

// listed looks for a line such as "name (enforce)".
func listed(profiles, name string) bool {
	for line := range strings.Lines(profiles) {
		if at := strings.LastIndex(line, " ("); at >= 0 && line[:at] == name {
			return true
		}
	}
	return false
}

// Ensure makes sure that the kernel has the profile name, loading text when it
// does not. The error says why that cannot be.
func Ensure(name, text string) error {
	ok, err := Loaded(name)
	switch {
	case ok:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist: securityfs is not mounted", profilesFile)
	case err != nil:
		return err
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		return errors.New("apparmor_parser is not installed")
	}
	cmd := exec.Command(parser, "-Kr") // -K: no cache file, -r: replace
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apparmor_parser: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Profile is the text of a profile for containers called name: files as the
// mounts allow, but nothing of /proc and /sys that changes the kernel, no
// mounts, and ptrace and signals among its like only.
func Profile(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "profile %s flags=(attach_disconnected,mediate_deleted) {\n", name)
	for _, rule := range []string{
		"network", "capability", "file", "umount",
		"signal (receive) peer=unconfined", "signal (receive) peer=runc", "signal (receive) peer=crun",
		"signal (send,receive) peer=" + name,
		"deny @{PROC}/* w",
		"deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w",
		"deny @{PROC}/sys/[^k]** w",
		"deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w",
		"deny @{PROC}/sysrq-trigger rwklx", "deny @{PROC}/kcore rwklx",
		"deny mount",
		"deny /sys/[^f]*/** wklx", "deny /sys/f[^s]*/** wklx", "deny /sys/fs/[^c]*/** wklx", "deny /sys/fs/c[^g]*/** wklx",
		"deny /sys/fs/cg[^r]*/** wklx", "deny /sys/firmware/** rwklx", "deny /sys/devices/virtual/powercap/** rwklx",
		"deny /sys/kernel/security/** rwklx",
		"ptrace (trace,read,tracedby,readby) peer=" + name,
	} {
		b.WriteString("  " + rule + ",\n")
	}
	b.WriteString("}\n")
	return "@{PROC}=/proc/\n" + b.String()
}
