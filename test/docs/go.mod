module sigs.k8s.io/aws-encryption-provider/test/docs

go 1.26.0
