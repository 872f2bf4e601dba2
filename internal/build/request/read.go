package request

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"

	"github.com/wherry-engine/wherry/internal/filter"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// flag reads a truth value as dockerd does: anything but these few is true.
func flag(q url.Values, key string) bool {
	switch strings.ToLower(strings.TrimSpace(q.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// Read reads the parameters of a build. registries is the header
// X-Registry-Config; minor is that of the API's version.
func Read(q url.Values, registries string, minor int) (*Build, error) {
	r := &Build{
		Tags: q["t"], Dockerfile: q.Get("dockerfile"), Remote: q.Get("remote"), NetworkMode: q.Get("networkmode"), Target: q.Get("target"),
		Quiet: flag(q, "q"), NoCache: flag(q, "nocache"), Pull: flag(q, "pull"), Squash: flag(q, "squash"), ForceRemove: flag(q, "forcerm"),
		Remove: !q.Has("rm") || flag(q, "rm"), CPUSetCPUs: q.Get("cpusetcpus"), CPUSetMems: q.Get("cpusetmems"), CgroupParent: q.Get("cgroupparent"),
		BuildID: q.Get("buildid"), Session: q.Get("session"), ExtraHosts: q["extrahosts"], Isolation: q.Get("isolation"),
	}
	if minor >= 32 {
		r.Platform = q.Get("platform")
	}
	for key, to := range map[string]*int64{
		"memory": &r.Memory, "memswap": &r.MemorySwap, "cpushares": &r.CPUShares, "cpuperiod": &r.CPUPeriod, "cpuquota": &r.CPUQuota, "shmsize": &r.ShmSize,
	} {
		text := q.Get(key)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, invalid("invalid value for %s: %q", key, text)
		}
		*to = n
	}
	for key, to := range map[string]any{
		"buildargs": &r.BuildArgs, "labels": &r.Labels, "cachefrom": &r.CacheFrom, "ulimits": &r.Ulimits, "outputs": &r.Outputs,
	} {
		text := q.Get(key)
		if text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(text), to); err != nil {
			return nil, invalid("error reading %s: %v", key, err)
		}
	}
	if slices.ContainsFunc(r.Ulimits, func(u *container.Ulimit) bool { return u == nil }) {
		return nil, invalid("error reading ulimits: null is no limit")
	}
	if r.Isolation != "" && r.Isolation != "default" {
		return nil, invalid("unsupported isolation: %s", r.Isolation)
	}
	if len(q["securityopt"]) > 0 {
		return nil, invalid("The daemon on this platform does not support setting security options on build")
	}
	var err error
	r.Auth, err = auths(registries)
	return r, err
}

// auths reads the credentials of a build, by registry.
func auths(header string) (map[string]registry.AuthConfig, error) {
	if header == "" {
		return nil, nil
	}
	data, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		data, err = base64.StdEncoding.DecodeString(header)
	}
	out := map[string]registry.AuthConfig{}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return nil, invalid("invalid X-Registry-Config header: %v", err)
	}
	return out, nil
}

// ReadPrune reads the parameters of /build/prune.
func ReadPrune(q url.Values, now time.Time) (Prune, error) {
	p := Prune{All: flag(q, "all"), Now: now}
	var err error
	if p.Filters, err = filter.Parse(q.Get("filters")); err != nil {
		return p, err
	}
	for key, to := range map[string]*int64{"keep-storage": &p.Reserved, "reserved-space": &p.Reserved, "max-used-space": &p.MaxUsed, "min-free-space": &p.MinFree} {
		text := q.Get(key)
		if text == "" {
			continue
		}
		if *to, err = strconv.ParseInt(text, 10, 64); err != nil {
			return p, invalid("%s is in bytes and expects an integer, got %v", key, text)
		}
	}
	return p, nil
}
