package snapshot

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// trash deletes directories in the background. What is thrown in is gone from
// its place when throw returns; what a crash leaves in the directory is
// deleted by the next process.
type trash struct {
	dir    string
	work   sync.WaitGroup
	tokens chan struct{} // one deletion at a time: it competes with container starts
	mu     sync.Mutex
	n      int
}

func openTrash(dir string) (*trash, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	t := &trash{dir: dir, tokens: make(chan struct{}, 1)}
	for _, e := range old {
		t.delete(filepath.Join(dir, e.Name()))
	}
	return t, nil
}

func (t *trash) throw(path, name string) error {
	t.mu.Lock()
	t.n++
	n := t.n
	t.mu.Unlock()
	to := filepath.Join(t.dir, name+"."+strconv.FormatInt(time.Now().UnixNano(), 36)+strconv.Itoa(n))
	if err := os.Rename(path, to); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	t.delete(to)
	return nil
}

// restful is how long what is thrown in lies there: whoever waits for the end of
// its container comes first.
const restful = 10 * time.Millisecond

func (t *trash) delete(path string) {
	t.work.Add(1)
	time.AfterFunc(restful, func() {
		defer t.work.Done()
		t.tokens <- struct{}{}
		defer func() { <-t.tokens }()
		if err := os.RemoveAll(path); err != nil {
			// Nobody waits for this; the next start tries again.
			slog.Warn("cannot delete", "path", path, "error", err)
		}
	})
}

// wait returns when everything thrown in so far is deleted.
func (t *trash) wait() { t.work.Wait() }
