package cluster

import (
	"testing"
	"time"
)

func TestProviderConfiguration(t *testing.T) {
	t.Parallel()
	got := ProviderConfiguration("http://127.0.0.1:5000",
		Keyring{Name: "aws", Socket: "/run/a.sock", Keys: []string{"arn:new", "arn:old"}, Grace: time.Hour, Epoch: 2},
		Keyring{Name: "other", Socket: "/run/b.sock", Keys: []string{"arn:aws:kms:eu-west-1:111122223333:key/third"}},
	)
	const want = `apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1
kind: ProviderConfiguration
kmsTimeout: 1m
outageGrace: 1h0m0s
providers:
- name: aws
  listen: /run/a.sock
  epoch: 2
  keys:
  - key: arn:new
    region: us-west-2
    endpoint: http://127.0.0.1:5000
  - key: arn:old
    region: us-west-2
    endpoint: http://127.0.0.1:5000
- name: other
  listen: /run/b.sock
  keys:
  - key: arn:aws:kms:eu-west-1:111122223333:key/third
    region: eu-west-1
    endpoint: http://127.0.0.1:5000
`
	if got != want {
		t.Errorf("ProviderConfiguration is\n%s\nwant\n%s", got, want)
	}
}
