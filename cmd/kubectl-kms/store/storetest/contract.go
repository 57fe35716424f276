// Package storetest is the contract that every [store.Reader] keeps.
//
// Only tests import it.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A Place is an etcd that a test writes to, and what reads it. Its functions end the
// test where they fail. Put, Delete and Change return the revision of the change.
type Place struct {
	Put     func(key, value string) (revision int64)
	Delete  func(key string) (revision int64)
	Change  func(put map[string]string, del []string) (revision int64) // in one transaction
	Compact func(revision int64)

	// Reader reads what has been written until it is called.
	Reader func() store.Reader
}

// Test runs the contract. empty makes a place without keys for each part. history says
// that the readers see older revisions.
func Test(t *testing.T, history bool, empty func(t *testing.T) Place) {
	t.Helper()
	for _, part := range []struct {
		name string
		test func(t *testing.T, p Place, history bool)
	}{
		{"AnEmptyStoreIsRead", emptyStore},
		{"AllBelowThePrefixIsRead", all},
		{"PrefixesAreWholeSegments", segments},
		{"OverlappingPrefixesGiveEachKeyOnce", overlapping},
		{"TheLastRevisionIsTheOneThatIsThere", lastRevision},
		{"DeletedKeysAreNotThere", deleted},
		{"KeysMadeAgainAreThere", madeAgain},
		{"KeysOfOneTransactionAreAllSeen", transaction},
		{"CompactedRevisionsAreGone", compacted},
		{"WritesOfMeanwhileAreNotSeen", meanwhile},
		{"UnreadPrefixesAreNamed", unread},
		{"ManyUnreadPrefixesAreBounded", manyUnread},
		{"LargeValuesAreRead", large},
		{"KeysOfAnyBytesAreRead", oddKeys},
		{"AnErrorOfEachEndsIt", errorOfEach},
		{"ACancelledContextEndsIt", cancelled},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, empty(t), history) })
	}
}

// A value is what each was given for a key.
type value struct {
	Value       string
	ModRevision int64
	Older       bool
}

// read returns all that the reader gives, by key, latest first.
func read(t *testing.T, r store.Reader, prefixes ...string) (map[string][]value, store.Reading) {
	t.Helper()
	got := map[string][]value{}
	reading, err := r.Read(t.Context(), prefixes, func(kv store.KeyValue) error {
		key := string(kv.Key)
		got[key] = append(got[key], value{string(kv.Value), kv.ModRevision, kv.Older})
		return nil
	})
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	for _, values := range got {
		slices.SortFunc(values, func(a, b value) int { return int(b.ModRevision - a.ModRevision) })
	}
	if reading.Place == "" {
		t.Error("the reading does not name its place")
	}
	return got, reading
}

// expect reads and compares. Values that are Older are expected of readers of history
// alone.
func expect(t *testing.T, p Place, history bool, revision int64, want map[string][]value, prefixes ...string) store.Reading {
	t.Helper()
	wantKeys := int64(0)
	want = maps.Clone(want)
	for key, values := range want {
		values = slices.DeleteFunc(slices.Clone(values), func(v value) bool { return v.Older && !history })
		want[key] = values
		if len(values) == 0 {
			delete(want, key)
		}
		for _, v := range values {
			if !v.Older {
				wantKeys++
			}
		}
	}
	r := p.Reader()
	for range 2 { // a reader may read again
		got, reading := read(t, r, prefixes...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("below %q (-want +got):\n%s", prefixes, diff)
		}
		if reading.Revision != revision || reading.Keys != wantKeys || reading.OlderRead != history {
			t.Fatalf("the reading says revision %d, %d keys, older read %t; want %d, %d, %t",
				reading.Revision, reading.Keys, reading.OlderRead, revision, wantKeys, history)
		}
	}
	_, reading := read(t, r, prefixes...)
	return reading
}

func emptyStore(t *testing.T, p Place, _ bool) {
	got, reading := read(t, p.Reader(), "/registry")
	if len(got) != 0 || reading.Keys != 0 || len(reading.Unread) != 0 {
		t.Errorf("an empty store has %d keys, %d in the reading, unread %q", len(got), reading.Keys, reading.Unread)
	}
	if reading.Revision < 1 {
		t.Errorf("revision %d; etcd begins with 1", reading.Revision)
	}
}

func all(t *testing.T, p Place, history bool) {
	want := map[string][]value{}
	var last int64
	for i := range 37 {
		key, text := fmt.Sprintf("/registry/secrets/ns-%d/name-%d", i%5, i), fmt.Sprintf("value %d", i)
		last = p.Put(key, text)
		want[key] = []value{{text, last, false}}
	}
	expect(t, p, history, last, want, "/registry")
	expect(t, p, history, last, want, "registry/") // as --etcd-prefix may be written
	expect(t, p, history, last, want, "/")
	expect(t, p, history, last, map[string][]value{}, "/kubernetes.io")
}

