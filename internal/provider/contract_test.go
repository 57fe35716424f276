package provider_test

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmskey/kmscontract"
)

// The fake that stands in for KMS here keeps to what the real one does.
func TestFakeKeepsTheContractOfKMS(t *testing.T) {
	t.Parallel()
	kmscontract.Test(t, func(*testing.T) kmscontract.Subject {
		return kmscontract.Subject{KMS: newFake(), Key: keyA, OtherKey: keyB}
	})
}
