// Package snapshot reads what API servers have stored from a file: a snapshot that
// etcd made (etcdctl snapshot save), or a copy of a member's database
// (member/snap/db).
//
// [New] is where to begin. The file is a bbolt database; its bucket "key" holds every
// revision that etcd has not compacted, in the order in which they were written:
//
//	key     revision (8, big endian) "_" sub-revision (8, big endian), then "t" where it deleted
//	value   mvccpb.KeyValue in protobuf: 1 key, 3 mod_revision, 5 value
//
// A snapshot ends with the SHA-256 of what comes before it, and so has 32 bytes more
// than whole disk sectors; a copied database has no digest. A file is read backwards:
// the first sight of a key is what is there, and everything before is history. So
// memory holds 16 bytes for each key and no value, and the file is mapped.
//
// A Read takes bbolt's shared lock, as everyone does who opens the file for reading:
// an etcd that starts on this very file waits until it ends. Read a copy.
//
// The source is etcd's own, of 3.7: server/storage/mvcc/revision.go, and for the digest
// etcdutl/snapshot/v3_snapshot.go.
package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// Options are of a Reader.
type Options struct {
	// Progress is called, from the goroutine of Read, about every MiB. It may be nil.
	Progress func(store.Progress)
}

// A Reader reads one file. It implements [store.Reader], and holds the file open only
// while it reads.
type Reader struct {
	path    string
	options Options
}

// New returns a Reader of the file.
func New(path string, o Options) *Reader { return &Reader{path, o} }

// lockLimit bounds the wait for a file that something holds open for writing: an etcd
// does so for as long as it runs.
const lockLimit = 2 * time.Second

// Read implements [store.Reader].
func (r *Reader) Read(ctx context.Context, prefixes []string, each func(store.KeyValue) error) (store.Reading, error) {
	f, err := r.examine()
	if err != nil {
		return store.Reading{}, err
	}
	w := &walk{
		file: f, below: store.NewPrefixes(prefixes), each: each,
		seen: map[[hashSize]byte]struct{}{}, options: r.options,
	}
	w.progress.Total = f.size
	if f.digest {
		w.progress.Total *= 2
		if err := w.checkDigest(ctx); err != nil {
			return store.Reading{}, err
		}
	}
	if err := w.guard(func() error { return w.open(ctx) }); err != nil {
		return store.Reading{}, err
	}
	reading := store.Reading{Place: r.path, Revision: w.revision, Keys: w.live, OlderRead: true, Unread: w.others.Unread()}
	if !f.digest {
		reading.Caveats = []string{r.path + " has no digest, so its values are not checked. " +
			"What etcd had only in its write-ahead log (WAL) is not applied."}
	}
	return reading, nil
}

// hashSize is how much of a key's SHA-256 is kept: no two keys share so much.
const hashSize = 16

// A walk is one Read, after the file was found to be one.
type walk struct {
	file    file
	below   store.Prefixes
	each    func(store.KeyValue) error
	options Options

	seen     map[[hashSize]byte]struct{} // of keys whose last revision was met
	others   store.Others
	revision int64
	live     int64
	progress store.Progress
	reported int64 // Done, when it was told last

	inEach bool // a panic is not bbolt's
}

// guard calls read. bbolt panics where a page is not what it expects, and a file that
// becomes shorter while it is mapped faults: both become errors.
func (w *walk) guard(read func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			if w.inEach {
				panic(p)
			}
			err = w.file.damaged(panicText(p))
		}
	}()
	return read()
}

// panicText is what a panic means. A fault of memory is one of the mapped file.
func panicText(p any) string {
	if fault, ok := p.(runtime.Error); ok {
		return fmt.Sprintf("a part of it cannot be read: its disk fails, or it has become shorter (%v)", fault)
	}
	return fmt.Sprint(p)
}

