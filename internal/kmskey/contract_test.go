package kmskey_test

import (
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey/kmscontract"
)

// The client that is used keeps the contract, over a KMS that is as strict as the real
// one.
func TestClientKeepsTheContractOfKMS(t *testing.T) { //nolint:paralleltest // it sets the environment
	s := kmstest.Start(t)
	s.SetEnv(t)
	kmscontract.Test(t, func(t *testing.T) kmscontract.Subject {
		t.Helper()
		var arns [2]string
		for i := range arns {
			arn, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
			if err != nil {
				t.Fatal(err)
			}
			arns[i] = arn
		}
		conns := awskms.NewConnections()
		t.Cleanup(conns.Close)
		c := awskms.New(awskms.Options{Connections: conns, Timeout: time.Minute, Endpoint: s.URL, Region: kmstest.Region})
		t.Cleanup(c.Close)
		return kmscontract.Subject{KMS: c, Key: arns[0], OtherKey: arns[1]}
	})
}
