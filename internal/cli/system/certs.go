package system

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wherry-engine/wherry/internal/cli/shell"
)

const certsHelp = `Make what TLS between an engine and its clients needs

DIRECTORY gets ca.pem and ca-key.pem, and two directories with ca.pem, cert.pem
and key.pem each: server for the engine, client for who may use it. HOST is a
name or an address under which clients reach the engine; without any, it is this
machine's name, localhost, 127.0.0.1 and ::1.

Nothing that exists is replaced. Called again, it uses the CA that is there and
makes the pairs that are missing: --client NAME makes one more client's.
Keep ca-key.pem away from engine and clients: who has it can let anybody in.`

type certsOptions struct {
	clients []string
	days    int
}

// NewCerts is `system certs`.
func NewCerts(sh *shell.Shell) *cobra.Command {
	var o certsOptions
	cmd := &cobra.Command{
		Use:   "certs [OPTIONS] DIRECTORY [HOST...]",
		Short: "Make a CA and TLS certificates for an engine and its clients",
		Long:  certsHelp,
		Args:  shell.MinArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return makeCerts(sh, args[0], args[1:], o)
		},
	}
	cmd.Flags().StringArrayVar(&o.clients, "client", []string{"client"}, "Name of a client to make a pair for")
	cmd.Flags().IntVar(&o.days, "days", 825, "Days for which the pairs are valid")
	return cmd
}

// caLife is how long a CA is good for.
const caLife = 10 * 365 * 24 * time.Hour

func makeCerts(sh *shell.Shell, dir string, hosts []string, o certsOptions) error {
	if o.days <= 0 {
		return fmt.Errorf("invalid argument %d for --days: must be positive", o.days)
	}
	for _, c := range o.clients {
		if c == "" || c == "server" || c == "." || c == ".." || strings.ContainsAny(c, `/\`) {
			return fmt.Errorf("invalid argument %q for --client: must be the name of a new directory, and not server", c)
		}
	}
	asked := hosts
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
		if name, err := os.Hostname(); err == nil && name != "localhost" {
			hosts = append([]string{name}, hosts...)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	ca, key, err := openCA(dir)
	if err != nil {
		return err
	}
	life := time.Duration(o.days) * 24 * time.Hour
	if err := sameHosts(filepath.Join(dir, "server"), asked); err != nil {
		return err
	}
	server := &x509.Certificate{Subject: pkix.Name{CommonName: hosts[0]}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			server.IPAddresses = append(server.IPAddresses, ip)
		} else {
			server.DNSNames = append(server.DNSNames, h)
		}
	}
	if err := writePair(sh, dir, "server", server, life, ca, key); err != nil {
		return err
	}
	for _, name := range o.clients {
		client := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if err := writePair(sh, dir, name, client, life, ca, key); err != nil {
			return err
		}
	}
	at := filepath.Join(dir, "server")
	fmt.Fprintf(sh.Out, "\nengine:  wherryd -H tcp://0.0.0.0:2376 --tlsverify --tlscacert %[1]s/ca.pem --tlscert %[1]s/cert.pem --tlskey %[1]s/key.pem\n", at)
	fmt.Fprintf(sh.Out, "client:  export DOCKER_HOST=tcp://%s DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=%s\n", net.JoinHostPort(hosts[0], "2376"), filepath.Join(dir, o.clients[0]))
	return nil
}

// sameHosts refuses to keep a server's pair that is not good for the hosts that
// the user names now.
func sameHosts(pair string, hosts []string) error {
	file := filepath.Join(pair, "cert.pem")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || len(hosts) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s is not a PEM file", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, h := range hosts {
		if err := cert.VerifyHostname(h); err != nil {
			return fmt.Errorf("%s is there already, and %w: remove %s to have another made", file, err, pair)
		}
	}
	return nil
}

// openCA reads the CA of the directory, or makes one. The key is written
// first: a certificate can be made for it again, but not the other way round.
func openCA(dir string) (*x509.Certificate, crypto.Signer, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	_, err := os.Stat(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(certFile); err == nil {
			return nil, nil, fmt.Errorf("%s is there but its key is not: put %s beside it, or name another directory", certFile, keyFile)
		}
		if err := writeKey(keyFile); err != nil {
			return nil, nil, err
		}
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
		ca := &x509.Certificate{
			Subject: pkix.Name{CommonName: "wherry CA"}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, MaxPathLenZero: true,
		}
		if err := sign(certFile, ca, caLife, ca, key.Public(), key); err != nil {
			return nil, nil, err
		}
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	if !pair.Leaf.IsCA {
		return nil, nil, fmt.Errorf("%s is not the certificate of a CA", certFile)
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, nil, fmt.Errorf("the CA %s was valid until %s", certFile, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return pair.Leaf, key, nil
}

// writePair makes dir/name with ca.pem, cert.pem and key.pem, whole or not at all.
func writePair(sh *shell.Shell, dir, name string, c *x509.Certificate, life time.Duration, ca *x509.Certificate, caKey crypto.Signer) error {
	final := filepath.Join(dir, name)
	if _, err := os.Lstat(final); err == nil {
		fmt.Fprintln(sh.Out, "kept", final)
		return nil
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := writeKey(filepath.Join(tmp, "key.pem")); err != nil {
		return err
	}
	key, err := readKey(filepath.Join(tmp, "key.pem"))
	if err != nil {
		return err
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	if err := sign(filepath.Join(tmp, "cert.pem"), c, life, ca, key.Public(), caKey); err != nil {
		return err
	}
	err = writePEM(filepath.Join(tmp, "ca.pem"), 0o644, "CERTIFICATE", ca.Raw)
	if err == nil {
		err = os.Rename(tmp, final)
	}
	if err == nil {
		fmt.Fprintln(sh.Out, "made", final)
	}
	return err
}

// sign writes the certificate, valid from an hour ago: clocks differ.
func sign(file string, c *x509.Certificate, life time.Duration, ca *x509.Certificate, public crypto.PublicKey, caKey crypto.Signer) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	c.SerialNumber = serial
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(life)
	if c != ca && c.NotAfter.After(ca.NotAfter) {
		c.NotAfter = ca.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, public, caKey)
	if err != nil {
		return err
	}
	return writePEM(file, 0o644, "CERTIFICATE", der)
}

func writeKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(file, 0o600, "PRIVATE KEY", der)
}

func readKey(file string) (crypto.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not a PEM file", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key that cannot sign", file)
	}
	return signer, nil
}

func writePEM(file string, mode fs.FileMode, kind string, der []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
}
