package buildcontext

import (
	"context"
	"errors"
	"net/url"
	"slices"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/source/local"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/metadata"
)

// request is one of a client for a directory.
type request struct {
	dir    local.LocalIdentifier
	ctx    context.Context // ends with the client's session, and with end
	end    context.CancelCauseFunc
	stream filesync.FileSync_DiffCopyClient
}

// ask asks a client for a directory. The request lives until it is ended.
func ask(ctx context.Context, caller session.Caller, dir local.LocalIdentifier) (*request, error) {
	if !caller.Supports(session.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy")) {
		return nil, errors.New("no local sources enabled")
	}
	q := &request{dir: dir}
	q.ctx, q.end = context.WithCancelCause(caller.Context(context.WithoutCancel(ctx)))
	md := metadata.MD{"dir-name": {dir.Name}}
	for name, list := range map[string][]string{
		"include-patterns": dir.IncludePatterns, "exclude-patterns": dir.ExcludePatterns, "followpaths": dir.FollowPaths,
	} {
		if list != nil {
			md[name] = list
		}
	}
	var err error
	if q.stream, err = filesync.NewFileSyncClient(caller.Conn()).DiffCopy(metadata.NewOutgoingContext(q.ctx, encoded(md))); err != nil {
		q.end(err)
		return nil, err
	}
	return q, nil
}

// Where the Dockerfile frontend finds what a context leaves out: in a file
// beside the Dockerfile, which it asks for together with that, or else in one
// of the context, for which it asks later.
const (
	ignoreSuffix = ".dockerignore"
	ignoreName   = ".dockerignore"
)

// askAhead asks for the context's .dockerignore as well when somebody asks for
// a Dockerfile: the client looks for it while the Dockerfile is read.
func (d *Directories) askAhead(ctx context.Context, caller session.Caller, dir local.LocalIdentifier) {
	if dir.SessionID == "" || dir.Differ != fsutil.DiffNone || len(dir.FollowPaths) < 2 || dir.FollowPaths[1] != dir.FollowPaths[0]+ignoreSuffix {
		return
	}
	q, err := ask(ctx, caller, local.LocalIdentifier{SessionID: dir.SessionID, Name: Posted, FollowPaths: []string{ignoreName}, Differ: fsutil.DiffNone})
	if err != nil {
		return // whoever wants it asks again
	}
	d.mu.Lock()
	before := d.asked[dir.SessionID]
	d.asked[dir.SessionID] = q
	d.mu.Unlock()
	if before != nil {
		before.end(errEnded)
	}
	context.AfterFunc(q.ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.asked[dir.SessionID] == q {
			delete(d.asked, dir.SessionID)
		}
	})
}

// askedFor gives the request for a directory that was made ahead, which is the
// caller's then; nil if there is none.
func (d *Directories) askedFor(dir local.LocalIdentifier) *request {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.asked[dir.SessionID]
	if q == nil || q.dir.Name != dir.Name || dir.Differ != q.dir.Differ || dir.IncludePatterns != nil || dir.ExcludePatterns != nil || !slices.Equal(dir.FollowPaths, q.dir.FollowPaths) {
		return nil
	}
	delete(d.asked, dir.SessionID)
	return q
}

// Forget ends what was asked of a session and is wanted by nobody.
func (d *Directories) Forget(session string) {
	d.mu.Lock()
	q := d.asked[session]
	delete(d.asked, session)
	d.mu.Unlock()
	if q != nil {
		q.end(errEnded)
	}
}

var errEnded = errors.New("the transfer has ended")

// encoded makes headers of what has other than ASCII letters, as the clients expect it.
func encoded(in metadata.MD) metadata.MD {
	out := metadata.MD{}
	for name, list := range in {
		plain := true
		for _, text := range list {
			for n := range len(text) {
				plain = plain && text[n] < 0x80
			}
		}
		for _, text := range list {
			if !plain {
				text = url.QueryEscape(text)
			}
			out[name] = append(out[name], text)
		}
		if !plain {
			out[name+"-encoded"] = []string{"1"}
		}
	}
	return out
}
