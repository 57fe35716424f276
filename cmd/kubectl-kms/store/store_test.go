package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A reader fails with these errors, one after the other, and gives a key before.
type reader struct {
	errs  []error
	reads int
}

func (r *reader) Read(_ context.Context, _ []string, each func(KeyValue) error) (Reading, error) {
	err := r.errs[min(r.reads, len(r.errs)-1)]
	r.reads++
	if err := each(KeyValue{Key: []byte("/registry/a")}); err != nil {
		return Reading{}, err
	}
	if err != nil {
		return Reading{}, err
	}
	return Reading{Keys: 1}, nil
}

// TestReadTwice: once more after a compaction, and after nothing else; what was read
// before does not count.
func TestReadTwice(t *testing.T) {
	compacted := &Error{Place: "etcd", Reason: "compacted", Err: ErrCompacted}
	other := errors.New("other")
	for _, c := range []struct {
		name  string
		errs  []error
		reads int
		err   error
	}{
		{"it works", []error{nil}, 1, nil},
		{"compacted once", []error{compacted, nil}, 2, nil},
		{"compacted twice", []error{compacted}, 2, ErrCompacted},
		{"compacted, then another error", []error{compacted, other}, 2, other},
		{"another error", []error{other}, 1, other},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &reader{errs: c.errs}
			var counted int
			reading, err := ReadTwice(t.Context(), r, nil, func() func(KeyValue) error {
				counted = 0
				return func(KeyValue) error { counted++; return nil }
			})
			if !errors.Is(err, c.err) || r.reads != c.reads || counted != 1 {
				t.Errorf("%v after %d reads, %d keys; want %v after %d, 1 key", err, r.reads, counted, c.err, c.reads)
			}
			if (err == nil) != (reading.Keys == 1) {
				t.Errorf("%+v with %v", reading, err)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := &reader{errs: []error{compacted}}
		_, err := ReadTwice(ctx, r, nil, func() func(KeyValue) error { return func(KeyValue) error { cancel(); return nil } })
		if !errors.Is(err, ErrCompacted) || r.reads != 1 {
			t.Errorf("%v after %d reads", err, r.reads)
		}
	})
}

func TestPrefixes(t *testing.T) {
	for _, c := range []struct{ prefixes, want []string }{
		{nil, nil},
		{[]string{"/registry"}, []string{"/registry/"}},
		{[]string{"registry/", "/registry"}, []string{"/registry/"}},
		{[]string{"kubernetes.io", "openshift.io"}, []string{"/kubernetes.io/", "/openshift.io/"}},
		{[]string{"/a/b", "/a", "/a-b", "/a/c/d", "/b//c/"}, []string{"/a-b/", "/a/", "/b/c/"}},
		{[]string{"/a", "/"}, []string{"/"}},
		{[]string{""}, []string{"/"}},
	} {
		if diff := cmp.Diff(c.want, NewPrefixes(c.prefixes).below); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.prefixes, diff)
		}
	}
}

// FuzzPrefixes: ranges and gaps share no key and leave none out, and a key is in a
// range when it is contained.
func FuzzPrefixes(f *testing.F) {
	f.Add("/registry /registry2", "/registry/a")
	f.Add("/", "compact_rev_key")
	f.Add("/a/b /a", "/a0")
	f.Add("a\xff", "/a\xff/\x00")
	f.Fuzz(func(t *testing.T, prefixes, key string) {
		if key == "" {
			return // etcd has no such key
		}
		p := NewPrefixes(strings.Split(prefixes, " "))
		in := func(all []Range) (n int) {
			for _, r := range all {
				if key >= r.Start && (key < r.End || r.End == "\x00") {
					n++
				}
			}
			return n
		}
		want := 0
		if p.Contains([]byte(key)) {
			want = 1
		}
		if ranges, gaps := in(p.Ranges()), in(p.Gaps()); ranges != want || gaps != 1-want {
			t.Errorf("%q is contained: %d; it is in %d of %q, and in %d of %q", key, want, ranges, p.Ranges(), gaps, p.Gaps())
		}
	})
}

// TestOthersJump: whoever goes through keys in their order and jumps misses no prefix.
func TestOthersJump(t *testing.T) {
	keys := []string{"/a", "/a-b/x", "/a/x", "/a/y", "/a0", "b/x", "b/y", "compact_rev_key", "compact_rev_key2", "z"}
	var o Others
	asked, next := 0, ""
	for _, key := range keys {
		if key < next {
			continue
		}
		asked++
		at, more := o.Add([]byte(key))
		if !more || at <= key {
			t.Fatalf("after %q: %q, %t", key, at, more)
		}
		next = at
	}
	want := []string{"/a", "/a-b", "/a0", "b", "compact_rev_key2", "z"}
	if diff := cmp.Diff(want, o.Unread()); diff != "" || asked != 8 {
		t.Errorf("asked %d times (-want +got):\n%s", asked, diff)
	}
}

// TestErrorsSayWhatToDoNext: place, reason, next step, and the cause for programs.
func TestErrorsSayWhatToDoNext(t *testing.T) {
	err := fmt.Errorf("audit: %w", &Error{Place: "db", Reason: "it is empty", Next: "Copy it again", Err: ErrCompacted})
	if err.Error() != "audit: db: it is empty. Copy it again" || !errors.Is(err, ErrCompacted) {
		t.Errorf("%v", err)
	}
	if err := (&Error{Place: "db", Reason: "it is empty"}); err.Error() != "db: it is empty" {
		t.Errorf("%v", err)
	}
}
