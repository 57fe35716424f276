package daemon

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// Each operation on files fails in turn, until a reload passes untouched: one in
// nthEvery of them.
func TestNthOperationOnFilesFailsAmidAReload(t *testing.T) {
	t.Parallel()
	every := nthEvery(t)
	for _, story := range nthStories()[:2] {
		for _, forGood := range []bool{false, true} {
			t.Run(story.name+"/"+mode(forGood), func(t *testing.T) {
				t.Parallel()
				n, failed := 1+rand.N(every), 0 //nolint:gosec // a choice of cases is no secret
				for passed := false; !passed; n += every {
					t.Run(fmt.Sprint(n), func(t *testing.T) {
						ops := &failingFiles{}
						k := newNthCase(t, story, testkit.Patience, ops)
						k.tell(func() blow { return ops.inject(n, forGood) })
						passed = ops.hits.Load() == 0
					})
					if t.Failed() {
						return
					}
					if !passed {
						failed = n
					}
				}
				const least = 8 // a file is read, a directory and a socket are made, one is changed, one removed
				if failed < least-every+1 {
					t.Errorf("the last operation on files that failed is number %d: the test shows little", failed)
				}
				t.Logf("operation %d was the last to fail", failed)
			})
		}
	}
}

// failingFiles are those of usualFiles, of which the n-th operation fails.
type failingFiles struct {
	mu      sync.Mutex
	n       int // 0: none fails
	forGood bool
	seen    int
	hits    atomic.Int64
}

func (f *failingFiles) inject(n int, forGood bool) blow {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.forGood, f.seen = n, forGood, 0
	return blow{remove: f.tired, struck: func() bool { return f.hits.Load() > 0 }, litter: forGood}
}

// tired ends the fault.
func (f *failingFiles) tired() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n = 0
}

func (f *failingFiles) next() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	if f.n == 0 || f.seen < f.n || f.seen > f.n && !f.forGood {
		return nil
	}
	f.hits.Add(1)
	return syscall.EIO
}

func (f *failingFiles) files() *files {
	usual, failing := usualFiles(), usualFiles()
	failing.read = func(path string) ([]byte, error) {
		if err := f.next(); err != nil {
			return nil, err
		}
		return usual.read(path)
	}
	failing.Mkdir = func(path string, mode fs.FileMode) error {
		if err := f.next(); err != nil {
			return err
		}
		return usual.Mkdir(path, mode)
	}
	failing.Lock = func(ctx context.Context, path string) (func(), error) {
		if err := f.next(); err != nil {
			return nil, err
		}
		return usual.Lock(ctx, path)
	}
	failing.Listen = func(ctx context.Context, path string, mode uint32) (net.Listener, error) {
		if err := f.next(); err != nil {
			return nil, err
		}
		return usual.Listen(ctx, path, mode)
	}
	failing.Chown = func(path string, file unixsocket.FileID, gid int) error {
		if err := f.next(); err != nil {
			return err
		}
		return usual.Chown(path, file, gid)
	}
	failing.Chmod = func(path string, file unixsocket.FileID, mode fs.FileMode) error {
		if err := f.next(); err != nil {
			return err
		}
		return usual.Chmod(path, file, mode)
	}
	failing.Secure = func(dir string, mode fs.FileMode) error {
		if err := f.next(); err != nil {
			return err
		}
		return usual.Secure(dir, mode)
	}
	failing.Remove = func(path string) error {
		if err := f.next(); err != nil {
			return err
		}
		return usual.Remove(path)
	}
	return &failing
}
