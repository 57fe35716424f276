// Package store says what a place is that holds what API servers have stored: a
// living etcd, or a file that was copied from one. Package etcd and package
// snapshot are the two readers of it, and both pass the contract of package
// storetest.
package store

import "context"

// A Reader reads what API servers have stored.
//
// Read calls each for every key that begins with one of the prefixes, as of one
// revision, in no order, and for older revisions of such keys where the place still
// has them. It returns what it read only when it read all of that: an error of each,
// the end of ctx, a compaction or a file that is not whole ends it with an error and
// a Reading that counts for nothing. Prefixes are whole segments: /registry is not
// the beginning of /registry2/a. Only one Read runs at a time.
type Reader interface {
	Read(ctx context.Context, prefixes []string, each func(KeyValue) error) (Reading, error)
}

// A KeyValue is a key of etcd and what is stored under it. Its slices are the
// reader's: they are valid until each returns and must not be changed.
type KeyValue struct {
	Key   []byte
	Value []byte

	// ModRevision is the revision that wrote the value. kube-apiserver calls it the
	// object's resourceVersion.
	ModRevision int64

	// Older is true for a value that another has replaced, or whose key was deleted. It
	// is there until etcd compacts.
	Older bool
}

// A Reading is what a Reader read, and what it did not.
type Reading struct {
	// Place is where it was read, as a verdict names it: etcd's addresses, or the
	// file's name.
	Place string

	// Revision is the one that all of it is true of.
	Revision int64

	// Keys counts the keys that are there, older revisions not included.
	Keys int64

	// OlderRead is true where older revisions were read too.
	OlderRead bool

	// Caveats say, each in a sentence, what is not certain of this reading, such as a
	// file without a digest. A verdict repeats them.
	Caveats []string

	// Unread are the other prefixes that the place has keys under: each the first
	// segment of a path, such as "/openshift.io".
	Unread []string
}
