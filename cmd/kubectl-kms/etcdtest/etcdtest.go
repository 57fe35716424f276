// Package etcdtest runs real etcds, of two minors, for tests of what reads them.
//
// Only tests import it. Processes of this machine's own etcd are not touched: all
// addresses are 127.0.0.1.
package etcdtest

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store/storetest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// A Version is a minor of etcd.
type Version string

// Versions that tests run. 3.6 has no RangeStream.
const (
	V36 Version = "3.6"
	V37 Version = "3.7"
)

// Versions are all of them.
func Versions() []Version { return []Version{V36, V37} }

// host gives out addresses, each only once.
var host = sync.OnceValue(func() *cluster.Host { return cluster.NewHostOf(cluster.Binaries{}) }) //nolint:gochecknoglobals // as said

// An Etcd is a running etcd of one member. Its methods end the test where they fail.
type Etcd struct {
	*cluster.Etcd

	t   testing.TB
	dir string
}

// limit bounds each thing that a test asks of etcd.
const limit = 2 * time.Minute

// Start starts an etcd, which ends with the test. Its data does not wait for the disk.
func Start(t testing.TB, v Version, o cluster.EtcdOptions) *Etcd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // it may have to be built
	defer cancel()
	build := cluster.BuildEtcd
	if v == V36 {
		build = cluster.BuildOldEtcd
	}
	path, err := build(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "etcd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o.Path = path
	o.Args = append([]string{"--unsafe-no-fsync", "--max-request-bytes=8388608", "--quota-backend-bytes=8589934592"}, o.Args...)
	e, err := host().EtcdWith(ctx, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return &Etcd{e, t, dir}
}

// DB is the file that the member keeps its keys in.
func (e *Etcd) DB() string { return filepath.Join(e.dir, "etcd", "member", "snap", "db") }

// Dir is the member's directory of data.
func (e *Etcd) Dir() string { return filepath.Join(e.dir, "etcd") }

// Put writes a key and returns the revision.
func (e *Etcd) Put(key, value string) int64 {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := e.Client().Put(ctx, key, value)
	if err != nil {
		e.t.Fatalf("put %q: %v", key, err)
	}
	return got.Header.Revision
}

// Delete deletes a key and returns the revision.
func (e *Etcd) Delete(key string) int64 {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := e.Client().Delete(ctx, key)
	if err != nil || got.Deleted != 1 {
		e.t.Fatalf("delete %q: %+v, %v", key, got, err)
	}
	return got.Header.Revision
}

// Change puts and deletes keys in one transaction.
func (e *Etcd) Change(put map[string]string, del []string) int64 {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var ops []clientv3.Op
	for key, value := range put {
		ops = append(ops, clientv3.OpPut(key, value))
	}
	for _, key := range del {
		ops = append(ops, clientv3.OpDelete(key))
	}
	got, err := e.Client().Txn(ctx).Then(ops...).Commit()
	if err != nil {
		e.t.Fatalf("change %q, delete %q: %v", put, del, err)
	}
	return got.Header.Revision
}

// Compact compacts to the revision, and returns when what is older is gone.
func (e *Etcd) Compact(revision int64) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if _, err := e.Client().Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		e.t.Fatalf("compact %d: %v", revision, err)
	}
}

// Wipe removes all keys, and their history.
func (e *Etcd) Wipe() {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := e.Client().Delete(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		e.t.Fatal(err)
	}
	if got.Deleted > 0 {
		e.Compact(got.Header.Revision)
	}
}

// Snapshot writes etcd's own snapshot to a file.
func (e *Etcd) Snapshot(path string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := e.Client().SnapshotWithVersion(ctx)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = got.Snapshot.Close() }()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := io.Copy(f, got.Snapshot); err != nil {
		e.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		e.t.Fatal(err)
	}
}

// CopyDB copies the member's database to a file. Nobody may write meanwhile.
func (e *Etcd) CopyDB(path string) {
	e.t.Helper()
	e.Snapshot(path + ".snapshot") // makes etcd write what it still has in memory
	data, err := os.ReadFile(e.DB())
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// Place is this etcd for a part of the contract, emptied.
func (e *Etcd) Place(t *testing.T, reader func() store.Reader) storetest.Place {
	t.Helper()
	part := &Etcd{e.Etcd, t, e.dir}
	part.Wipe()
	return storetest.Place{Put: part.Put, Delete: part.Delete, Change: part.Change, Compact: part.Compact, Reader: reader}
}
