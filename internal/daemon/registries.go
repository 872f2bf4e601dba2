package daemon

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/wherry-engine/wherry/internal/config"
	"github.com/wherry-engine/wherry/internal/image"
	"github.com/wherry-engine/wherry/internal/transfer"
	"github.com/wherry-engine/wherry/internal/transfer/pack"
)

// dockerCerts is where certificates of registries lie on a machine that has
// Docker; our own directory is beside our configuration file.
const dockerCerts = "/etc/docker/certs.d"

// transferConfig is what the settings say of registries.
func transferConfig(c *config.Config) (transfer.Config, error) {
	r := c.Registry
	t := transfer.Config{
		HubMirrors: r.Mirrors, Insecure: r.Insecure, MaxDownloads: r.MaxDownloads, MaxUploads: r.MaxUploads, MaxAttempts: r.MaxDownloadAttempts,
		Compression: pack.Form(r.PushCompression),
		CertDirs:    []string{filepath.Join(filepath.Dir(c.File), "certs.d")}, Mirrors: map[string][]transfer.Mirror{},
	}
	if t.CertDirs[0] != dockerCerts {
		t.CertDirs = append(t.CertDirs, dockerCerts)
	}
	for host, h := range r.Hosts {
		list := []transfer.Mirror{}
		for _, m := range h.Mirrors {
			one := transfer.Mirror{URL: m.URL, Username: m.Username, Password: m.Password, CA: m.CA, Cert: m.Cert, Key: m.Key, SkipVerify: m.SkipVerify}
			if m.PasswordFile != "" {
				b, err := os.ReadFile(m.PasswordFile)
				if err != nil {
					return t, fmt.Errorf("mirror %s: %w", m.URL, err)
				}
				line, _, _ := bytes.Cut(b, []byte("\n"))
				one.Password = strings.TrimSpace(string(line))
			}
			for _, w := range m.Rewrite {
				re, err := regexp.Compile(w.Match)
				if err != nil {
					return t, fmt.Errorf("mirror %s: %w", m.URL, err)
				}
				one.Rewrite = append(one.Rewrite, transfer.Rewrite{Match: re, To: w.To})
			}
			list = append(list, one)
		}
		t.Mirrors[host] = list
	}
	return t, nil
}

// setProxies gives the settings' proxies to everything that this process
// fetches, in the way that programs are told of proxies. They are read once:
// another proxy takes a restart, as with dockerd.
func (s *System) setProxies(context.Context) error {
	r := s.config.Registry
	for name, value := range map[string]string{"HTTP_PROXY": r.HTTPProxy, "HTTPS_PROXY": r.HTTPSProxy, "NO_PROXY": r.NoProxy} {
		if value == "" {
			continue
		}
		for _, one := range []string{name, strings.ToLower(name)} {
			if had := os.Getenv(one); had != "" && had != value {
				slog.Warn("the configuration's proxy is used, not the environment's", "variable", one)
			}
			if err := os.Setenv(one, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// proxyOf is what counts: the settings' proxy, else the environment's.
func proxyOf(setting, variable string) string {
	return cmp.Or(setting, os.Getenv(variable), os.Getenv(strings.ToLower(variable)))
}

// shownProxy is a proxy without the password in it, as `info` tells it. Not by
// url.Parse: a proxy may do without a scheme, and a password with characters
// that an address cannot have is one still.
func shownProxy(proxy string) string {
	scheme, rest := "", proxy
	if i := strings.Index(proxy, "://"); i >= 0 && i == strings.IndexByte(proxy, ':') {
		scheme, rest = proxy[:i+3], proxy[i+3:]
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = "xxxxx:xxxxx" + rest[i:]
	}
	return scheme + rest
}

// openRegistries makes the client for registries.
func (s *System) openRegistries(context.Context) error {
	t, err := transferConfig(s.config)
	if err != nil {
		return err
	}
	agent := fmt.Sprintf("wherry/%s go/%s os/%s arch/%s", s.build.Version, strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, runtime.GOARCH)
	s.registries, err = transfer.New(transfer.Options{Images: s.images, UserAgent: agent, Events: s.events.Publish}, t)
	return err
}

// puller pulls from registries. Where none can be reached, the images that the
// engine carries are made on demand.
type puller struct {
	*transfer.Client
	images *image.Store
}

func (p puller) Pull(ctx context.Context, ref, platform, auth string, progress func(jsonstream.Message)) error {
	builtin := carried(ref)
	if builtin == nil {
		return p.Client.Pull(ctx, ref, platform, auth, progress)
	}
	err := p.Probe(ctx, ref) // quick, where a pull would be patient
	if err == nil {
		// A mirror that answers may still not have it while the registry is away.
		if err = p.Client.Pull(ctx, ref, platform, auth, progress); err == nil || !transfer.Unreachable(err) {
			return err
		}
	}
	if ctx.Err() != nil {
		return err
	}
	slog.Debug("no registry can be reached; trying the built-in image", "image", ref, "error", err)
	made, berr := builtin(ctx, p.images, ref)
	if berr != nil {
		return berr
	}
	if !made {
		return err
	}
	progress(jsonstream.Message{Status: "Status: No registry can be reached; made the built-in image " + ref})
	return nil
}

// carried returns how an image that comes with the engine is made, or nil.
func carried(ref string) func(context.Context, *image.Store, string) (bool, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	if _, digested := named.(reference.Digested); digested {
		return nil
	}
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	switch name := named.Name(); {
	case name == "docker.io/library/hello-world" && tag == "latest":
		return func(ctx context.Context, s *image.Store, ref string) (bool, error) { return s.Builtin(ctx, ref) }
	case name == "docker.io/library/registry" && (tag == "latest" || tag == "2" || tag == "3"):
		return registryImage
	}
	return nil
}

// registryImage makes the image of wherry-registry, which lies beside wherryd,
// unless there is an image of that name.
func registryImage(ctx context.Context, s *image.Store, ref string) (bool, error) {
	if _, err := s.Resolve(ctx, ref); err == nil {
		return true, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	program := filepath.Join(filepath.Dir(self), "wherry-registry")
	if _, err := os.Stat(program); err != nil {
		return false, nil
	}
	cmd := exec.CommandContext(ctx, program, "image", "--tag", ref)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	lerr := s.Load(ctx, out, true, nil, func(jsonstream.Message) {})
	if err := cmd.Wait(); err != nil {
		return false, fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	return lerr == nil, lerr
}
