package cluster

import (
	"fmt"
	"strings"
	"time"
)

// A Provider is one KMS entry of an EncryptionConfiguration.
type Provider struct {
	Name    string
	Version string // "v1", the API's default, or "v2"
	Socket  string
	Timeout time.Duration // of a call, whole seconds; 0: the guide's 3
}

// Encryption is an EncryptionConfiguration for secrets, in the words of the
// guide: the first provider writes, all read.
func Encryption(providers ...Provider) string {
	var b strings.Builder
	b.WriteString(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
    - secrets
    providers:
`)
	for _, p := range providers {
		b.WriteString("    - kms:\n")
		if p.Version == "v2" {
			b.WriteString("        apiVersion: v2\n")
		}
		fmt.Fprintf(&b, "        name: %s\n        endpoint: unix://%s\n", p.Name, p.Socket)
		if p.Version == "v1" {
			b.WriteString("        cachesize: 1000\n")
		}
		timeout := p.Timeout
		if timeout == 0 {
			timeout = 3 * time.Second
		}
		fmt.Fprintf(&b, "        timeout: %ds\n", timeout/time.Second)
	}
	b.WriteString("    - identity: {}\n")
	return b.String()
}
