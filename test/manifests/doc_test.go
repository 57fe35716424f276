// Package manifests decodes what `generate` writes, and what deploy/manifests
// has, with the types of those who read it: kube-apiserver, the kubelet, kubeadm
// and Cluster API, strictly. kOps, kubespray, k3s and RKE2 have no types to
// import at a reasonable price: there a list of fields stands in, with its
// source.
//
// The files are the golden ones of internal/cli, which a test there holds equal
// to what the program writes.
package manifests_test
