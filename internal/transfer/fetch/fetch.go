// Package fetch owns plain downloads: files from http and https addresses that
// a person named, for import and bootstrap.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/wherry-engine/wherry/internal/transfer/agent"
)

// Open begins a download from an address of the client's choice; http:// may be
// left out. It returns the whole address, and its errors name it, those of
// reading too. One that stops for agent.Idle ends.
func Open(ctx context.Context, src string) (io.ReadCloser, string, error) {
	if !strings.Contains(src, "://") {
		src = "http://" + src
	}
	u, err := url.Parse(src)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid source %q: not an http or https address", src))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, "", errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	client := http.Client{Transport: agent.Patient(&http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
	}, agent.Idle)}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", errdefs.ErrUnavailable.WithMessage(err.Error())
	}
	if resp.StatusCode >= 400 {
		resp.Body.Close()
		return nil, "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("failed to GET %s with status %s", u, resp.Status))
	}
	return &named{resp.Body, u.String()}, u.String(), nil
}

// named is a download whose errors say which it is.
type named struct {
	io.ReadCloser
	from string
}

func (n *named) Read(p []byte) (int, error) {
	k, err := n.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: %v", n.from, err))
	}
	return k, err
}
