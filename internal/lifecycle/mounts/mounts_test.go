package mounts

import (
	"slices"
	"strings"
	"testing"

	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/wherry-engine/wherry/internal/container"
	"github.com/wherry-engine/wherry/internal/volume"
)

func open(t *testing.T) *Mounts {
	t.Helper()
	v, err := volume.Open(t.TempDir(), func(events.Message) {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := container.Open(t.TempDir(), func(string) {}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	return New(s, nil, nil, v, nil)
}

func TestResolveOrderAndDuplicates(t *testing.T) {
	all := open(t)
	c := &container.Container{Record: container.Record{ID: strings.Repeat("a", 64), Config: &apicontainer.Config{Volumes: map[string]struct{}{"/v": {}, "/a/b": {}}},
		HostConfig: &apicontainer.HostConfig{Binds: []string{"/h:/a/b", "/h2:/a"}, Tmpfs: map[string]string{"/t": "size=1m"}}}}
	if err := all.Resolve(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range c.Mounts {
		got = append(got, string(m.Type)+" "+m.Destination)
	}
	if want := []string{"bind /a", "tmpfs /t", "volume /v", "bind /a/b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c.HostConfig.Tmpfs["/a"] = ""
	if err := all.Resolve(t.Context(), c); err == nil || !strings.Contains(err.Error(), "Duplicate mount point: /a") {
		t.Error(err)
	}
}
