package challenge

import (
	"net/http"
	"testing"
)

func TestParse(t *testing.T) {
	h := http.Header{"Www-Authenticate": {`Bearer realm="https://a/t?x=1,2",service="s \"q\"",scope="a:b:c,d"`, `Basic realm=plain`, `Broken`, `Digest =`}}
	got := Parse(h)
	if len(got) != 4 || got[0].Params["realm"] != "https://a/t?x=1,2" || got[0].Params["service"] != `s "q"` || got[0].Params["scope"] != "a:b:c,d" || got[1].Params["realm"] != "plain" {
		t.Errorf("%v", got)
	}
}
