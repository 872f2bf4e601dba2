package httpapi

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/httpapi/listen"
)

// certificate makes a key pair signed by ca, or by itself.
func certificate(t *testing.T, dir, name string, ca *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: ca == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := tmpl, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: k})
	if err := errors.Join(os.WriteFile(filepath.Join(dir, name+".pem"), certPEM, 0o600), os.WriteFile(filepath.Join(dir, name+"-key.pem"), keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestTLSWantsAKnownClient(t *testing.T) {
	dir := t.TempDir()
	ca := certificate(t, dir, "ca", nil)
	certificate(t, dir, "server", &ca)
	friend := certificate(t, dir, "client", &ca)
	stranger := certificate(t, dir, "stranger", nil)

	c := config.New(func(string) string { return "" })
	c.Hosts = []string{"tcp://127.0.0.1:0"}
	c.TLS.Enabled, c.TLS.Verify = true, true
	c.TLS.CACert, c.TLS.Cert, c.TLS.Key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	ls, err := listen.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newServer(t, Backends{Sessions: fakeSessions{attach: echo(true)}})
	done := make(chan error)
	go func() { done <- s.Serve(ls[0]) }()
	defer func() {
		if err := errors.Join(s.Shutdown(t.Context()), <-done); err != nil {
			t.Error(err)
		}
	}()

	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	ping := func(certs ...tls.Certificate) error {
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}}}
		resp, err := client.Get("https://" + ls[0].Addr().String() + "/_ping")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ping(friend); err != nil {
		t.Errorf("known client: %v", err)
	}
	if ping() == nil || ping(stranger) == nil {
		t.Error("an unknown client was answered")
	}

	// A stream over TLS ends in both directions, each by itself.
	conn, err := tls.Dial("tcp", ls[0].Addr().String(), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{friend}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /containers/a/attach?stdin=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello")
	r := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); !strings.Contains(string(got), "hello") || err != nil {
		t.Errorf("%q %v", got, err)
	}
}
