package bootstrap

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
)

// load imports a root file system and returns the image's id.
func (m *maker) load(ctx context.Context, r io.Reader, name string, changes []string) (string, error) {
	answer, err := m.api.ImageImport(ctx, client.ImageImportSource{Source: r, SourceName: "-"}, name,
		client.ImageImportOptions{Changes: changes, Message: "bootstrapped from " + m.Mirror + " " + m.suite})
	if err != nil {
		return "", err
	}
	defer answer.Close()
	id := ""
	for d := json.NewDecoder(answer); ; {
		var msg jsonstream.Message
		err := d.Decode(&msg)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if msg.Error != nil {
			return "", errors.New(msg.Error.Message)
		}
		if strings.HasPrefix(msg.Status, "sha256:") {
			id = msg.Status
		}
	}
	if id == "" {
		return "", errors.New("the engine did not say what it has imported")
	}
	return id, nil
}

// run runs the command to its end; the container is left, if there is one.
func (m *maker) run(ctx context.Context, image string, command []string) (id string, err error) {
	m.say("Configuring packages in a container")
	made, err := m.api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{Image: image, Cmd: command, NetworkDisabled: true, Labels: map[string]string{"wherry.bootstrap": m.Name},
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		return "", err
	}
	wait := m.api.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := m.api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		return made.ID, err
	}
	tail, err := m.follow(ctx, made.ID)
	if err != nil {
		return made.ID, err
	}
	select {
	case err := <-wait.Error:
		return made.ID, err
	case end := <-wait.Result:
		if end.StatusCode != 0 {
			return made.ID, fmt.Errorf("the installation ended with code %d; it said last:\n%s", end.StatusCode, strings.Join(tail, "\n"))
		}
		return made.ID, nil
	}
}

// follow tells the lines of the container's output that begin a step, and
// returns the last lines of all.
func (m *maker) follow(ctx context.Context, id string) (tail []string, err error) {
	logs, err := m.api.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	r, w := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(w, w, logs)
		w.CloseWithError(err)
	}()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := lines.Text()
		if step, ok := strings.CutPrefix(text, "Setting up "); ok {
			m.say("Setting up " + strings.TrimSuffix(step, " ..."))
		}
		if tail = append(tail, text); len(tail) > 15 {
			tail = tail[1:]
		}
	}
	return tail, lines.Err()
}

// tidy copies the files of a container without what only the installation
// needed.
func tidy(in io.Reader, out io.Writer) error {
	tr, tw := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		if unwanted(strings.TrimPrefix(h.Name, "./")) {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil { //nolint:gosec // packages of a signed archive
			return err
		}
	}
}

func unwanted(name string) bool {
	switch name {
	case ".dockerenv", scriptName, policyName, "var/lib/dpkg/cmethopt", "var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log",
		"var/cache/ldconfig/aux-cache", "etc/machine-id":
		return true
	}
	for _, dir := range []string{archives, "run/", "tmp/", "dev/", "proc/", "sys/", "var/log/apt/", "var/lib/apt/lists/"} {
		if rest, ok := strings.CutPrefix(name, dir); ok && rest != "" {
			return true
		}
	}
	return strings.HasPrefix(name, "var/cache/debconf/") && strings.HasSuffix(name, "-old") || strings.HasPrefix(name, "var/lib/dpkg/") && strings.HasSuffix(name, "-old")
}
