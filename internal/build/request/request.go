// Package request owns what POST /build says in the engine's words: the
// parameters of a build, whichever of the two builders' forms they came in.
package request

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"

	"github.com/wherry-engine/wherry/internal/filter"
)

// Build is one POST /build.
type Build struct {
	Tags        []string
	Dockerfile  string // path in the context
	Remote      string // where the context is; "" is the body, "client-session" the session, "upload-request" another request (see Uploads)
	BuildArgs   map[string]*string
	Labels      map[string]string
	CacheFrom   []string
	ExtraHosts  []string
	NetworkMode string
	Target      string
	Platform    string

	Quiet, NoCache, Pull, Squash bool
	Remove, ForceRemove          bool

	// Limits of each step.
	Memory, MemorySwap             int64
	CPUShares, CPUPeriod, CPUQuota int64
	CPUSetCPUs, CPUSetMems         string
	ShmSize                        int64
	CgroupParent                   string
	Ulimits                        []*container.Ulimit
	Isolation                      string

	// Of version 2.
	BuildID string
	Session string
	Outputs []Output

	Auth map[string]registry.AuthConfig // X-Registry-Config
}

// Output is one entry of outputs.
type Output struct {
	Type  string
	Attrs map[string]string
}

// Prune is one POST /build/prune.
type Prune struct {
	All                        bool
	Filters                    filter.Args
	Reserved, MaxUsed, MinFree int64 // bytes, 0 for no bound
	Now                        time.Time
}

// StepError is a step of a classic build that ended with a code other than 0.
type StepError struct {
	Command string
	Code    int
}

func (e *StepError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", e.Command, e.Code)
}
