// Package connect makes the connection to KMS that a configured key asks for. The
// daemon serves over it, and doctor and the operator's tool ask over the same.
package connect

import (
	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// Options are how a provider's key is called, as its configuration says. What is of
// the process (connections, log, metrics) is its caller's to add.
func Options(p config.Provider, k config.Key) awskms.Options {
	return awskms.Options{
		Region: k.Region, Endpoint: k.Endpoint, AssumeRoleARN: k.AssumeRoleARN, ExternalID: k.ExternalID,
		SourceARN: k.SourceARN, EncryptionContext: k.EncryptionContext, Retry: awskms.RetryBudget(p.Retry),
	}
}
