package awskms

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// A request is one call of KMS, as something that can be left behind: nobody waits
// for it any longer, and it may still run.
type request[T any] struct {
	op, key string
	within  Call

	// prepare returns the call for one client of the SDK. It runs in the caller's
	// goroutine, and copies what the caller may change or clear after its return.
	// The call is prepared again, with another client, where AWS refused what the
	// first signed with.
	prepare func(*kms.Client) work[T]

	// late clears what came when nobody waited any longer; nil: nothing is secret.
	late func(T)
}

// work is a call of the SDK that owns what it uses.
type work[T any] func(context.Context) (T, error)

// send makes one call of the SDK, with its retries. It returns soon after the end of
// ctx, however the call ends.
func send[T any](ctx context.Context, c *Client, api *kms.Client, r request[T]) (T, error) {
	do := r.prepare(api)
	late := r.late
	if late == nil {
		late = func(T) {}
	}
	return bounded.DoOn(ctx, c.opts.Connections.Workers(), c.opts.Waits, bounded.Call, func(ctx context.Context) (out T, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = c.panicked(p)
			}
		}()
		out, err = do(ctx)
		return out, transport.Repeating(ctx, err)
	}, late)
}

// errPanicked is a call in which the SDK, or this package, has a bug.
var errPanicked = fmt.Errorf("panic in a call of KMS")

// panicked makes a panic an error of its call: an API server depends on the process.
// The stack is known only where the call runs.
func (c *Client) panicked(p any) error {
	c.panics.Do(func() {
		if c.opts.Log != nil {
			c.opts.Log.Error("panic in a call of KMS", "panic", cause.Quote(fmt.Sprint(p)), "stack", string(debug.Stack()))
		}
	})
	return errPanicked
}
