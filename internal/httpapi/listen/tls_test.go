package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRefusedOverTLS: who is not let in reads the reason, whatever it has sent.
func TestRefusedOverTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"here"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(newTLSListener(raw, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}))
	defer server.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	request := []byte("POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 200000))

	refused := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // whose server it is does not matter here
	for part := request; len(part) > 0; {                                // in pieces: the refusal comes between them
		n := min(4000, len(part))
		if _, err := refused.Write(part[:n]); err != nil {
			t.Fatalf("write: %v", err)
		}
		part = part[n:]
	}
	var alert tls.AlertError
	if _, err := refused.Read(make([]byte, 1)); !errors.As(err, &alert) && (err == nil || !strings.Contains(err.Error(), "certificate required")) {
		t.Errorf("no certificate: %v", err)
	}

	plain := dial()
	if _, err := plain.Write(request); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(plain); err != nil || !strings.Contains(string(text), "Client sent an HTTP request to an HTTPS server") {
		t.Errorf("no TLS: %v %q", err, text)
	}

	good := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}) //nolint:gosec // as above
	if _, err := good.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(good); err != nil || !strings.Contains(string(text), "404 page not found") {
		t.Errorf("a good one: %v %q", err, text)
	}
}
