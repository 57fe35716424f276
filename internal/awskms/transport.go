package awskms

import (
	"context"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
)

// Connections are the process's connections to KMS, shared by all Clients.
type Connections = transport.Connections

// MaxIdle is how many connections to a host of KMS are kept. More are open while
// more calls are under way.
const MaxIdle = transport.MaxIdle

// NewConnections returns no connections yet.
func NewConnections() *Connections { return transport.New() }

// A Contact is the way that a call took to KMS.
type Contact = transport.Contact

// Traced returns a context for one call, and what says afterwards which way that call
// took, whether it failed or not.
func Traced(ctx context.Context) (traced context.Context, way func() Contact) {
	return transport.Traced(ctx)
}
