module sigs.k8s.io/aws-encryption-provider/test/loaders

go 1.26.0

require (
	go.yaml.in/yaml/v3 v3.0.6
	sigs.k8s.io/aws-encryption-provider v0.0.0-00010101000000-000000000000
)

require go.yaml.in/yaml/v2 v2.4.4 // indirect

replace sigs.k8s.io/aws-encryption-provider => ../..
