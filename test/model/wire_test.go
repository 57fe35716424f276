package model_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey/kmscontract"
	"sigs.k8s.io/aws-encryption-provider/test/model"
)

// On the wire as well, the KMS of the model keeps to what the real one does: the client
// that is used finds no difference.
func TestKMSOnTheWireKeepsTheContract(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "of-the-model", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	server := httptest.NewServer(model.NewKMS())
	t.Cleanup(server.Close)
	kmscontract.Test(t, func(t *testing.T) kmscontract.Subject {
		t.Helper()
		conns := awskms.NewConnections()
		t.Cleanup(conns.Close)
		c := awskms.New(awskms.Options{Connections: conns, Timeout: time.Minute, Endpoint: model.Endpoint(server.URL, "a"), Region: "us-west-2"})
		t.Cleanup(c.Close)
		return kmscontract.Subject{KMS: c, Key: model.KeyA, OtherKey: model.KeyB}
	})
}
