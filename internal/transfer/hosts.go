package transfer

import (
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/wherry-engine/wherry/internal/transfer/login"
)

// Hosts lists where BuildKit's resolver asks for a registry host: the mirrors
// of the settings in order, then the registry itself. Credentials for the
// registry are the resolver's business; those of a mirror stay here.
func (c *Client) Hosts(host string) ([]docker.RegistryHost, error) {
	list, err := c.set.Load().endpoints(host, login.Credentials{}, true)
	if err != nil {
		return nil, err
	}
	var out []docker.RegistryHost
	for i, e := range list {
		can, client := docker.HostCapabilityPull|docker.HostCapabilityResolve, e.client
		if !e.mirror {
			can |= docker.HostCapabilityPush | docker.HostCapabilityReferrers
		} else if !e.creds.None() || len(e.rewrite) > 0 {
			own := *e.client
			own.Transport = &mirrorTransport{e: e, agent: c.agent, next: e.client.Transport}
			client = &own
		}
		if i+1 < len(list) && list[i+1].base.Host == e.base.Host { // http comes behind https, and who pushes asks the first alone
			client = &http.Client{Transport: docker.NewHTTPFallback(client.Transport), CheckRedirect: client.CheckRedirect, Jar: client.Jar, Timeout: client.Timeout}
		}
		out = append(out, docker.RegistryHost{Client: client, Host: e.base.Host, Scheme: e.base.Scheme, Path: e.base.Path + "/v2", Capabilities: can})
	}
	return out, nil
}

// mirrorTransport asks a mirror in the mirror's terms: by its names of
// repositories, with its credentials.
type mirrorTransport struct {
	e      *endpoint
	agent  string
	next   http.RoundTripper
	logins sync.Map // *login.Login by repository
}

var repositoryPath = regexp.MustCompile(`^(.+)(/(?:manifests|blobs|referrers|tags)/[^/]+)$`)

// RoundTrip sends a request, again if the mirror asks who we are.
func (t *mirrorTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	m := repositoryPath.FindStringSubmatch(strings.TrimPrefix(req.URL.Path, t.e.base.Path+"/v2/"))
	if m == nil || !t.e.owns(req.URL) {
		return t.next.RoundTrip(req) // where a redirect leads: neither names nor secrets
	}
	req = req.Clone(req.Context())
	repository := t.e.repository(m[1])
	req.URL.Path, req.URL.RawPath = t.e.base.Path+"/v2/"+repository+m[2], ""
	known, _ := t.logins.LoadOrStore(repository, t.e.login(t.agent, "repository:"+repository+":pull"))
	l := known.(*login.Login)
	for logins := 0; ; logins++ {
		used, err := l.Authorization(req.Context())
		if err != nil {
			return nil, err
		}
		if used != "" {
			req.Header.Set("Authorization", used)
		}
		resp, err := t.next.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || logins == maxLogins || t.e.creds.None() || req.Body != nil && req.Body != http.NoBody {
			return resp, err
		}
		if again, err := l.Answer(req.Context(), resp.Header, used); err != nil || !again {
			return resp, nil //nolint:nilerr // the refusal says it
		}
		resp.Body.Close()
	}
}
