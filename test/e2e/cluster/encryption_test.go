package cluster

import (
	"testing"
	"time"
)

// TestEncryption: the v1 form is the guide's, word for word.
func TestEncryption(t *testing.T) {
	t.Parallel()
	got := Encryption(
		Provider{Name: "aws-encryption-provider", Version: "v1", Socket: "/var/run/kmsplugin/socket.sock"},
		Provider{Name: "aws-encryption-provider-2", Version: "v2", Socket: "/var/run/kmsplugin/socket2.sock", Timeout: 35 * time.Second},
	)
	const want = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
    - secrets
    providers:
    - kms:
        name: aws-encryption-provider
        endpoint: unix:///var/run/kmsplugin/socket.sock
        cachesize: 1000
        timeout: 3s
    - kms:
        apiVersion: v2
        name: aws-encryption-provider-2
        endpoint: unix:///var/run/kmsplugin/socket2.sock
        timeout: 35s
    - identity: {}
`
	if got != want {
		t.Errorf("Encryption is\n%s\nwant\n%s", got, want)
	}
}
