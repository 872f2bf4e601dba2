package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/health"
	"github.com/distribution/distribution/v3/registry/handlers"
	registrymiddleware "github.com/distribution/distribution/v3/registry/middleware/registry"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/docker/go-metrics"
	"github.com/sirupsen/logrus"

	"github.com/wherry-engine/wherry/internal/registry/sweep"

	// The back ends that a configuration may name.
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	_ "github.com/distribution/distribution/v3/registry/proxy"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/s3-aws"
)

// Serve answers until ctx ends, and then lets requests under way come to their
// end. It writes the address it listens at to out, one line.
func Serve(ctx context.Context, o Options, out io.Writer) error {
	c, err := settings(o)
	if err != nil {
		return err
	}
	level, err := logrus.ParseLevel(string(c.Log.Level))
	if err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	logrus.SetLevel(level)
	f, app, release, err := open(ctx, o, c)
	if err != nil {
		return err
	}
	defer release()
	defer app.Shutdown() //nolint:errcheck // the process ends
	app.RegisterHealthChecks()
	l, err := net.Listen("tcp", c.HTTP.Addr)
	if err != nil {
		return err
	}
	scheme := "http"
	if c.HTTP.TLS.Certificate != "" {
		conf, err := tlsConfig(c)
		if err != nil {
			l.Close()
			return err
		}
		l, scheme = tls.NewListener(l, conf), "https"
	}
	servers := []*http.Server{{Handler: routes(f), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}}
	failed := make(chan error, 2)
	if addr := c.HTTP.Debug.Addr; addr != "" {
		dl, err := net.Listen("tcp", addr)
		if err != nil {
			l.Close()
			return err
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/debug/health", health.StatusHandler)
		mux.Handle("/metrics", metrics.Handler())
		debug := &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second}
		servers = append(servers, debug)
		go func() { failed <- debug.Serve(dl) }()
	}
	go func() { failed <- servers[0].Serve(l) }()
	if f.ledger != nil {
		bg, stop := context.WithCancelCause(ctx)
		var collector sync.WaitGroup
		collector.Go(func() { keepClean(bg, f.ledger, o.GCGrace) })
		defer collector.Wait()
		defer stop(nil)
	}
	fmt.Fprintf(out, "serving %s://%s\n", scheme, l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.HTTP.DrainTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(last); err != nil {
			slog.Warn("requests were cut off", "error", err)
		}
	}
	return nil
}

// captureName is the registry middleware that hands an app's storage to the
// front that stands before it.
const captureName = "wherry"

var registerCapture = sync.OnceValue(func() error {
	return registrymiddleware.Register(captureName, func(_ context.Context, r distribution.Namespace, d driver.StorageDriver, options map[string]any) (distribution.Namespace, error) {
		f, ok := options["front"].(*front)
		if !ok {
			return nil, fmt.Errorf("the middleware %s cannot be configured", captureName)
		}
		f.registry, f.driver = r, d
		return r, nil
	})
})

// open makes the handlers, and claims the storage until release is called.
func open(ctx context.Context, o Options, c *configuration.Configuration) (_ *front, _ *handlers.App, release func(), err error) {
	collect := o.collects(c)
	if o.GC == "" && c.Proxy.RemoteURL == "" && remembers(c) {
		slog.Warn("blobs that no image needs are not removed: storage.cache redis would remember them")
	}
	if release, err = claim(c, collect); err != nil {
		return nil, nil, nil, err
	}
	f := &front{prefix: c.HTTP.Prefix}
	if c.Proxy.RemoteURL != "" {
		if f.upstream, err = newUpstream(c.Proxy); err != nil {
			release()
			return nil, nil, nil, err
		}
	}
	app, err := newApp(ctx, c, f)
	if err != nil {
		release()
		return nil, nil, nil, err
	}
	if collect {
		f.ledger = sweep.New(f.registry, f.driver)
	}
	return f, app, release, nil
}

// newApp makes distribution's handlers behind f; they panic about wrong settings.
func newApp(ctx context.Context, c *configuration.Configuration, f *front) (app *handlers.App, err error) {
	if err := registerCapture(); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("configuration: %v", p)
		}
	}()
	if c.Middleware == nil {
		c.Middleware = map[string][]configuration.Middleware{}
	}
	c.Middleware["registry"] = append(c.Middleware["registry"], configuration.Middleware{Name: captureName, Options: configuration.Parameters{"front": f}})
	app = handlers.NewApp(ctx, c)
	f.app = app
	return app, nil
}

// routes adds the address that tells that the server is alive.
func routes(app http.Handler) http.Handler {
	alive := health.Handler(app)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" || r.URL.Path == "/healthz" {
			w.Header().Set("Cache-Control", "no-cache")
			w.WriteHeader(http.StatusOK)
			return
		}
		alive.ServeHTTP(w, r)
	})
}

func tlsConfig(c *configuration.Configuration) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.HTTP.TLS.Certificate, c.HTTP.TLS.Key)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	for _, file := range c.HTTP.TLS.ClientCAs {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if conf.ClientCAs == nil {
			conf.ClientCAs, conf.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		}
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", file)
		}
	}
	return conf, nil
}