func segments(t *testing.T, p Place, history bool) {
	p.Put("/registry", "the prefix itself")
	p.Put("/registry-x/a", "beside")
	p.Put("/registry0", "beside")
	p.Put("/registry2/a", "beside")
	p.Put("/registr", "beside")
	inside := p.Put("/registry/a", "inside")
	reading := expect(t, p, history, inside, map[string][]value{"/registry/a": {{"inside", inside, false}}}, "/registry")
	want := []string{"/registr", "/registry", "/registry-x", "/registry0", "/registry2"}
	if diff := cmp.Diff(want, reading.Unread); diff != "" {
		t.Errorf("unread (-want +got):\n%s", diff)
	}
}

func overlapping(t *testing.T, p Place, history bool) {
	a := p.Put("/registry/a", "a")
	b := p.Put("/registry/secrets/b", "b")
	c := p.Put("/openshift.io/c", "c")
	d := p.Put("/elsewhere/d", "d")
	want := map[string][]value{
		"/registry/a": {{"a", a, false}}, "/registry/secrets/b": {{"b", b, false}}, "/openshift.io/c": {{"c", c, false}},
	}
	reading := expect(t, p, history, d, want, "/registry/secrets", "/openshift.io", "/registry", "/registry/", "/nothing")
	if diff := cmp.Diff([]string{"/elsewhere"}, reading.Unread); diff != "" {
		t.Errorf("unread (-want +got):\n%s", diff)
	}
}

func lastRevision(t *testing.T, p Place, history bool) {
	first := p.Put("/registry/a", "first")
	other := p.Put("/registry/b", "other")
	second := p.Put("/registry/a", "second")
	third := p.Put("/registry/a", "third")
	expect(t, p, history, third, map[string][]value{
		"/registry/a": {{"third", third, false}, {"second", second, true}, {"first", first, true}},
		"/registry/b": {{"other", other, false}},
	}, "/registry")
}

func deleted(t *testing.T, p Place, history bool) {
	first := p.Put("/registry/a", "first")
	kept := p.Put("/registry/b", "kept")
	gone := p.Delete("/registry/a")
	expect(t, p, history, gone, map[string][]value{
		"/registry/a": {{"first", first, true}},
		"/registry/b": {{"kept", kept, false}},
	}, "/registry")
}

func madeAgain(t *testing.T, p Place, history bool) {
	first := p.Put("/registry/a", "first")
	p.Delete("/registry/a")
	again := p.Put("/registry/a", "again")
	p.Put("/registry/b", "b1")
	p.Delete("/registry/b")
	b2 := p.Put("/registry/b", "b2")
	last := p.Delete("/registry/b")
	want := map[string][]value{
		"/registry/a": {{"again", again, false}, {"first", first, true}},
		"/registry/b": {{"b2", b2, true}, {"b1", again + 1, true}},
	}
	expect(t, p, history, last, want, "/registry")
}

func transaction(t *testing.T, p Place, history bool) {
	first := p.Put("/registry/a", "first")
	kept := p.Put("/registry/d", "d")
	last := p.Change(map[string]string{"/registry/b": "b", "/registry/c": "c"}, []string{"/registry/a"})
	expect(t, p, history, last, map[string][]value{
		"/registry/a": {{"first", first, true}},
		"/registry/b": {{"b", last, false}},
		"/registry/c": {{"c", last, false}},
		"/registry/d": {{"d", kept, false}},
	}, "/registry")
}

func compacted(t *testing.T, p Place, history bool) {
	p.Put("/registry/a", "first")
	a := p.Put("/registry/a", "second")
	p.Put("/registry/b", "gone")
	b := p.Delete("/registry/b")
	p.Compact(b)
	want := map[string][]value{"/registry/a": {{"second", a, false}}}
	expect(t, p, history, b, want, "/registry")
	b = p.Put("/registry/b", "b")
	want["/registry/b"] = []value{{"b", b, false}}
	expect(t, p, history, b, want, "/registry")
}

