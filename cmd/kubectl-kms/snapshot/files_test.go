package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// attempt reads a file and drops what it gives.
func attempt(t *testing.T, path string) (store.Reading, error) {
	t.Helper()
	return New(path, Options{}).Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
}

// want checks an error's words, and that it names the file.
func want(t *testing.T, path string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, word := range append(words, path) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v\ndoes not say %q", err, word)
		}
	}
	if e, ok := errors.AsType[*store.Error](err); !ok || e.Place != path {
		t.Errorf("%#v is not an error of the place %s", err, path)
	}
}

// entry is the key and the value of a revision, as etcd writes them.
func entry(main, sub int64, key, value string, tombstone bool) (k, v []byte) {
	k = binary.BigEndian.AppendUint64(nil, uint64(main))
	k = binary.BigEndian.AppendUint64(append(k, '_'), uint64(sub))
	v = protowire.AppendTag(v, 1, protowire.BytesType)
	v = protowire.AppendBytes(v, []byte(key))
	if tombstone {
		return append(k, 't'), v
	}
	v = protowire.AppendTag(v, 2, protowire.VarintType)
	v = protowire.AppendVarint(v, 2)
	v = protowire.AppendTag(v, 3, protowire.VarintType)
	v = protowire.AppendVarint(v, uint64(main))
	v = protowire.AppendTag(v, 4, protowire.VarintType)
	v = protowire.AppendVarint(v, 1)
	v = protowire.AppendTag(v, 5, protowire.BytesType)
	v = protowire.AppendBytes(v, []byte(value))
	v = protowire.AppendTag(v, 6, protowire.VarintType)
	return k, protowire.AppendVarint(v, 0)
}

