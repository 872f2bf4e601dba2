package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestJournal: what a container with the log driver journald writes is in the
// journal of systemd's own journald, with docker's fields, long lines too.
func TestJournal(t *testing.T) {
	harness.Require(t, "busybox", "journal")
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	const long = 200_000 // more than a datagram to the journal takes
	name := e.ID + "-box"
	script := fmt.Sprintf("echo out; echo err >&2; head -c %d /dev/zero | tr '\\0' x; echo; echo end", long)
	out, errOut, code, err := e.CLI("run", "-d", "--name", name, "--label", "tier=front", "-e", "KIND=test", "--log-driver", "journald",
		"--log-opt", "tag={{.ImageName}}", "--log-opt", "labels=tier", "--log-opt", "env=KIND", "busybox", "sh", "-c", script)
	if err != nil || code != 0 {
		t.Fatalf("run: %s %d %v", errOut, code, err)
	}
	id := strings.TrimSpace(out)
	// What was written is in the journal when the container has been removed.
	if _, errOut, code, err := e.CLI("wait", name); err != nil || code != 0 {
		t.Fatalf("wait: %s %d %v", errOut, code, err)
	}
	if logs, _, _, err := e.CLI("logs", "--tail", "1", name); err != nil || logs != "end\n" {
		t.Errorf("logs: %q %v", logs, err)
	}
	if _, errOut, code, err := e.CLI("rm", name); err != nil || code != 0 {
		t.Fatalf("rm: %s %d %v", errOut, code, err)
	}
	if out, err := exec.Command("journalctl", "--sync").CombinedOutput(); err != nil {
		t.Fatalf("journalctl --sync: %s %v", out, err)
	}
	list, err := exec.Command("journalctl", "-o", "json", "--all", "--no-pager", "CONTAINER_NAME="+name).Output()
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Message  string `json:"MESSAGE"`
		Priority string `json:"PRIORITY"`
		ID       string `json:"CONTAINER_ID"`
		FullID   string `json:"CONTAINER_ID_FULL"`
		Tag      string `json:"CONTAINER_TAG"`
		Image    string `json:"IMAGE_NAME"`
		Tier     string `json:"TIER"`
		Kind     string `json:"KIND"`
		Partial  string `json:"CONTAINER_PARTIAL_MESSAGE"`
	}
	var got, errors []string
	var pieces int
	for dec := json.NewDecoder(bytes.NewReader(list)); dec.More(); {
		var l entry
		if err := dec.Decode(&l); err != nil {
			t.Fatalf("%v in %.300s", err, list)
		}
		if l.ID != id[:12] || l.FullID != id || l.Tag != "busybox" || l.Image != "busybox" || l.Tier != "front" || l.Kind != "test" {
			l.Message = fmt.Sprintf("%.20s", l.Message)
			t.Errorf("fields: %+v", l)
		}
		switch {
		case l.Priority == "3":
			errors = append(errors, l.Message)
		case strings.Trim(l.Message, "x") == "":
			pieces += len(l.Message)
		default:
			got = append(got, l.Message)
		}
	}
	if strings.Join(got, " ") != "out end" || strings.Join(errors, " ") != "err" || pieces != long {
		t.Errorf("in the journal: %q, of stderr %q, %d bytes of the long line", got, errors, pieces)
	}
}
