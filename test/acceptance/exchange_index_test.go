package acceptance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// platformIndex makes an OCI archive with the image multi:1 for three platforms,
// with what is attested of each, and returns its digest and that of each part.
func platformIndex(t *testing.T, file string) (index string, parts []string) {
	t.Helper()
	type object = map[string]any
	blobs := map[string][]byte{}
	put := func(mediaType string, v any) object {
		b, ok := v.([]byte)
		if !ok {
			var err error
			if b, err = json.Marshal(v); err != nil {
				t.Fatal(err)
			}
		}
		sum := sha256.Sum256(b)
		d := "sha256:" + hex.EncodeToString(sum[:])
		blobs[d] = b
		return object{"mediaType": mediaType, "digest": d, "size": len(b)}
	}
	pack := func(files map[string][]byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, body := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(body))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	const oci = "application/vnd.oci.image."
	manifest := func(platform, config object, layer object) object {
		m := put(oci+"manifest.v1+json", object{"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": put(oci+"config.v1+json", config), "layers": []object{layer}})
		m["platform"] = platform
		parts = append(parts, m["digest"].(string))
		return m
	}
	var images, attestations []object
	for _, p := range []object{{"os": "linux", "architecture": runtime.GOARCH}, {"os": "linux", "architecture": "s390x"}, {"os": "linux", "architecture": "arm", "variant": "v7"}} {
		plain := pack(map[string][]byte{"platform": fmt.Append(nil, p)})
		var packed bytes.Buffer // skopeo would pack a plain layer, and so make another index
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		layer := put(oci+"layer.v1.tar+gzip", packed.Bytes())
		diff := sha256.Sum256(plain)
		config := object{"os": p["os"], "architecture": p["architecture"], "rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diff[:])}}}
		if v := p["variant"]; v != nil {
			config["variant"] = v
		}
		m := manifest(p, config, layer)
		images = append(images, m)
		statement := put("application/vnd.in-toto+json", object{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2", "subject": []object{{"name": "multi", "digest": m["digest"]}}})
		statement["annotations"] = object{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
		unknown := object{"os": "unknown", "architecture": "unknown"}
		a := manifest(unknown, object{"os": "unknown", "architecture": "unknown", "rootfs": object{"type": "layers", "diff_ids": []any{statement["digest"]}}}, statement)
		a["annotations"] = object{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": m["digest"]}
		attestations = append(attestations, a)
	}
	top := put(oci+"index.v1+json", object{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": append(images, attestations...), "annotations": object{"by": "a test"}})
	index = top["digest"].(string)
	top["annotations"] = object{"io.containerd.image.name": "docker.io/library/multi:1", "org.opencontainers.image.ref.name": "1"}
	list, err := json.Marshal(object{"schemaVersion": 2, "manifests": []object{top}})
	if err != nil {
		t.Fatal(err)
	}
	members := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": list}
	for d, b := range blobs {
		members["blobs/"+strings.Replace(d, ":", "/", 1)] = b
	}
	if err := os.WriteFile(file, pack(members), 0o600); err != nil {
		t.Fatal(err)
	}
	return index, parts
}

// TestExchangeIndex passes an image for three platforms round, by registry and
// by archive. It is the digest of the index that is compared, which covers every
// part and what is attested of it. docker 20.10 and podman take the part for
// their own platform only and cannot hold an index: there it is the id of the
// image, the digest of that part's configuration.
func TestExchangeIndex(t *testing.T) {
	harness.Require(t, "root", "engine", "dockerd", "skopeo", "podman", "buildah")
	w := harness.Run(t, harness.Options{Flags: []string{"--bridge", "none"}})
	host := w.ServeRegistry(t, "127.0.0.1:0")
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", w.PID()), name}, args...)...)
		cmd.Dir = dir
		var stderr strings.Builder
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, b, stderr.String())
		}
		return string(b)
	}
	wherry := func(args ...string) string {
		t.Helper()
		stdout, stderr, code, err := w.Run(harness.Binary("wherry"), nil, args...)
		if err != nil || code != 0 {
			t.Fatalf("wherry %s: %d %v\n%s%s", strings.Join(args, " "), code, err, stdout, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	skopeo := func(from, to string) {
		t.Helper()
		run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--insecure-policy", from, to)
	}
	file := filepath.Join(dir, "multi.tar")
	index, parts := platformIndex(t, file)
	// whole checks that a tag is the index, and that all of it is there.
	whole := func(who, tag string) {
		t.Helper()
		sum := sha256.Sum256([]byte(run("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/"+tag)))
		if got := "sha256:" + hex.EncodeToString(sum[:]); got != index {
			t.Errorf("%s: the index is %s, not %s", who, got, index)
		}
		repo, _, _ := strings.Cut(tag, ":")
		for _, d := range parts {
			run("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/"+repo+"@"+d)
		}
	}
	// through loads an archive, pushes what it holds and removes it.
	through := func(who, file, tag string) {
		t.Helper()
		wherry("load", "-q", "-i", filepath.Join(dir, file))
		wherry("tag", "multi:1", host+"/"+tag)
		wherry("push", "-q", host+"/"+tag)
		whole(who, tag)
	}
	through("loaded and pushed", "multi.tar", "first:1")
	id := wherry("image", "inspect", "-f", "{{.Id}}", "multi:1")
	wherry("save", "-o", filepath.Join(dir, "saved.tar"), "multi:1")
	wherry("rmi", "-f", id)
	through("saved and loaded again", "saved.tar", "second:1")
	wherry("rmi", "-f", id)
	skopeo("docker://"+host+"/first:1", "docker://"+host+"/skopeo:1")
	whole("copied by skopeo", "skopeo:1")
	skopeo("oci-archive:saved.tar", "docker://"+host+"/skopeo:2")
	whole("our archive, pushed by skopeo", "skopeo:2")
	skopeo("docker://"+host+"/skopeo:1", "oci-archive:skopeo.tar:docker.io/library/multi:1")
	through("the archive of skopeo", "skopeo.tar", "third:1")
	wherry("rmi", "-f", id)

	// Pulled is the part for this host, and pushed on is that manifest as it is.
	wherry("pull", "-q", host+"/first:1")
	if got := wherry("image", "inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", host+"/first:1"); got != id+" "+host+"/first@"+index {
		t.Errorf("pulled: %s", got)
	}
	wherry("tag", host+"/first:1", host+"/part:1")
	if said := wherry("push", host+"/part:1"); !strings.Contains(said, "1: digest: "+parts[0]) {
		t.Errorf("push of one part: %s", said)
	}
	sum := sha256.Sum256([]byte(run("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/part:1")))
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != parts[0] {
		t.Errorf("the part was pushed as %s, not %s", got, parts[0])
	}

	podman := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(run("podman", append([]string{"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "storage-run"), "--storage-driver", "vfs"}, args...)...))
	}
	podman("pull", "-q", "--tls-verify=false", host+"/first:1")
	if got := podman("image", "inspect", "-f", "sha256:{{.Id}}", host+"/first:1"); got != id {
		t.Errorf("podman pulled %s as %s", id, got)
	}
	// buildah takes an index apart and writes another with the same parts.
	buildah := func(args ...string) {
		t.Helper()
		run("buildah", append([]string{"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "storage-run"), "--storage-driver", "vfs"}, args...)...)
	}
	held := func(tag string) {
		t.Helper()
		var list struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal([]byte(run("skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/"+tag)), &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range list.Manifests {
			got = append(got, m.Digest)
		}
		slices.Sort(got)
		if want := slices.Sorted(slices.Values(parts)); !slices.Equal(got, want) {
			t.Errorf("%s has %v, not %v", tag, got, want)
		}
		wherry("rmi", "-f", id)
		wherry("pull", "-q", host+"/"+tag)
		if got := wherry("image", "inspect", "-f", "{{.Id}}", host+"/"+tag); got != id {
			t.Errorf("pulled %s as %s", tag, got)
		}
	}
	buildah("manifest", "create", "multi")
	buildah("manifest", "add", "--all", "--tls-verify=false", "multi", "docker://"+host+"/first:1")
	buildah("manifest", "push", "-q", "--all", "--tls-verify=false", "multi", "docker://"+host+"/buildah:1")
	held("buildah:1")
	buildah("manifest", "push", "-q", "--all", "--tls-verify=false", "multi", "oci-archive:"+filepath.Join(dir, "buildah.tar")+":docker.io/library/multi:1")
	wherry("rmi", "-f", id)
	wherry("load", "-q", "-i", filepath.Join(dir, "buildah.tar"))
	if got := wherry("image", "inspect", "-f", "{{.Id}}", "multi:1"); got != id {
		t.Errorf("the archive of buildah has the image %s, not %s", got, id)
	}
	wherry("tag", "multi:1", host+"/buildah:2")
	wherry("push", "-q", host+"/buildah:2")
	held("buildah:2")

	d := harness.Run(t, harness.Options{Kind: harness.Docker, NetOf: w, Flags: []string{"--bridge", "none", "--iptables=false"}})
	for _, args := range [][]string{{"pull", "-q", host + "/first:1"}, {"image", "inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", host + "/first:1"}} {
		stdout, stderr, code, err := d.Run(harness.OldDockerCLI(), nil, args...)
		if err != nil || code != 0 {
			t.Fatalf("docker %s: %d %v\n%s%s", strings.Join(args, " "), code, err, stdout, stderr)
		}
		if args[0] == "image" && strings.TrimSpace(stdout) != id+" "+host+"/first@"+index {
			t.Errorf("docker pulled %s as %s", id, stdout)
		}
	}
}
