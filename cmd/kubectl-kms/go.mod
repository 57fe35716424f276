module sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms

go 1.26.0

require sigs.k8s.io/aws-encryption-provider v0.0.0-00010101000000-000000000000

replace sigs.k8s.io/aws-encryption-provider => ../..
