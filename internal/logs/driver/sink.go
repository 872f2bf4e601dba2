package driver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Sink is where the lines of a container are sent, and in which form. Which
// fields count depends on Driver.
type Sink struct {
	Driver string
	Info   *Info
	Tag    string
	Extra  map[string]string // from labels and env, named as the driver wants

	Network, Address string // for net.Dial; "" is the local syslog
	TLS              *tls.Config

	Facility int    // syslog, already shifted
	Format   string // syslog

	Compression string // gelf over udp: gzip, zlib, none
	Level       int

	SubSecond    bool // fluentd
	Acknowledge  bool
	WriteTimeout time.Duration
	ReadTimeout  time.Duration
	RetryWait    time.Duration // the first one; 0 is the default
}

const defaultTag = "{{.ID}}"

// Remote tells where the lines of a container are sent; nil if they are not.
func Remote(c Config, i *Info) (*Sink, error) {
	if !c.Remote() {
		return nil, nil
	}
	s, err := parseSink(c)
	if err != nil {
		return nil, err
	}
	i.Config = c.Options
	s.Info = i
	if s.Tag, err = i.tag(defaultTag); err != nil {
		return nil, failed(err)
	}
	rename := func(name string) string { return name }
	switch c.Type {
	case "gelf":
		rename = func(name string) string { return "_" + name }
	case "journald":
		rename = journalName
	}
	if s.Extra, err = i.attributes(rename); err != nil {
		return nil, failed(err)
	}
	if t := s.TLS; t != nil {
		if err := s.loadTLS(c); err != nil {
			return nil, failed(err)
		}
	}
	return s, nil
}

// journalName makes a field name that journald takes.
func journalName(name string) string {
	return strings.TrimLeft(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name), "_")
}

// parseSink checks the options about the receiver, as dockerd when a container
// is created.
func parseSink(c Config) (*Sink, error) {
	s := &Sink{Driver: c.Type}
	var err error
	switch c.Type {
	case "syslog":
		err = s.parseSyslog(c.Options)
	case "gelf":
		err = s.parseGelf(c.Options)
	case "fluentd":
		err = s.parseFluentd(c.Options)
	}
	if err != nil {
		return nil, invalid("%v", err)
	}
	return s, nil
}

var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

func (s *Sink) parseSyslog(o map[string]string) error {
	if err := s.syslogAddress(o["syslog-address"]); err != nil {
		return err
	}
	s.Facility = 3 << 3
	if f := o["syslog-facility"]; f != "" {
		n, known := facilities[f]
		if !known {
			var err error
			if n, err = strconv.Atoi(f); err != nil || n < 0 || n > 23 {
				return errors.New("invalid syslog facility")
			}
		}
		s.Facility = n << 3
	}
	switch s.Format = o["syslog-format"]; s.Format {
	case "", "rfc3164", "rfc5424", "rfc5424micro":
	default:
		return errors.New("Invalid syslog format")
	}
	return nil
}

func (s *Sink) syslogAddress(address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "unix", "unixgram":
		s.Network, s.Address = u.Scheme, u.Path
		return nil
	case "tcp", "udp", "tcp+tls":
		s.Network = strings.TrimSuffix(u.Scheme, "+tls")
		s.Address = u.Host
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			if !strings.Contains(err.Error(), "missing port in address") {
				return err
			}
			s.Address = net.JoinHostPort(u.Host, "514")
		}
		if u.Scheme == "tcp+tls" {
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		return nil
	}
	return fmt.Errorf("syslog-address should be in form proto://address, got %v", address)
}

func (s *Sink) loadTLS(c Config) error {
	s.TLS.InsecureSkipVerify = c.Options["syslog-tls-skip-verify"] != ""
	if ca := c.Options["syslog-tls-ca-cert"]; ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("could not read CA certificate %q: %w", ca, err)
		}
		s.TLS.RootCAs = x509.NewCertPool()
		if !s.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("failed to append certificates from PEM file: %q", ca)
		}
	}
	cert, key := c.Options["syslog-tls-cert"], c.Options["syslog-tls-key"]
	if cert == "" && key == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("could not load X509 key pair: %w", err)
	}
	s.TLS.Certificates = []tls.Certificate{pair}
	return nil
}

