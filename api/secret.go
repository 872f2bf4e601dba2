package api

import "time"

// Annotations by which what docker's API has no field for is asked for; the
// flags of `run` and `create` set them, and any client may.
const (
	// AnnotationHealth holds none, kill, restart or stop.
	AnnotationHealth = "wherry.health-on-failure"
	// AnnotationSecret is followed by a target below /run/secrets, or an
	// absolute one; it holds source=NAME[,uid=N][,gid=N][,mode=OCTAL].
	AnnotationSecret = "wherry.secret/"
	// AnnotationIDMap is followed by the target of a bind or volume mount; it
	// holds "auto" or uids=DISK-CONTAINER-SIZE[#...][;gids=...].
	AnnotationIDMap = "wherry.idmap"
)

// Secret is what can be told of a secret; never its value.
type Secret struct {
	ID        string
	Name      string
	Labels    map[string]string
	CreatedAt time.Time
}

// SecretRequest is the body of POST /wherry/secrets/create.
type SecretRequest struct {
	Name   string
	Labels map[string]string
	Data   []byte
}
