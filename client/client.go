// Package client owns the calls to what Wherry's API has beyond the Docker
// Engine API; they go over the connections of moby's client.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/wherry-engine/wherry/api"
)

// Why asks what ended a container.
func Why(ctx context.Context, c client.APIClient, name string) (*api.Why, error) {
	var w api.Why
	return &w, call(ctx, c, http.MethodGet, "/containers/"+url.PathEscape(name)+"/why", nil, &w)
}

// NetworkUpdate changes what a container publishes and how it is called.
func NetworkUpdate(ctx context.Context, c client.APIClient, name string, r api.NetworkUpdate) (*api.NetworkUpdated, error) {
	var u api.NetworkUpdated
	return &u, call(ctx, c, http.MethodPost, "/wherry/containers/"+url.PathEscape(name)+"/network", r, &u)
}

// ExecCreate notes a command to be run in a running container and returns its id.
func ExecCreate(ctx context.Context, c client.APIClient, name string, r api.ExecRequest) (string, error) {
	var made container.ExecCreateResponse
	err := call(ctx, c, http.MethodPost, "/containers/"+url.PathEscape(name)+"/exec", r, &made)
	return made.ID, err
}

// Reach asks who can reach published ports, by container id.
func Reach(ctx context.Context, c client.APIClient) (map[string][]api.PortReach, error) {
	var r map[string][]api.PortReach
	err := call(ctx, c, http.MethodGet, "/wherry/reach", nil, &r)
	return r, err
}

func call(ctx context.Context, c client.APIClient, method, path string, in, out any) error {
	h := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dialer()(ctx) },
	}}
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := h.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return failure(resp)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// failure is the error in an answer, in the words of moby's client.
func failure(resp *http.Response) error {
	var m struct{ Message string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&m); err != nil || m.Message == "" {
		return fmt.Errorf("Error response from daemon: %s", resp.Status)
	}
	err := errors.New("Error response from daemon: " + m.Message)
	if resp.StatusCode == http.StatusNotFound {
		return errdefs.ErrNotFound.WithMessage(err.Error())
	}
	return err
}

// SecretCreate stores a secret.
func SecretCreate(ctx context.Context, c client.APIClient, r api.SecretRequest) (*api.Secret, error) {
	var s api.Secret
	return &s, call(ctx, c, http.MethodPost, "/wherry/secrets/create", r, &s)
}

// SecretList lists all secrets by name.
func SecretList(ctx context.Context, c client.APIClient) ([]api.Secret, error) {
	var list []api.Secret
	err := call(ctx, c, http.MethodGet, "/wherry/secrets", nil, &list)
	return list, err
}

// SecretInspect tells of one secret all but its value.
func SecretInspect(ctx context.Context, c client.APIClient, name string) (*api.Secret, error) {
	var s api.Secret
	return &s, call(ctx, c, http.MethodGet, "/wherry/secrets/"+url.PathEscape(name), nil, &s)
}

// SecretRemove deletes a secret.
func SecretRemove(ctx context.Context, c client.APIClient, name string) error {
	return call(ctx, c, http.MethodDelete, "/wherry/secrets/"+url.PathEscape(name), nil, nil)
}

// Bootstrap makes a base image; the answer is a stream of progress messages, as
// a pull's, the last of which is the image's id.
func Bootstrap(ctx context.Context, c client.APIClient, name, mirror string, include []string) (io.ReadCloser, error) {
	h := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dialer()(ctx) },
	}}
	q := url.Values{"name": {name}, "include": include}
	if mirror != "" {
		q.Set("mirror", mirror)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/wherry/images/bootstrap?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := h.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, failure(resp)
	}
	return resp.Body, nil
}