func (s *Sink) parseGelf(o map[string]string) error {
	address := o["gelf-address"]
	if address == "" {
		return errors.New("gelf-address is a required parameter")
	}
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	if u.Scheme != "udp" && u.Scheme != "tcp" {
		return fmt.Errorf("gelf-address should be in form proto://address, got %v", address)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return errors.New("gelf: please provide gelf-address as proto://host:port")
	}
	s.Network, s.Address = u.Scheme, u.Host
	s.Compression, s.Level = "gzip", 1
	tcp := u.Scheme == "tcp"
	for _, k := range []string{"gelf-compression-level", "gelf-compression-type"} {
		if _, ok := o[k]; ok && tcp {
			return errors.New("compression is only supported on UDP")
		}
	}
	if v, ok := o["gelf-compression-level"]; ok {
		if s.Level, err = strconv.Atoi(v); err != nil || s.Level < -2 || s.Level > 9 {
			return fmt.Errorf("unknown value %q for log opt %q for gelf log driver", v, "gelf-compression-level")
		}
	}
	if v, ok := o["gelf-compression-type"]; ok {
		if s.Compression = v; v != "gzip" && v != "zlib" && v != "none" {
			return fmt.Errorf("unknown value %q for log opt %q for gelf log driver", v, "gelf-compression-type")
		}
	}
	for _, k := range []string{"gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"} {
		v, ok := o[k]
		if !ok {
			continue
		}
		if !tcp {
			return fmt.Errorf("%q is only valid for TCP", k)
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return fmt.Errorf("%q must be a positive integer", k)
		}
		if k == "gelf-tcp-reconnect-delay" {
			s.RetryWait = time.Duration(n) * time.Second
		}
	}
	return nil
}

func (s *Sink) parseFluentd(o map[string]string) error {
	s.Network, s.Address = "tcp", "127.0.0.1:24224"
	if a := o["fluentd-address"]; a != "" {
		if err := s.fluentdAddress(a); err != nil {
			return fmt.Errorf("invalid fluentd-address %s: %w", a, err)
		}
	}
	if v := o["fluentd-buffer-limit"]; v != "" {
		if _, err := units.RAMInBytes(v); err != nil {
			return err
		}
	}
	if v := o["fluentd-max-retries"]; v != "" {
		if _, err := strconv.ParseUint(v, 10, strconv.IntSize); err != nil {
			return err
		}
	}
	var unused bool
	for k, to := range map[string]*bool{"fluentd-async": &unused, "fluentd-sub-second-precision": &s.SubSecond, "fluentd-request-ack": &s.Acknowledge} {
		if v := o[k]; v != "" {
			var err error
			if *to, err = strconv.ParseBool(v); err != nil {
				return err
			}
		}
	}
	var ignored time.Duration
	for k, to := range map[string]*time.Duration{
		"fluentd-retry-wait": &s.RetryWait, "fluentd-write-timeout": &s.WriteTimeout, "fluentd-read-timeout": &s.ReadTimeout, "fluentd-async-reconnect-interval": &ignored,
	} {
		if v := o[k]; v != "" {
			var err error
			if *to, err = time.ParseDuration(v); err != nil {
				return err
			}
			if *to < 0 {
				return fmt.Errorf("invalid value for %s: value must be a positive duration: %s", k, v)
			}
		}
	}
	return nil
}

func (s *Sink) fluentdAddress(a string) error {
	if !strings.Contains(a, "://") {
		a = "tcp://" + a
	}
	u, err := url.Parse(a)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "unix":
		s.Network, s.Address = "unix", u.Path
		return nil
	case "tcp", "tls":
		if u.Path != "" {
			return errors.New("should not contain a path element")
		}
		if u.Scheme == "tls" {
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	default:
		return fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = "24224"
	}
	s.Address = net.JoinHostPort(u.Hostname(), port)
	return nil
}
