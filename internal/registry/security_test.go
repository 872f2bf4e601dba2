package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestCVE20232253: a catalogue of a size that the client chooses costs nothing
// before there is something to list.
func TestCVE20232253(t *testing.T) {
	s := serve(t, Options{})
	s.image("x", "v1", "content")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, n := range []string{"2147483647", "9223372036854775807", "100000000000000000000", "-1"} {
		if r := s.do("GET", "/v2/_catalog?n="+n, nil); r.StatusCode != 200 && r.StatusCode != 400 {
			t.Errorf("n=%s: %s", n, r.Status)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d MB were allocated for a catalogue of one repository", grown>>20)
	}
}

// TestDeletedStaysDeleted: what was deleted is not there for anybody who asks,
// whatever was asked before, also not as part of a new image or by a mount.
func TestDeletedStaysDeleted(t *testing.T) {
	s := serve(t, Options{Delete: true})
	s.load()
	m := s.image("x", "v1", "content")
	layer := digest.FromString("content")
	manifest := s.want(s.do("GET", "/v2/x/manifests/v1", nil), 200).body
	for range 3 {
		s.want(s.do("HEAD", "/v2/x/blobs/"+layer.String(), nil), 200)
	}
	s.want(s.do("DELETE", "/v2/x/blobs/"+layer.String(), nil), 202)
	s.want(s.do("HEAD", "/v2/x/blobs/"+layer.String(), nil), 404)
	if r := s.do("PUT", "/v2/x/manifests/again", manifest, "Content-Type", m.MediaType); r.StatusCode == 201 {
		t.Error("an image was taken whose layer is deleted")
	}
	if r := s.do("POST", "/v2/y/blobs/uploads/?mount="+layer.String()+"&from=x", nil); r.StatusCode == 201 {
		t.Error("a deleted blob was mounted")
	}
	s.want(s.do("DELETE", "/v2/x/manifests/"+m.Digest.String(), nil), 202)
	s.sweep(0)
	s.want(s.do("GET", "/v2/x/manifests/"+m.Digest.String(), nil), 404)
	// Whoever brings it to another repository does not bring it back here.
	s.blob("z", []byte("content"))
	s.want(s.do("HEAD", "/v2/x/blobs/"+layer.String(), nil), 404)
	s.want(s.do("HEAD", "/v2/z/blobs/"+layer.String(), nil), 200)
}

// signer makes tokens.
type signer struct {
	key  *ecdsa.PrivateKey
	cert []byte // DER
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key, der}
}

func (s *signer) token(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := part(header) + "." + part(claims)
	sum := sha256.Sum256([]byte(signed))
	r, sig, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := append(r.FillBytes(make([]byte, 32)), sig.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(raw)
}

func (s *signer) jwk() map[string]any {
	point, err := s.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		panic(err)
	}
	return map[string]any{"kty": "EC", "crv": "P-256",
		"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:])}
}

func (s *signer) x5c() []string { return []string{base64.StdEncoding.EncodeToString(s.cert)} }

// TestCVE202524976: a token counts only if a configured certificate's key signed
// it, whatever key it brings along itself. And what a token is good for is
// checked for every kind of request, the referrers among them.
func TestCVE202524976(t *testing.T) {
	good, bad := newSigner(t), newSigner(t)
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good.cert}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, Options{TokenRealm: "https://auth.example/token", TokenService: "images", TokenIssuer: "issuer", TokenCert: file})
	claims := func(actions ...string) map[string]any {
		now := time.Now().Unix()
		return map[string]any{"iss": "issuer", "aud": "images", "sub": "me", "iat": now, "nbf": now - 5, "exp": now + 60, "jti": "1",
			"access": []any{map[string]any{"type": "repository", "name": "x", "actions": actions}}}
	}
	referrers := "/v2/x/referrers/" + digest.FromString("s").String()
	r := s.want(s.do("GET", "/v2/x/tags/list", nil), 401)
	if h := r.Header.Get("WWW-Authenticate"); !strings.HasPrefix(h, `Bearer realm="https://auth.example/token",service="images",scope="repository:x:pull"`) {
		t.Errorf("challenge %q", h)
	}
	r = s.want(s.do("GET", referrers, nil), 401)
	if r.Header.Get("WWW-Authenticate") == "" {
		t.Error("referrers: no challenge")
	}
	ask := func(at, token string) int { return s.do("GET", at, nil, "Authorization", "Bearer "+token).StatusCode }
	for name, header := range map[string]map[string]any{
		"its chain":        {"alg": "ES256", "typ": "JWT", "x5c": good.x5c()},
		"its embedded key": {"alg": "ES256", "typ": "JWT", "jwk": good.jwk()},
	} {
		token := good.token(t, header, claims("pull"))
		if got := ask("/v2/x/tags/list", token); name == "its chain" && got != 404 && got != 200 {
			t.Errorf("the right key, by %s: %d", name, got)
		}
		if got := ask(referrers, token); name == "its chain" && got != 200 {
			t.Errorf("referrers with the right key, by %s: %d", name, got)
		}
		if got := ask("/v2/other/tags/list", token); got != 401 {
			t.Errorf("another repository: %d", got)
		}
	}
	for name, header := range map[string]map[string]any{
		"an embedded key":                        {"alg": "ES256", "typ": "JWT", "jwk": bad.jwk()},
		"an embedded key and the right chain":    {"alg": "ES256", "typ": "JWT", "jwk": bad.jwk(), "x5c": good.x5c()},
		"a chain of its own":                     {"alg": "ES256", "typ": "JWT", "x5c": bad.x5c()},
		"a chain that ends in the right one":     {"alg": "ES256", "typ": "JWT", "x5c": append(bad.x5c(), good.x5c()...)},
		"a key that has the right one's chain":   {"alg": "ES256", "typ": "JWT", "jwk": with(bad.jwk(), "x5c", good.x5c())},
		"an embedded key with the id of another": {"alg": "ES256", "typ": "JWT", "jwk": with(bad.jwk(), "kid", "issuer")},
		"a key id":                               {"alg": "ES256", "typ": "JWT", "kid": "issuer"},
		"no signature":                           {"alg": "none", "typ": "JWT"},
	} {
		token := bad.token(t, header, claims("pull"))
		for _, at := range []string{"/v2/x/tags/list", referrers} {
			if got := ask(at, token); got != 401 {
				t.Errorf("a token of another key, with %s: %d for %s", name, got, at)
			}
		}
	}
	late := claims("pull")
	late["exp"] = time.Now().Add(-time.Hour).Unix()
	if got := ask("/v2/x/tags/list", good.token(t, map[string]any{"alg": "ES256", "typ": "JWT", "x5c": good.x5c()}, late)); got != 401 {
		t.Errorf("an old token: %d", got)
	}
	if r := s.do("POST", "/v2/x/blobs/uploads/", nil, "Authorization", "Bearer "+good.token(t, map[string]any{"alg": "ES256", "typ": "JWT", "x5c": good.x5c()}, claims("pull"))); r.StatusCode != 401 {
		t.Errorf("a push with a token for pulls: %s", r.Status)
	}
}

func with(m map[string]any, k string, v any) map[string]any {
	m[k] = v
	return m
}
