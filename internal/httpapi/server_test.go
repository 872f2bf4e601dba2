package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/internal/filter"
	"github.com/wherry-engine/wherry/internal/lifecycle"
	"github.com/wherry-engine/wherry/internal/query"
	"github.com/wherry-engine/wherry/internal/session"
)

// The fakes below have a function for what a test needs; the embedded nil
// interface makes any other call panic, which the test sees as a 500.

type fakeLifecycle struct {
	Lifecycle
	create func(lifecycle.CreateRequest) (container.CreateResponse, error)
	start  func(ref string) error
	stop   func(ref, signal string, timeout *int) error
	wait   func(ref string, cond container.WaitCondition) (<-chan container.WaitResponse, error)
}

func (f fakeLifecycle) Create(_ context.Context, r lifecycle.CreateRequest) (container.CreateResponse, error) {
	return f.create(r)
}
func (f fakeLifecycle) Start(_ context.Context, ref string) error { return f.start(ref) }
func (f fakeLifecycle) Stop(_ context.Context, ref, signal string, timeout *int) error {
	return f.stop(ref, signal, timeout)
}
func (f fakeLifecycle) Wait(_ context.Context, ref string, c container.WaitCondition) (<-chan container.WaitResponse, error) {
	return f.wait(ref, c)
}

type fakeSessions struct {
	Sessions
	attach func(ref string, o session.AttachOptions, h session.Hijack) error
	exec   func(id string, o session.ExecStartOptions, h session.Hijack) error
}

func (f fakeSessions) Attach(_ context.Context, ref string, o session.AttachOptions, h session.Hijack) error {
	return f.attach(ref, o, h)
}
func (f fakeSessions) ExecStart(_ context.Context, id string, o session.ExecStartOptions, h session.Hijack) error {
	return f.exec(id, o, h)
}

type fakeViews struct {
	Views
	inspect func(ref string) (*container.InspectResponse, error)
	logs    func(ctx context.Context, o query.LogsOptions, open func(bool) (io.Writer, io.Writer)) error
	stats   func(ref string, stream, oneShot bool, send func(*container.StatsResponse) error) error
}

func (f fakeViews) Stats(_ context.Context, ref string, stream, oneShot bool, send func(*container.StatsResponse) error) error {
	return f.stats(ref, stream, oneShot, send)
}

func (f fakeViews) Inspect(_ context.Context, ref string, _ bool) (*container.InspectResponse, error) {
	return f.inspect(ref)
}
func (f fakeViews) Logs(ctx context.Context, _ string, o query.LogsOptions, open func(bool) (io.Writer, io.Writer)) error {
	return f.logs(ctx, o, open)
}

type fakeEvents struct {
	past []events.Message
	live chan events.Message
}

func (f fakeEvents) Subscribe(context.Context, time.Time, time.Time, filter.Args) ([]events.Message, <-chan events.Message) {
	return f.past, f.live
}

