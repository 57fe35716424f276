// Package cluster runs a Kubernetes control plane on this machine, as small as
// it can be and still be real: one kube-apiserver, one etcd, and the plugin
// between the API server and a KMS, all as processes of their own.
//
// It serves the end-to-end tests and the demo, so it knows nothing of testing:
// everything returns errors, and an error carries the end of the log of the
// process that it is about. Begin with [NewHost], which builds what is missing,
// then [Host.Etcd], [Host.Plugin] and [Host.APIServer]. Each of them embeds a
// [Program], which can be stopped, killed and started again at the same
// address with the same data.
//
// Nothing leaves the machine: all addresses are 127.0.0.1 and unix sockets.
package cluster
