package ship

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", nil)
	return a
}

// issue writes NAME.pem and NAME-key.pem; without a signer it signs itself.
func (a *authority) issue(name string, signer *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: signer == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, by := template, key
	if signer != nil {
		parent, by = signer.cert, signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

// TestSyslogTLS sends over TLS: framed as RFC 5425 has it with the formats of
// RFC 5424, only to a server that the authority vouches for, with the client's
// own certificate.
func TestSyslogTLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	ca.issue("server", ca)
	ca.issue("client", ca)
	pair, err := tls.LoadX509KeyPair(ca.path("server.pem"), ca.path("server-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type message struct{ text, from string }
	got := make(chan message, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				n, err := c.Read(buf)
				if err != nil {
					return // the client did not like the certificate
				}
				m := message{text: string(buf[:n])}
				if peers := c.(*tls.Conn).ConnectionState().PeerCertificates; len(peers) > 0 {
					m.from = peers[0].Subject.CommonName
				}
				got <- m
			}()
		}
	}()
	for _, c := range []struct {
		name   string
		more   map[string]string
		from   string
		framed bool
		fails  string
	}{
		{name: "authority", more: map[string]string{"syslog-tls-ca-cert": ca.path("ca.pem")}},
		{name: "framed", more: map[string]string{"syslog-tls-ca-cert": ca.path("ca.pem"), "syslog-format": "rfc5424"}, framed: true},
		{name: "framed, microseconds", more: map[string]string{"syslog-tls-ca-cert": ca.path("ca.pem"), "syslog-format": "rfc5424micro"}, framed: true},
		{name: "client certificate", more: map[string]string{"syslog-tls-ca-cert": ca.path("ca.pem"), "syslog-tls-cert": ca.path("client.pem"), "syslog-tls-key": ca.path("client-key.pem")}, from: "client"},
		{name: "unknown authority", more: map[string]string{"syslog-tls-ca-cert": stranger.path("ca.pem")}, fails: "certificate signed by unknown authority"},
		{name: "unverified", more: map[string]string{"syslog-tls-ca-cert": stranger.path("ca.pem"), "syslog-tls-skip-verify": "true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := map[string]string{"syslog-address": "tcp+tls://" + l.Addr().String(), "tag": "web"}
			for k, v := range c.more {
				options[k] = v
			}
			_, _, sink, _ := setup(t, "syslog", options)
			s := newSender(sink)
			defer s.close()
			err := s.send(t.Context(), entry("hello"))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v, want %s", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			select {
			case m := <-got:
				text := []byte(m.text)
				if c.framed {
					length, rest, _ := bytes.Cut(text, []byte(" "))
					if string(length) != fmt.Sprint(len(rest)) {
						t.Errorf("framed as %q, the rest has %d bytes", length, len(rest))
					}
					text = rest
				}
				if !bytes.HasPrefix(text, []byte("<")) || !bytes.HasSuffix(text, []byte("hello\n")) || m.from != c.from {
					t.Errorf("%q from %q", text, m.from)
				}
			case <-time.After(10 * time.Second):
				t.Error("nothing has arrived")
			}
		})
	}
}

// TestSyslogUnixStream is the same for a socket of the other kind.
func TestSyslogUnixStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _, sink, _ := setup(t, "syslog", map[string]string{"syslog-address": "unix://" + path})
	s := newSender(sink)
	defer s.close()
	if err := s.send(t.Context(), entry("hello")); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := string(receive(t, c)); !strings.HasSuffix(got, ": hello\n") {
		t.Errorf("%q", got)
	}
}