// database makes one by bbolt, with the buckets of etcd.
func database(t testing.TB, fill func(keys *bolt.Bucket)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("meta"))
		keys, err2 := tx.CreateBucket([]byte("key"))
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		fill(keys)
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// put puts revisions 2 to n+1.
func put(t testing.TB, n int) func(*bolt.Bucket) {
	t.Helper()
	return func(keys *bolt.Bucket) {
		for i := range int64(n) {
			if err := keys.Put(entry(i+2, 0, fmt.Sprintf("/registry/%05d", i), strings.Repeat("v", 300), false)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// withDigest returns the file as a snapshot.
func withDigest(data []byte) []byte {
	sum := sha256.Sum256(data)
	return append(bytes.Clone(data), sum[:]...)
}

func write(t testing.TB, name string, data []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func content(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTruncatedSnapshotsAreRefused: wherever it was cut off.
func TestTruncatedSnapshotsAreRefused(t *testing.T) {
	e := etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	for i := range 500 {
		e.Put(fmt.Sprintf("/registry/%d", i), strings.Repeat("x", 500))
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	e.Snapshot(path)
	whole := content(t, path)
	if reading, err := attempt(t, path); err != nil || reading.Keys != 500 || len(reading.Caveats) != 0 {
		t.Fatalf("whole: %+v, %v", reading, err)
	}
	size := len(whole)
	for _, n := range []int{
		size - 1, size - 31, size - 33, size - 512, size - 544, size / 2, size/2/4096*4096 + 32, size / 2 / 4096 * 4096,
		4096 * 2, 4096*2 + 32, 4096, 4096 + 32, 1000, 100,
	} {
		cut := write(t, "cut", whole[:n])
		_, err := attempt(t, cut)
		words := ""
		if n%4096 == 0 && n > 4096 {
			words = fmt.Sprintf("it has %d bytes of the %d that it says it has", n, size-32)
		}
		want(t, cut, err, words)
		if t.Failed() {
			t.Fatalf("at %d of %d bytes", n, size)
		}
	}
	// What lost the digest alone is as good as a copied database.
	cut := write(t, "cut", whole[:size-32])
	reading, err := attempt(t, cut)
	if err != nil || reading.Keys != 500 || len(reading.Caveats) != 1 || !strings.Contains(reading.Caveats[0], "not checked") {
		t.Errorf("without digest: %+v, %v", reading, err)
	}
}

// TestChangedSnapshotsAreRefused: one bit anywhere.
func TestChangedSnapshotsAreRefused(t *testing.T) {
	data := withDigest(content(t, database(t, put(t, 500))))
	for _, at := range []int{0, 20, 5000, len(data) / 2, len(data) - 40, len(data) - 32, len(data) - 1} {
		changed := bytes.Clone(data)
		changed[at] ^= 1
		path := write(t, "changed", changed)
		_, err := attempt(t, path)
		want(t, path, err, "digest does not match")
	}
	grown := write(t, "grown", append(bytes.Clone(data), "\n"...))
	_, err := attempt(t, grown)
	want(t, grown, err, "it was cut off, or something is attached")
}

// TestDamagedCopiesAreErrors: a copy that was made while etcd ran has pages of several
// moments. It may be read by luck; it must not crash or hang.
func TestDamagedCopiesAreErrors(t *testing.T) {
	data := content(t, database(t, put(t, 800)))
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0)) //nolint:gosec // no secret
	failed := 0
	for range 200 {
		damaged := bytes.Clone(data)
		for range 1 + random.IntN(4) {
			at := 4096 * (2 + random.IntN(len(data)/4096-2))
			switch random.IntN(3) {
			case 0: // a page of another moment
				copy(damaged[at:at+4096], data[4096*random.IntN(len(data)/4096):])
			case 1:
				clear(damaged[at : at+4096])
			case 2: // the head of the page or of its first elements
				damaged[at+random.IntN(64)] ^= 1 << random.IntN(8)
			}
		}
		if random.IntN(2) == 0 {
			damaged = withDigest(damaged) // etcd sends what it has
		}
		path := write(t, "damaged", damaged)
		if _, err := attempt(t, path); err != nil {
			failed++
			want(t, path, err)
		}
	}
	if failed < 60 {
		t.Errorf("%d of 200 damaged copies are errors: the test is wrong", failed)
	}
}

// TestPagesThatLeadToThemselvesAreRefused: bbolt would follow them without end.
func TestPagesThatLeadToThemselvesAreRefused(t *testing.T) {
	data := content(t, database(t, put(t, 3000)))
	found := 0
	for at := 2 * 4096; at < len(data); at += 4096 {
		if binary.NativeEndian.Uint16(data[at+8:]) != flagBranch {
			continue
		}
		found++
		looped := bytes.Clone(data)
		last := at + pageHeader + elementSize*(int(binary.NativeEndian.Uint16(data[at+10:]))-1)
		copy(looped[last+8:], data[at:at+8]) // its last child is itself
		for _, data := range [][]byte{looped, withDigest(looped)} {
			path := write(t, "looped", data)
			_, err := attempt(t, path)
			want(t, path, err, "it is damaged: ", "twice")
		}
	}
	if found == 0 {
		t.Error("no branch page: the test is wrong")
	}
}

// TestFilesThatAreNoSnapshot: each mistake has a name.
func TestFilesThatAreNoSnapshot(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "meta.db")
	db, err := bolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("v1")); return err })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	swappedData := content(t, database(t, put(t, 5)))
	for _, page := range []int{0, 4096} {
		magic := swappedData[page+16:][:4]
		magic[0], magic[1], magic[2], magic[3] = magic[3], magic[2], magic[1], magic[0]
	}
	tar := make([]byte, 1024)
	copy(tar[257:], "ustar")
	for _, c := range []struct{ name, path, want string }{
		{"nothing", filepath.Join(dir, "gone"), "there is no such file"},
		{"an empty file", write(t, "empty", nil), "the file is empty (0 bytes)"},
		{"an empty directory", t.TempDir(), "it is a directory. Name a snapshot"},
		{"a pipe", fifo, "it is not a regular file"},
		{"a device", "/dev/null", "it is not a regular file"},
		{"text", write(t, "text", []byte("hello\n")), "it is not a database of etcd"},
		{"a page of zeros", write(t, "zeros", make([]byte, 8192)), "it is not a database of etcd"},
		{"gzip", write(t, "x.gz", []byte("\x1f\x8b\x08rest")), "it is compressed by gzip. Unpack it first"},
		{"zstd", write(t, "x.zst", []byte("\x28\xb5\x2f\xfdrest")), "compressed by zstd"},
		{"zip", write(t, "x.zip", []byte("PK\x03\x04rest")), "it is a zip archive. Unpack"},
		{"tar", write(t, "x.tar", tar), "it is a tar archive"},
		{"a raft snapshot", write(t, "0001.snap", []byte("\x08\x01rest")), "raft state"},
		{"another byte order", write(t, "swapped", swappedData), "a machine of the other byte order"},
		{"a database of something else", foreign, "it is a bbolt database, and not one of etcd"},
		{"one whose keys are no revisions", database(t, func(b *bolt.Bucket) { must(t, b.Put([]byte("name"), []byte("value"))) }), "a key of 4 bytes is not a revision"},
		{"one with a bucket among the keys", database(t, func(b *bolt.Bucket) {
			_, err := b.CreateBucket([]byte("inner"))
			must(t, err)
		}), "it is damaged: a key of 5 bytes"},
		{"one with another mark", database(t, func(b *bolt.Bucket) {
			k, v := entry(2, 0, "a", "b", true)
			k[17] = 'x'
			must(t, b.Put(k, v))
		}), `marked 'x'`},
		{"one whose values are no KeyValues", database(t, func(b *bolt.Bucket) {
			k, _ := entry(2, 0, "a", "b", false)
			must(t, b.Put(k, []byte("\x0a\xff")))
		}), "revision 2: the value is not a KeyValue of etcd"},
		{"one without key", database(t, func(b *bolt.Bucket) {
			k, _ := entry(2, 0, "a", "b", false)
			must(t, b.Put(k, nil))
		}), "it has no key"},
		{"one whose revisions do not agree", database(t, func(b *bolt.Bucket) {
			k, _ := entry(2, 0, "a", "b", false)
			_, v := entry(3, 0, "a", "b", false)
			must(t, b.Put(k, v))
		}), "revision 2 holds a value of revision 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := attempt(t, c.path)
			want(t, c.path, err, c.want)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFilesOfEtcdsOwnDirectory: what an operator may name by mistake, of a real etcd.
func TestFilesOfEtcdsOwnDirectory(t *testing.T) {
	for _, v := range etcdtest.Versions() {
		t.Run(string(v), func(t *testing.T) {
			e := etcdtest.Start(t, v, cluster.EtcdOptions{})
			e.Put("/registry/a", "a")
			wals, err := filepath.Glob(filepath.Join(e.Dir(), "member", "wal", "*.wal"))
			if err != nil || len(wals) == 0 {
				t.Fatalf("%q, %v", wals, err)
			}
			start := time.Now()
			_, err = attempt(t, e.DB())
			want(t, e.DB(), err, "something holds it open for writing, as a running etcd does", "etcdctl snapshot save FILE")
			if took := time.Since(start); took > time.Minute {
				t.Errorf("it waited %v for the lock", took)
			}
			_, err = attempt(t, wals[0])
			want(t, wals[0], err, "write-ahead log (WAL), which does not hold the keys")
			_, err = attempt(t, e.Dir())
			want(t, e.Dir(), err, "it is a directory. Name the database in it: "+e.DB())
			if err := e.Stop(time.Minute); e.Running() { // etcd ends by the signal itself, which is no exit code of 0
				t.Fatal(err)
			}
			if reading, err := attempt(t, e.DB()); err != nil || reading.Keys != 1 || len(reading.Caveats) != 1 {
				t.Errorf("stopped: %+v, %v", reading, err)
			}
			must(t, os.Remove(e.DB()))
			for _, dir := range []string{e.Dir(), filepath.Join(e.Dir(), "member"), filepath.Dir(wals[0])} {
				_, err = attempt(t, dir)
				want(t, dir, err, "a write-ahead log (WAL) and no database")
			}
		})
	}
}

// TestACopiedDatabaseIsNotChecked: its verdict has to say so.
func TestACopiedDatabaseIsNotChecked(t *testing.T) {
	path := database(t, put(t, 5))
	reading, err := attempt(t, path)
	if err != nil || len(reading.Caveats) != 1 {
		t.Fatalf("%+v, %v", reading, err)
	}
	for _, words := range []string{path, "not checked", "write-ahead log (WAL) is not applied"} {
		if !strings.Contains(reading.Caveats[0], words) {
			t.Errorf("%q does not say %q", reading.Caveats[0], words)
		}
	}
}

// TestBboltsPanicsAreErrors: whatever it does not like in a page.
func TestBboltsPanicsAreErrors(t *testing.T) {
	path := database(t, put(t, 5))
	w := &walk{file: file{path: path, size: 1 << 30}, each: func(store.KeyValue) error { return nil }}
	err := w.guard(func() error { panic("page 7 already freed") })
	want(t, path, err, "it is damaged: page 7 already freed")
	err = w.guard(func() error {
		data, err := syscall.Mmap(int(openFile(t, path).Fd()), 0, 1<<20, syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			return err
		}
		defer func() { _ = syscall.Munmap(data) }()
		if data[1<<20-1] != 0 { // beyond the end of the file
			return nil
		}
		return nil
	})
	want(t, path, err, "it is damaged: a part of it cannot be read")
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestCompactionsCountForTheRevision: older etcds drop the deletion that they compact
// to, so that no key has the last revision.
func TestCompactionsCountForTheRevision(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        int64
		err         string
	}{
		{"finishedCompactRev", "\x00\x00\x00\x00\x00\x00\x00\x2a_\x00\x00\x00\x00\x00\x00\x00\x00", 42, ""},
		{"scheduledCompactRev", "\x00\x00\x00\x00\x00\x00\x00\x2a_\x00\x00\x00\x00\x00\x00\x00\x00", 42, ""},
		{"finishedCompactRev", "\x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00", 6, ""},
		{"finishedCompactRev", "text", 0, "finishedCompactRev: a key of 4 bytes is not a revision"},
		{"other", "text", 6, ""},
	} {
		path := database(t, func(keys *bolt.Bucket) {
			put(t, 5)(keys)
			must(t, keys.Tx().Bucket([]byte("meta")).Put([]byte(c.name), []byte(c.value)))
		})
		reading, err := attempt(t, path)
		if c.err != "" {
			want(t, path, err, c.err)
		} else if err != nil || reading.Revision != c.want || reading.Keys != 5 {
			t.Errorf("%s %q: %+v, %v; want revision %d", c.name, c.value, reading, err, c.want)
		}
	}
}

// TestReadingLeavesTheFileAlone: not a byte is written.
func TestReadingLeavesTheFileAlone(t *testing.T) {
	path := write(t, "snapshot", withDigest(content(t, database(t, put(t, 300)))))
	before := content(t, path)
	must(t, os.Chmod(path, 0o400))
	if _, err := attempt(t, path); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, content(t, path)) {
		t.Error("the file has changed")
	}
}

// TestAPanicOfEachIsNotSwallowed: it is the caller's mistake and not the file's.
func TestAPanicOfEachIsNotSwallowed(t *testing.T) {
	path := database(t, put(t, 5))
	defer func() {
		if p := recover(); p != "each" {
			t.Errorf("recovered %v", p)
		}
	}()
	_, err := New(path, Options{}).Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { panic("each") })
	t.Errorf("Read: %v", err)
}

// TestProgressIsTold: it grows, and ends with all.
func TestProgressIsTold(t *testing.T) {
	path := write(t, "snapshot", withDigest(content(t, database(t, put(t, 20_000)))))
	var told []store.Progress
	r := New(path, Options{Progress: func(p store.Progress) { told = append(told, p) }})
	if _, err := r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil }); err != nil {
		t.Fatal(err)
	}
	last := store.Progress{}
	for _, p := range told {
		if p.Done < last.Done || p.Keys < last.Keys || p.Done > p.Total {
			t.Errorf("after %+v: %+v", last, p)
		}
		last = p
	}
	if last.Keys != 20_000 || last.Done != last.Total || last.Bytes < 6_000_000 || len(told) < 10 {
		t.Errorf("told %d times, last %+v", len(told), last)
	}
}
