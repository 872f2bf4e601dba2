package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the tables in docs/configuration.md")

// TestDocs holds the page for users to the table that the program works with.
func TestDocs(t *testing.T) {
	const path, begin, end = "../../docs/configuration.md", "<!-- tables begin -->\n", "<!-- tables end -->\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lost its marks", path)
	}
	if want := head + begin + tables() + end + tail; want != string(page) {
		if !*update {
			t.Errorf("%s does not say what options.go says; go test ./internal/config -run TestDocs -update", path)
		} else if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tables() string {
	var b strings.Builder
	row := func(o option, last string) {
		name, key := "–", "–"
		if o.flag != "" {
			name = "`--" + o.flag + "`"
			if o.short != "" {
				name += ", `-" + o.short + "`"
			}
		}
		if o.key != "" {
			key = "`" + o.key + "`"
		}
		if o.reload && o.class == served {
			last += " *(reloaded)*"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, key, last)
	}
	table := func(c class, title, head string, last func(option) string) {
		fmt.Fprintf(&b, "\n## %s\n\n| flag | key in daemon.json | %s |\n|---|---|---|\n", title, head)
		for _, o := range options {
			if o.class == c {
				row(o, last(o))
			}
		}
	}
	table(served, "Served", "what it does", func(o option) string { return strings.ReplaceAll(o.say, "|", " or ") })
	table(idle, "Accepted with a warning", "why it means nothing here", func(o option) string { return o.say })
	table(refused, "Refused by name", "accepted all the same with", func(o option) string {
		last := "–"
		if o.harmless != "" {
			last = "`" + o.harmless + "`"
		}
		if o.say != "" {
			last += " (" + o.say + ")"
		}
		return last
	})
	b.WriteString("\n")
	return b.String()
}
