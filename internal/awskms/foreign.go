package awskms

import (
	"context"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// foreignKey is the name of a key that an answer gives. Nearly always it is the one
// that was asked for, or of KMS's own form, which has no place for anything else.
func foreignKey(ctx context.Context, asked, got string) keyref.ARN {
	if got == asked || isPlainKey(got) {
		return keyref.ARN(got)
	}
	return keyref.ARN(transport.SentBy(ctx).From(got))
}

func isPlainKey(arn string) bool {
	ref, err := keyref.Parse(arn)
	if err != nil || ref.Alias != "" {
		return false
	}
	_, err = keyref.Parse(ref.Key)
	return err == nil
}

// foreignID is the id of a request or of key material that an answer gives, and ""
// where it is a part of what was sent: it would be kept for years.
func foreignID(ctx context.Context, id string) string {
	if !isUUID(id) && transport.Repeats(ctx, id) {
		return ""
	}
	return id
}

// isUUID knows the form of KMS's request ids, whose dashes leave no place for a part
// of a secret.
func isUUID(id string) bool {
	const uuid = 36
	return len(id) == uuid && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-'
}
