package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// mirror is where the engine finds what the tests pull.
const mirror = "127.0.0.1:5000"

// images gives the engine what the tests expect to be there, and a registry
// with what they pull. stop ends the registry.
func images(e *harness.Engine) (stop func() error, err error) {
	busybox, err := harness.Busybox()
	if err != nil {
		return nil, err
	}
	alpine := *busybox
	busybox.Names = []string{"busybox:latest", "busybox:buildroot-2014.02"}
	alpine.Names = []string{"alpine:latest", "alpine:3.10"}
	alpine.Layers = append(alpine.Layers[:len(alpine.Layers):len(alpine.Layers)], []harness.File{
		{Name: "var/opt/", Mode: 0o755},
		{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n")},
	})
	program, err := os.ReadFile(filepath.Join(filepath.Dir(harness.Binary("wherry")), "..", "internal", "embedded", "bin", "wherry-hello"))
	if err != nil {
		return nil, err
	}
	hello := harness.Image{
		Names: []string{mirror + "/library/hello-world:latest"}, Config: harness.Config{Cmd: []string{"/hello"}},
		Layers: [][]harness.File{{{Name: "hello", Mode: 0o755, Data: program}}},
	}
	for _, i := range []*harness.Image{busybox, &alpine, &hello} {
		if err := e.Load(i.DockerArchive()); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "wregistry")
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	registry := exec.Command(harness.Binary("wherry-registry"), "serve", "--addr", mirror, "--data", dir)
	registry.Stdout, registry.Stderr = &said, &said
	if err := e.Within(registry.Start); err != nil {
		return nil, err
	}
	stop = func() error {
		err := registry.Process.Kill()
		registry.Wait() //nolint:errcheck // it was killed
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err = await(e); err == nil {
		err = push(e)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", errors.Join(err, stop()), said.String())
	}
	return stop, nil
}

// await waits until the registry listens.
func await(e *harness.Engine) error {
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		err = e.Within(func() error {
			c, err := net.Dial("tcp", mirror)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			return nil
		}
	}
	return err
}

func push(e *harness.Engine) error {
	for _, name := range []string{"alpine:latest", "alpine:3.10", "busybox:latest", "hello-world:latest"} {
		there := mirror + "/library/" + name
		for _, args := range [][]string{{"tag", name, there}, {"push", there}, {"rmi", there}} {
			if name == "hello-world:latest" && args[0] == "tag" {
				continue
			}
			if _, stderr, code, err := e.CLI(args...); err != nil || code != 0 {
				return fmt.Errorf("%v: %w %s", args, err, stderr)
			}
		}
	}
	return nil
}
