package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Client speaks to the API of one engine.
type Client struct{ socket string }

// Socket is the path of the engine's API socket.
func (c Client) Socket() string { return c.socket }

// Host is what DOCKER_HOST and WHERRY_HOST are set to.
func (c Client) Host() string { return "unix://" + c.socket }

// Ping asks GET /_ping once.
func (c Client) Ping() error {
	code, body, err := c.API("GET", "/_ping", nil)
	if err == nil && code != 200 {
		err = fmt.Errorf("_ping: %d %s", code, body)
	}
	return err
}

// HTTP is a client whose every request goes to the engine's socket; the host
// in the address does not matter.
func (c Client) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.socket)
		},
	}}
}

// API makes one request. A body that is an io.Reader is sent as it is, any
// other as JSON.
func (c Client) API(method, path string, body any) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		r, kind = b, "application/x-tar"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return 0, nil, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, r)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.HTTP().Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, bytes.TrimSpace(answer), err
}

// GetJSON decodes a 200 answer.
func (c Client) GetJSON(path string, v any) error {
	code, body, err := c.API("GET", path, nil)
	if err != nil {
		return err
	}
	if code != 200 {
		return fmt.Errorf("GET %s: %d %s", path, code, body)
	}
	return json.Unmarshal(body, v)
}

// Load gives an image to the engine.
func (c Client) Load(archive io.Reader) error {
	code, body, err := c.API("POST", "/images/load?quiet=1", archive)
	if err != nil {
		return err
	}
	if code != 200 || bytes.Contains(body, []byte(`"error"`)) {
		return fmt.Errorf("load: %d %s", code, body)
	}
	return nil
}

// Inspection is what the tests look at in an inspect answer.
type Inspection struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status     string
		Running    bool
		Paused     bool
		OOMKilled  bool
		Pid        int
		ExitCode   int
		Error      string
		StartedAt  time.Time
		FinishedAt time.Time
	}
	LogPath    string
	ExecIDs    []string
	HostConfig map[string]any
	Config     map[string]any
}

// Inspect asks for one container.
func (c Client) Inspect(ref string) (*Inspection, error) {
	var v Inspection
	if err := c.GetJSON("/containers/"+ref+"/json", &v); err != nil {
		return nil, err
	}
	return &v, nil
}

// Wait returns the exit code of a container that runs or ran.
func (c Client) Wait(ref string) (int, error) {
	code, body, err := c.API("POST", "/containers/"+ref+"/wait", nil)
	if err != nil {
		return 0, err
	}
	var v struct{ StatusCode int }
	if code != 200 {
		return 0, fmt.Errorf("wait %s: %d %s", ref, code, body)
	}
	err = json.Unmarshal(body, &v)
	return v.StatusCode, err
}
