package build

import "testing"

func TestBuiltinSyntax(t *testing.T) {
	for ref, want := range map[string]bool{
		"docker/dockerfile": true, "docker/dockerfile:1": true, "docker/dockerfile:latest": true, "docker/dockerfile:1.4": true, "docker/dockerfile:1.7.1": true,
		"docker.io/docker/dockerfile:1 --opt": true, "docker/dockerfile:1.999": false, "docker/dockerfile:2": false, "docker/dockerfile:1-labs": false,
		"docker/dockerfile:1.7-labs": false, "docker/dockerfile-upstream:master": false, "example.com/docker/dockerfile:1": false, "": false, "UPPER": false,
		"docker/dockerfile:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": false,
	} {
		if got := isBuiltin(ref); got != want {
			t.Errorf("%q: %v", ref, got)
		}
	}
}