// open opens the database and walks it.
func (w *walk) open(ctx context.Context) error {
	var opened *os.File
	defer func() {
		if opened != nil {
			_ = opened.Close() // again, unless bbolt did not come to it
		}
	}()
	db, err := bolt.Open(w.file.path, 0, &bolt.Options{
		ReadOnly: true, Timeout: lockLimit, NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode) //nolint:gosec // the operator names it
			opened = f
			return f, err
		},
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return w.file.wrong("something holds it open for writing, as a running etcd does its own database",
			"Take a snapshot of the running etcd: etcdctl snapshot save FILE. Do not copy or read the database of one that runs", err)
	case err != nil:
		return w.file.damaged(err.Error())
	}
	defer func() { _ = db.Close() }()
	return db.View(func(tx *bolt.Tx) error {
		if tx.Size() > w.file.size {
			return w.file.wrong(fmt.Sprintf("it has %d bytes of the %d that it says it has", w.file.size, tx.Size()), adviceTruncated, nil)
		}
		if err := checkTree(ctx, opened, db.Info().PageSize, int64(tx.ID())); err != nil {
			return cmp.Or(context.Cause(ctx), w.file.damaged(err.Error()))
		}
		return w.view(ctx, tx)
	})
}

// view walks bucket "key" from its end.
func (w *walk) view(ctx context.Context, tx *bolt.Tx) error {
	keys := tx.Bucket([]byte("key"))
	if keys == nil || tx.Bucket([]byte("meta")) == nil {
		return w.file.wrong("it is a bbolt database, and not one of etcd", adviceForeign, nil)
	}
	if err := w.compacted(tx); err != nil {
		return err
	}
	var last []byte // the revision that follows, as bytes
	cursor := keys.Cursor()
	for k, v := cursor.Last(); k != nil; k, v = cursor.Prev() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if last != nil && bytes.Compare(k, last) >= 0 {
			return w.file.damaged("its revisions are not in order")
		}
		last = append(last[:0], k...)
		if err := w.entry(k, v); err != nil {
			return err
		}
	}
	w.progress.Done = w.progress.Total
	w.report()
	return nil
}

// entry takes one revision of one key.
func (w *walk) entry(k, v []byte) error {
	rev, err := parseRevision(k)
	if err != nil {
		return w.file.damaged(err.Error())
	}
	kv, err := parseKeyValue(v)
	if err != nil {
		return w.file.damaged(fmt.Sprintf("revision %d: %v", rev.main, err))
	}
	if !rev.tombstone && kv.modRevision != rev.main {
		return w.file.damaged(fmt.Sprintf("revision %d holds a value of revision %d", rev.main, kv.modRevision))
	}
	w.revision = max(w.revision, rev.main)
	w.advance(int64(len(k) + len(v)))
	if !w.below.Contains(kv.key) {
		if !rev.tombstone {
			w.others.Add(kv.key)
		}
		return nil
	}
	older := w.sawBefore(kv.key)
	if rev.tombstone {
		return nil
	}
	if !older {
		w.live++
	}
	w.progress.Keys++
	w.progress.Bytes += int64(len(kv.key) + len(kv.value))
	w.inEach = true
	err = w.each(store.KeyValue{Key: kv.key, Value: kv.value, ModRevision: rev.main, Older: older})
	w.inEach = false
	return err
}

// sawBefore reports whether a later revision of the key was met, and remembers it.
func (w *walk) sawBefore(key []byte) bool {
	sum := sha256.Sum256(key)
	hash := [hashSize]byte(sum[:hashSize])
	_, seen := w.seen[hash]
	if !seen {
		w.seen[hash] = struct{}{}
	}
	return seen
}

// compacted takes the revisions that etcd compacted to: a store whose last changes were
// compacted deletions is at a later revision than any that it still holds.
func (w *walk) compacted(tx *bolt.Tx) error {
	w.revision = 1 // of a store that was never written
	for _, name := range []string{"finishedCompactRev", "scheduledCompactRev"} {
		value := tx.Bucket([]byte("meta")).Get([]byte(name))
		if value == nil {
			continue
		}
		rev, err := parseRevision(value)
		if err != nil {
			return w.file.damaged(name + ": " + err.Error())
		}
		w.revision = max(w.revision, rev.main)
	}
	return nil
}

// reportEvery is how many bytes lie between two calls of Progress.
const reportEvery = 1 << 20

func (w *walk) advance(bytes int64) {
	w.progress.Done = min(w.progress.Done+bytes, w.progress.Total)
	if w.progress.Done >= w.reported+reportEvery {
		w.report()
	}
}

func (w *walk) report() {
	w.reported = w.progress.Done
	if w.options.Progress != nil {
		w.inEach = true
		w.options.Progress(w.progress)
		w.inEach = false
	}
}
