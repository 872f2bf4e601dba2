package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

var (
	engine  = flag.String("engine", "", "unix:// address of a living engine")
	dockerd = flag.Bool("dockerd", false, "the engine is a dockerd: only what it shares with wherryd")
	update  = flag.Bool("update", false, "record the answers")
)

// scrub hides what may differ between two runs or two engines.
var scrub = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{64}`), "<ID>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "<TIME>"},
	{regexp.MustCompile(`Wherry/\S+`), "Wherry/<VERSION>"},
}

// TestGolden replays testdata/*/*.txtar. A file holds pairs:
//
//	-- POST /v1.41/containers/create?name=a --   the request: "> Name: value" headers, then its body
//	-- 201 --                                    the status wanted: "< Name: value" headers, then the body
//
// Only the headers that are named are compared. A request with a body has the
// content type application/json unless it names one.
func TestGolden(t *testing.T) {
	dirs := []string{"testdata/dockerd", "testdata/wherry"}
	if *dockerd {
		dirs = dirs[:1]
	}
	client, base := target(t)
	for _, dir := range dirs {
		files, err := filepath.Glob(dir + "/*.txtar")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files, %v", dir, err)
		}
		for _, name := range files {
			t.Run(filepath.Base(dir)+"/"+strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
				replay(t, client, base, name)
			})
		}
	}
}

// target is the engine, or the handlers over fakes.
func target(t *testing.T) (*http.Client, string) {
	client := &http.Client{
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if *engine == "" {
		srv := httptest.NewServer(handler(t))
		t.Cleanup(srv.Close)
		return client, srv.URL
	}
	path, ok := strings.CutPrefix(*engine, "unix://")
	if !ok {
		t.Fatalf("-engine=%s: want unix://path", *engine)
	}
	client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	return client, "http://engine"
}

func replay(t *testing.T, client *http.Client, base, name string) {
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Files)%2 != 0 {
		t.Fatalf("%s: a request without an answer", name)
	}
	for i := 0; i < len(a.Files); i += 2 {
		want := a.Files[i+1]
		got, err := exchange(client, base, a.Files[i], want)
		if err != nil {
			t.Errorf("%s: %v", a.Files[i].Name, err)
			continue
		}
		if *update {
			a.Files[i+1] = got
		} else if got.Name != want.Name || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%s\n got %s %s\nwant %s %s", a.Files[i].Name, got.Name, got.Data, want.Name, want.Data)
		}
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// exchange sends a request and writes the answer down as want is written.
func exchange(client *http.Client, base string, request, want txtar.File) (txtar.File, error) {
	method, path, _ := strings.Cut(request.Name, " ")
	headers, body := split(request.Data, "> ")
	body = bytes.TrimSuffix(body, []byte("\n"))
	req, err := http.NewRequest(method, base+path, bytes.NewReader(body))
	if err != nil {
		return txtar.File{}, err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ":")
		if v = strings.TrimSpace(v); v == "" {
			req.Header.Del(k)
			continue
		}
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return txtar.File{}, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return txtar.File{}, err
	}
	var out bytes.Buffer
	named, _ := split(want.Data, "< ")
	for _, h := range named {
		k, _, _ := strings.Cut(h, ":")
		fmt.Fprintf(&out, "< %s: %s\n", k, resp.Header.Get(k))
	}
	out.Write(indent(answer))
	return txtar.File{Name: fmt.Sprint(resp.StatusCode), Data: clean(out.Bytes())}, nil
}

// split takes the lines with a prefix off the beginning.
func split(data []byte, prefix string) (lines []string, rest []byte) {
	for bytes.HasPrefix(data, []byte(prefix)) {
		line, after, _ := bytes.Cut(data, []byte("\n"))
		lines, data = append(lines, strings.TrimSpace(string(line[len(prefix):]))), after
	}
	return lines, data
}

// indent makes a JSON answer readable and its members' order known.
func indent(b []byte) []byte {
	var v any
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if json.Unmarshal(b, &v) != nil || enc.Encode(v) != nil {
		return b
	}
	return out.Bytes()
}

func clean(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	if len(b) > 0 && !bytes.HasSuffix(b, []byte("\n")) {
		b = append(b, '\n')
	}
	for _, s := range scrub {
		b = s.re.ReplaceAll(b, []byte(s.with))
	}
	return b
}