// meanwhile is what keeps a reading true of one revision: an object that is rewritten
// while others are read must not be counted twice, or not at all.
func meanwhile(t *testing.T, p Place, history bool) {
	want := map[string]string{}
	var last int64
	for i := range 40 {
		key := fmt.Sprintf("/registry/secrets/%02d", i)
		want[key] = "before"
		last = p.Put(key, "before")
	}
	r := p.Reader()
	got := map[string]string{}
	reading, err := r.Read(t.Context(), []string{"/registry"}, func(kv store.KeyValue) error {
		if kv.Older {
			return nil
		}
		got[string(kv.Key)] = string(kv.Value)
		if len(got) == 1 {
			for i := range 40 {
				p.Put(fmt.Sprintf("/registry/secrets/%02d", i), "meanwhile")
			}
			p.Delete("/registry/secrets/39")
			p.Put("/registry/secrets/40", "meanwhile")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys that were written meanwhile (-want +got):\n%s", diff)
	}
	if reading.Revision != last || reading.Keys != 40 || reading.OlderRead != history {
		t.Errorf("the reading says revision %d, %d keys; want %d, 40", reading.Revision, reading.Keys, last)
	}
}

func unread(t *testing.T, p Place, _ bool) {
	p.Put("/registry/secrets/a/b", "read")
	p.Put("/registry/configmaps/a/b", "")
	p.Put("/openshift.io/oauth/x", "")
	p.Put("/openshift.io/oauth/y", "")
	p.Put("/kubernetes.io/secrets/x", "")
	p.Put("/zzz", "")
	p.Put("no/slash", "")
	p.Put("compact_rev_key", "kube-apiserver's own")
	for _, c := range []struct{ prefixes, want []string }{
		{[]string{"/registry"}, []string{"/kubernetes.io", "/openshift.io", "/zzz", "no"}},
		{[]string{"/registry", "/openshift.io", "/kubernetes.io"}, []string{"/zzz", "no"}},
		{[]string{"/registry/secrets"}, []string{"/kubernetes.io", "/openshift.io", "/registry", "/zzz", "no"}},
		{[]string{"/"}, []string{"no"}},
		{nil, []string{"/kubernetes.io", "/openshift.io", "/registry", "/zzz", "no"}},
	} {
		_, reading := read(t, p.Reader(), c.prefixes...)
		if diff := cmp.Diff(c.want, reading.Unread); diff != "" {
			t.Errorf("beside %q (-want +got):\n%s", c.prefixes, diff)
		}
	}
}

func manyUnread(t *testing.T, p Place, _ bool) {
	for i := range 150 {
		p.Put(fmt.Sprintf("/other-%03d/a", 149-i), "")
	}
	_, reading := read(t, p.Reader(), "/registry")
	if n := len(reading.Unread); n != 101 || reading.Unread[0] != "/other-000" || reading.Unread[99] != "/other-099" || reading.Unread[100] != "and more" {
		t.Errorf("of 150 other prefixes %d are named: %q", n, reading.Unread)
	}
}

func large(t *testing.T, p Place, _ bool) {
	const values, size = 24, 1 << 20
	for i := range values {
		p.Put(fmt.Sprintf("/registry/large/%02d", i), strings.Repeat(string(rune('a'+i)), size))
		for j := range 3 {
			p.Put(fmt.Sprintf("/registry/small/%02d-%d", i, j), "small")
		}
	}
	got, reading := 0, int64(0)
	r, err := p.Reader().Read(t.Context(), []string{"/registry"}, func(kv store.KeyValue) error {
		reading++
		if name, ok := bytes.CutPrefix(kv.Key, []byte("/registry/large/")); ok {
			var i int
			fmt.Sscanf(string(name), "%d", &i) //nolint:errcheck // 0 is compared as well
			if len(kv.Value) != size || bytes.Count(kv.Value, []byte{byte('a' + i)}) != size {
				t.Errorf("%s has %d bytes, not the %d that were written", kv.Key, len(kv.Value), size)
			}
			got++
		}
		return nil
	})
	if err != nil || got != values || reading != 4*values || r.Keys != 4*values {
		t.Errorf("%d large values of %d, %d keys, %v", got, values, r.Keys, err)
	}
}

func oddKeys(t *testing.T, p Place, history bool) {
	want := map[string][]value{}
	var last int64
	for _, name := range []string{
		"\x00", "\x00\x00", "\x01", "a\x00b", "a/b", "a//b", "\xff", "\xff\xff", "0", "\n", "ä", "system:node:a", " ", "%2f", strings.Repeat("x", 3000),
	} {
		key, text := "/registry/"+name, "of "+name
		last = p.Put(key, text)
		want[key] = []value{{text, last, false}}
	}
	last = p.Put("/registry/", "")
	want["/registry/"] = []value{{"", last, false}}
	last = p.Put("/registry/\x00prefix", "")
	want["/registry/\x00prefix"] = []value{{"", last, false}}
	expect(t, p, history, last, want, "/registry")
}

func errorOfEach(t *testing.T, p Place, _ bool) {
	for i := range 40 {
		p.Put(fmt.Sprintf("/registry/%02d", i), "")
	}
	stop := errors.New("stop")
	for _, after := range []int{1, 7, 40} {
		calls := 0
		reading, err := p.Reader().Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error {
			if calls++; calls == after {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || calls != after {
			t.Errorf("each failed at call %d; Read returned %v after %d", after, err, calls)
		}
		if diff := cmp.Diff(store.Reading{}, reading); diff != "" {
			t.Errorf("a failed Read returned a reading:\n%s", diff)
		}
	}
}

func cancelled(t *testing.T, p Place, _ bool) {
	for i := range 40 {
		p.Put(fmt.Sprintf("/registry/%02d", i), "")
	}
	for _, after := range []int{0, 1, 7} {
		ctx, cancel := context.WithCancel(t.Context())
		if after == 0 {
			cancel()
		}
		calls := 0
		reading, err := p.Reader().Read(ctx, []string{"/registry"}, func(store.KeyValue) error {
			if calls++; calls == after {
				cancel()
			}
			return nil
		})
		cancel()
		if !errors.Is(err, context.Canceled) || calls != after {
			t.Errorf("cancelled at call %d; Read returned %v after %d", after, err, calls)
		}
		if diff := cmp.Diff(store.Reading{}, reading); diff != "" {
			t.Errorf("a cancelled Read returned a reading:\n%s", diff)
		}
	}
}
