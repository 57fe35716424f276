package snapshot

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// FuzzParseKeyValue: what parses has the parts that etcd's own decoder finds.
func FuzzParseKeyValue(f *testing.F) {
	_, v := entry(7, 0, "/registry/a", "value", false)
	f.Add(v)
	_, v = entry(7, 0, "/registry/a", "", true)
	f.Add(v)
	f.Add([]byte("\x0a\x01a\x0a\x01b"))
	f.Add([]byte("\x0a\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kv, err := parseKeyValue(b)
		if err != nil {
			return
		}
		var theirs mvccpb.KeyValue
		if err := proto.Unmarshal(b, &theirs); err != nil {
			return // stricter in fields that are not looked at
		}
		if !bytes.Equal(kv.key, theirs.Key) || !bytes.Equal(kv.value, theirs.Value) || kv.modRevision != theirs.ModRevision {
			t.Errorf("%q: %q %d %q; etcd reads %v", b, kv.key, kv.modRevision, kv.value, &theirs)
		}
	})
}

// FuzzParseRevision: nothing but what etcd writes parses.
func FuzzParseRevision(f *testing.F) {
	k, _ := entry(7, 3, "a", "", false)
	f.Add(k)
	k, _ = entry(7, 3, "a", "", true)
	f.Add(k)
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRevision(b)
		if err != nil {
			return
		}
		again, _ := entry(r.main, r.sub, "a", "", r.tombstone)
		if !bytes.Equal(again, b) {
			t.Errorf("%q parses as %+v, which is written as %q", b, r, again)
		}
	})
}

// FuzzReadDatabase changes bytes of a database: no page of it may crash or hang what
// reads it.
func FuzzReadDatabase(f *testing.F) {
	small, err := os.ReadFile(database(f, put(f, 200)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(8), uint16(8), []byte{1})
	f.Add(uint16(3*512), uint16(10), []byte{0xff, 0xff})
	f.Add(uint16(0), uint16(0), []byte{})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, sector, offset uint16, change []byte) {
		data := bytes.Clone(small)
		at := (int(sector)*512 + int(offset)) % len(data)
		copy(data[at:], change)
		path := filepath.Join(dir, "db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		calls := 0
		_, _ = New(path, Options{}).Read(context.Background(), []string{"/"}, func(store.KeyValue) error {
			calls++
			return nil
		})
		if calls > 100_000 {
			t.Errorf("%d calls", calls)
		}
	})
}
