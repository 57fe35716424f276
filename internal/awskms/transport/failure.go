package transport

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"strings"
)

// IsA reports whether an error, or one that it wraps, is of a type.
func IsA[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// IsTimeout reports whether time ran out, in whatever form that is told.
func IsTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrHung) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// Innermost is the text of the last error of the chain: the wrappers only say
// which operation of which service failed, which the cause says already.
func Innermost(err error) string {
	for {
		next := errors.Unwrap(err)
		if all, ok := err.(interface{ Unwrap() []error }); ok {
			next = all.Unwrap()[0] // the SDK adds that there are no tokens left for a retry
		}
		if next == nil {
			return err.Error()
		}
		if _, here := err.(*fs.PathError); here { //nolint:errorlint // the wrapper itself is wanted: it says which file
			return err.Error()
		}
		if _, ok := errors.AsType[*net.OpError](next); !ok {
			if _, here := err.(*net.OpError); here { //nolint:errorlint // the wrapper itself is wanted: it says which address
				return err.Error()
			}
		}
		err = next
	}
}

// Clipped copies what is kept of a foreign text: more is never shown, and a part
// of it would keep all of it in memory.
func Clipped(s string) string {
	const most = 1024
	return strings.Clone(s[:min(len(s), most)])
}
