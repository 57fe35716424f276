package store

import (
	"context"
	"errors"
)

// ErrCompacted is in the error of a Read that came too late: etcd has forgotten the
// revision that was being read. Another Read begins at a newer one.
var ErrCompacted = errors.New("etcd has compacted the revision that was being read")

// ReadTwice reads by r, and once more where etcd compacted the revision meanwhile.
// begin is called before each of the two and returns what Read calls: what an earlier
// each was given counts for nothing.
func ReadTwice(ctx context.Context, r Reader, prefixes []string, begin func() func(KeyValue) error) (Reading, error) {
	reading, err := r.Read(ctx, prefixes, begin())
	if errors.Is(err, ErrCompacted) && ctx.Err() == nil {
		reading, err = r.Read(ctx, prefixes, begin())
	}
	return reading, err
}
