// Package build holds builders to a table of Dockerfiles. A case is a txtar
// file in testdata/cases: what it shows, how it is built, its Dockerfile and
// context, and the image that must come out, as file tree, configuration and
// history. Each is built by `wherry build` on a private engine.
//
// testdata/recorded holds what other builders made of the same cases: Debian's
// docker.io with BuildKit and with the classic builder, Debian's buildah, and
// BuildKit's own daemon. `go test ./test/build -record` asks them again.
// testdata/accepted.txt lists where they differ from us, each with its reason;
// an entry that no longer differs fails as a new difference does.
package build
