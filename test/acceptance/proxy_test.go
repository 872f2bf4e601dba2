package acceptance

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// witness is a proxy that reaches nothing and remembers what it was asked for.
type witness struct {
	mu   sync.Mutex
	seen []string
}

func (p *witness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Method+" "+r.RequestURI)
	p.mu.Unlock()
	w.WriteHeader(http.StatusNotFound)
}

// asked tells whether it was asked for something since the last time.
func (p *witness) asked(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.seen = nil }()
	return strings.Contains(strings.Join(p.seen, "\n"), what)
}

// TestProxies: daemon.json's proxies hold for pulls and imports from the start;
// others in a reload are named as what a restart brings, and then they hold.
func TestProxies(t *testing.T) {
	config := func(port int) string {
		return fmt.Sprintf(`{"bridge": "none", "insecure-registries": ["reg.example:80"], "proxies": {"http-proxy": "http://me:secret@127.0.0.1:%d", "https-proxy": "http://127.0.0.1:%[1]d"}}`, port)
	}
	e := harness.Run(t, harness.Options{Config: config(3128), Env: []string{"HTTP_PROXY=http://127.0.0.1:3", "no_proxy=direct.example"}})
	proxy := func(port int) *witness {
		t.Helper()
		p := &witness{}
		err := e.Within(func() error { // the engine's network is its own, so is the port
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
			if err != nil {
				return err
			}
			s := &http.Server{Handler: p}
			go s.Serve(l) //nolint:errcheck // until it is closed
			t.Cleanup(func() { s.Close() })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if log := e.LogTail(20); !strings.Contains(log, `msg="the configuration's proxy is used, not the environment's" variable=HTTP_PROXY`) {
		t.Errorf("the environment's proxy is passed over in silence:\n%s", log)
	}
	one, two := proxy(3128), proxy(3129)
	check := func(when string, in, out *witness, port int) {
		t.Helper()
		_, said, err := e.API("POST", "/images/create?fromImage=reg.example:80/x&tag=1", nil)
		if err != nil || !strings.Contains(string(said), "manifest for reg.example:80/x:1 not found") {
			t.Errorf("%s: pull: %s %v", when, said, err)
		}
		if !in.asked("GET http://reg.example:80/v2/x/manifests/1") {
			t.Errorf("%s: the pull did not ask the proxy", when)
		}
		if _, _, err := e.API("POST", "/images/create?fromSrc=http://files.example/x.tar", nil); err != nil {
			t.Error(err)
		}
		if !in.asked("GET http://files.example/x.tar") {
			t.Errorf("%s: the import did not ask the proxy", when)
		}
		if _, _, err := e.API("POST", "/images/create?fromSrc=http://direct.example/x.tar", nil); err != nil {
			t.Error(err)
		}
		if in.asked("direct.example") || out.asked(" ") {
			t.Errorf("%s: the proxy was asked for what it is not for", when)
		}
		var info struct{ HTTPProxy, HTTPSProxy, NoProxy string }
		at := fmt.Sprint("127.0.0.1:", port)
		if err := e.GetJSON("/info", &info); err != nil || info.HTTPProxy != "http://xxxxx:xxxxx@"+at || info.HTTPSProxy != "http://"+at || info.NoProxy != "direct.example" {
			t.Errorf("%s: info: %+v %v", when, info, err)
		}
	}
	check("at the start", one, two, 3128)
	if err := e.Reload(config(3129)); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"http-proxy", "https-proxy"} {
		if log := e.LogTail(20); !strings.Contains(log, `msg="this setting takes effect when wherryd is restarted" key=`+key) {
			t.Errorf("%s is not named after the reload:\n%s", key, log)
		}
	}
	check("after the reload", one, two, 3128)
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
	check("after the restart", two, one, 3129)
}
