package cli

import (
	"fmt"
	"os"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// readEncryptionConfig reads a file for kube-apiserver. One that it would refuse is wrong
// usage, as a wrong flag is.
func readEncryptionConfig(file string) ([]byte, *encryptionconfig.Configuration, error) {
	data, err := os.ReadFile(file) //nolint:gosec // whoever runs this says which file
	if err != nil {
		return nil, nil, fmt.Errorf("reading the encryption configuration: %w", err)
	}
	config, err := encryptionconfig.Parse(data)
	if err != nil {
		return nil, nil, &usageError{mistakes: []string{report.Plain(file) + " is no encryption configuration that kube-apiserver takes: " + err.Error()}}
	}
	return data, config, nil
}
