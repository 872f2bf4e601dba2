package api

import "github.com/moby/moby/api/types/container"

// ExecRequest is the body of POST /containers/{name}/exec with what Wherry
// knows beyond docker; dockerd ignores it.
type ExecRequest struct {
	container.ExecCreateRequest
	// KillOnDisconnect ends the command with SIGKILL when its client vanishes,
	// together with what is left of its process group. A client that detaches,
	// or only ends its input, leaves it alone.
	KillOnDisconnect bool `json:",omitempty"`
}
