package failure

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                        "plain",
		" two\nlines\n":                "two\nlines",
		"\x1b[2Jclears\x07":            "[2Jclears",
		"\u009b2Jclears, too":          "2Jclears, too",
		"turns \u202eround":            "turns round",
		strings.Repeat("x", 999) + "é": strings.Repeat("x", 999) + "...",
	} {
		if got := Clean(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestDrips: of an error that does not end, what came counts.
func TestDrips(t *testing.T) {
	old := slow
	slow = 100 * time.Millisecond
	t.Cleanup(func() { slow = old })
	r, w := io.Pipe()
	go func() {
		for err := error(nil); err == nil; {
			_, err = w.Write([]byte(" "))
		}
	}()
	err := Read(&http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Body: &drip{r}})
	if err == nil || err.Error() != "denied: requested access to the resource is denied" {
		t.Error(err)
	}
}

// drip gives a byte at a time, and takes its time.
type drip struct{ *io.PipeReader }

func (d *drip) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond) // 64 KB would take more than a minute
	return d.PipeReader.Read(p[:1])
}