// newServer returns a server that is ready, and what it logged.
func newServer(t *testing.T, b Backends) (*Server, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	s, err := New(Options{Version: "test", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.Ready(b)
	return s, &log
}

// do sends one request to the handler and returns the answer.
func do(s http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestVersionIsThatOfTheTypes(t *testing.T) {
	if MaxVersion != client.MaxAPIVersion || newest.String() != MaxVersion {
		t.Errorf("MaxVersion %s, newest %s, moby's client %s", MaxVersion, newest, client.MaxAPIVersion)
	}
}

func TestPingNeedsNoEngine(t *testing.T) {
	s, err := New(Options{Version: "1.2"})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "HEAD"} {
		w := do(s, method, "/v1.41/_ping", "")
		h := w.Header()
		if w.Code != 200 || h.Get("Api-Version") != MaxVersion || h.Get("Docker-Experimental") != "false" || h.Get("Swarm") != "inactive" ||
			h.Get("Server") != "Wherry/1.2 (linux)" || h.Get("Builder-Version") != "2" || !strings.Contains(h.Get("Cache-Control"), "no-store") {
			t.Errorf("%s: %d %v", method, w.Code, h)
		}
		if body := w.Body.String(); method == "GET" && body != "OK" || method == "HEAD" && body != "" {
			t.Errorf("%s: %q", method, body)
		}
	}
}

func TestRequestsWaitForTheEngine(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan int)
	go func() { answer <- do(s, "POST", "/containers/a/start", "").Code }()
	select {
	case code := <-answer:
		t.Fatalf("answered %d before the engine was ready", code)
	case <-time.After(20 * time.Millisecond):
	}
	s.Ready(Backends{Lifecycle: fakeLifecycle{start: func(string) error { return nil }}})
	if code := <-answer; code != 204 {
		t.Errorf("got %d", code)
	}
}

func TestRoutes(t *testing.T) {
	var got string
	s, log := newServer(t, Backends{Lifecycle: fakeLifecycle{
		start: func(ref string) error {
			got = ref
			switch ref {
			case "running":
				return errdefs.ErrNotModified
			case "panics":
				panic("bug")
			case "odd":
				return errors.New("odd")
			}
			return nil
		},
		stop: func(ref, signal string, timeout *int) error {
			got = fmt.Sprint(ref, " ", signal, " ", timeout != nil && *timeout == -1)
			return nil
		},
	}})
	tests := []struct {
		method, path string
		code         int
		got          string
	}{
		{"POST", "/containers/a/start", 204, "a"},
		{"POST", "/v1.24/containers/a/start", 204, "a"},
		{"POST", "/v1.56/containers/a/b/start", 204, "a/b"},
		{"POST", "/containers/a%2Fb/start", 204, "a/b"},
		{"POST", "/containers/running/start", 304, "running"},
		{"POST", "/containers/a/stop?t=-1&signal=INT", 204, "a INT true"},
		{"POST", "/v1.41/containers/a/stop?t=-1&signal=INT", 204, "a  true"},
		{"POST", "/containers/a/stop?t=x", 400, ""},
		{"GET", "/containers/a/start", 404, ""},
		{"POST", "/v1.57/containers/a/start", 400, ""},
		{"POST", "/v1.23/containers/a/start", 400, ""},
		{"POST", "/v2.0/containers/a/start", 400, ""},
		{"POST", "/v1.24/containers/prune", 404, ""},
		{"POST", "//containers//a/start", 301, ""},
		{"GET", "/v1.41/version/", 404, ""},
		{"GET", "/images/search", 501, ""},
		{"GET", "/services", 503, ""},
		{"OPTIONS", "/anything", 200, ""},
		{"POST", "/containers/panics/start", 500, "panics"},
		{"POST", "/containers/odd/start", 500, "odd"},
	}
	for _, tt := range tests {
		got = ""
		if w := do(s, tt.method, tt.path, ""); w.Code != tt.code || got != tt.got {
			t.Errorf("%s %s: %d %q %s; want %d %q", tt.method, tt.path, w.Code, got, w.Body, tt.code, tt.got)
		}
	}
	if l := log.String(); !strings.Contains(l, "type=*errors.errorString") || !strings.Contains(l, "panic=bug") || strings.Contains(l, "/images/search") {
		t.Errorf("log: %s", l)
	}
}

func TestUnservedRoutesNameThePart(t *testing.T) {
	s, _ := newServer(t, Backends{})
	w := do(s, "POST", "/plugins/pull", "")
	if want := `{"message":"plugin is not served by this version of wherryd"}` + "\n"; w.Code != 501 || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestRouteTable finds paths that no request can reach because another one is before them.
func TestRouteTable(t *testing.T) {
	b := &Backends{}
	lists := [][]route{systemRoutes(b), containerRoutes(b), streamRoutes(b), execRoutes(b), imageRoutes(b), networkRoutes(b), fileRoutes(b), buildRoutes(b), unservedRoutes()}
	r := newRouter(lists...)
	seen := map[string]bool{}
	for _, list := range lists {
		for _, one := range list {
			key := one.method + " " + one.path
			if seen[key] {
				t.Errorf("%s twice", key)
			}
			seen[key] = true
			path := strings.ReplaceAll(one.path, "{name}", "repo/image:tag")
			if found, name, ok := r.find(one.method, path); !ok || found.path != one.path || name != "" && name != "repo/image:tag" {
				t.Errorf("%s %s leads to %q, name %q", one.method, path, found.path, name)
			}
		}
	}
}

func TestLegacyInspect(t *testing.T) {
	var r container.InspectResponse
	if err := json.Unmarshal([]byte(`{"Id":"x","HostConfig":{"Memory":9007199254740993},"Config":{"Env":["a=<b>"]},"NetworkSettings":{"Networks":{"bridge":{
		"IPAddress":"172.17.0.2","IPPrefixLen":16,"Gateway":"172.17.0.1","MacAddress":"02:42:ac:11:00:02"}}}}`), &r); err != nil {
		t.Fatal(err)
	}
	s, _ := newServer(t, Backends{Views: fakeViews{inspect: func(string) (*container.InspectResponse, error) { return &r, nil }}})
	old := do(s, "GET", "/v1.41/containers/x/json", "").Body.String()
	for _, want := range []string{`"IPAddress":"172.17.0.2"`, `"SecondaryIPAddresses":null`, `"Bridge":""`, `"MacAddress":"02:42:ac:11:00:02"`, `9007199254740993`, `a=<b>`, `"KernelMemory":0`} {
		if !strings.Contains(old, want) {
			t.Errorf("1.41 lacks %s:\n%s", want, old)
		}
	}
	if now := do(s, "GET", "/containers/x/json", "").Body.String(); strings.Contains(now, "SecondaryIPAddresses") || strings.Contains(now, "KernelMemory") {
		t.Errorf("newest: %s", now)
	}
}

func TestCreateOfOlderClients(t *testing.T) {
	var got lifecycle.CreateRequest
	s, _ := newServer(t, Backends{Lifecycle: fakeLifecycle{create: func(r lifecycle.CreateRequest) (container.CreateResponse, error) {
		got = r
		return container.CreateResponse{ID: "i"}, nil
	}}})
	body := `{"Image":"a","MacAddress":"02:42:ac:11:00:05","HostConfig":{"NetworkMode":"default","PidsLimit":-1,"ConsoleSize":[3,4],
		"Mounts":[{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}],"PortBindings":{"80/tcp":[]}}}`

	if w := do(s, "POST", "/v1.39/containers/create?name=n&platform=x", body); w.Code != 201 || w.Body.String() != `{"Id":"i","Warnings":[]}`+"\n" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	h := got.HostConfig
	if got.Name != "n" || got.Platform != "" || h.NetworkMode != "bridge" || h.IpcMode != "shareable" || h.CgroupnsMode != "host" || h.PidsLimit != nil ||
		h.ConsoleSize != [2]uint{} || !h.Mounts[0].BindOptions.ReadOnlyNonRecursive || got.Networking.EndpointsConfig["bridge"].MacAddress.String() != "02:42:ac:11:00:05" {
		t.Errorf("1.39: %+v %+v", h, got.Networking.EndpointsConfig)
	}

	w := do(s, "POST", "/v1.50/containers/create?platform=linux/amd64", body)
	h = got.HostConfig
	if h.IpcMode != "" || h.CgroupnsMode != "" || h.ConsoleSize != [2]uint{3, 4} || h.Mounts[0].BindOptions != nil || got.Platform != "linux/amd64" ||
		!strings.Contains(w.Body.String(), "container-wide MacAddress field is now deprecated") {
		t.Errorf("1.50: %+v %s", h, w.Body)
	}

	for body, want := range map[string]string{
		`{`:               "invalid JSON: unexpected EOF",
		`{}`:              "config cannot be empty in order to create a container",
		`{"Image":"a"}{}`: "unexpected content after JSON",
		`{"Image":"a","HostConfig":{"Mounts":[{"Type":"volume","Target":"/b","BindOptions":{}}]}}`: `BindOptions must not be specified on mount type \"volume\"`,
	} {
		if w := do(s, "POST", "/containers/create", body); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := do(s, "POST", "/containers/create", `{"Image":"`+strings.Repeat("a", maxBody)+`"}`); w.Code != 400 || !strings.Contains(w.Body.String(), "too large") {
		t.Errorf("%d %.100s", w.Code, w.Body)
	}
}

func TestEvents(t *testing.T) {
	live := make(chan events.Message, 1)
	live <- events.Message{Type: events.ContainerEventType, Action: events.ActionStart, Actor: events.Actor{ID: "c", Attributes: map[string]string{"image": "i"}}}
	close(live)
	s, _ := newServer(t, Backends{Events: fakeEvents{
		past: []events.Message{{Type: events.ImageEventType, Action: events.ActionCreate, Actor: events.Actor{ID: "x"}}}, live: live}})
	w := do(s, "GET", "/v1.41/events?since=1", "")
	if b := w.Body.String(); strings.Count(b, "\n") != 1 || !strings.Contains(b, `"from":"i"`) || !strings.Contains(b, `"status":"start"`) || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("1.41: %v %s", w.Header(), b)
	}
	live = make(chan events.Message)
	close(live)
	w = do(s, "GET", "/events?until=1", "")
	if b := w.Body.String(); !strings.Contains(b, `"status":"create"`) || !strings.Contains(b, `"Action":"create"`) || w.Header().Get("Content-Type") != "application/jsonl" {
		t.Errorf("newest: %v %s", w.Header(), b)
	}
	for q, want := range map[string]string{
		"since=x":               `invalid value for 'since': invalid timestamp \"x\": invalid seconds \"x\": invalid syntax`,
		"since=20&until=9":      "`since` time (20) cannot be after `until` time (9)",
		"filters=bad":           "invalid filter",
		`filters={"foo":["a"]}`: "invalid filter 'foo'",
	} {
		if w := do(s, "GET", "/events?"+strings.ReplaceAll(q, `"`, "%22"), ""); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
		}
	}
}

func BenchmarkPing(b *testing.B) {
	s, err := New(Options{Version: "1"})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("HEAD", "/_ping", nil)
	for b.Loop() {
		s.ServeHTTP(httptest.NewRecorder(), r)
	}
}
