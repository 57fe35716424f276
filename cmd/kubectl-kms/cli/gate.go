package cli

import "sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"

func (m *migration) newGate() (rewrite.Gate, error) { return nil, nil }
