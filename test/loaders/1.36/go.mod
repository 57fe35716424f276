module sigs.k8s.io/aws-encryption-provider/test/loaders/1.36

go 1.26.0

godebug default=go1.26

require (
	k8s.io/apiserver v0.36.3
	k8s.io/kms v0.36.3
)
