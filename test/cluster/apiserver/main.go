// Command apiserver is kube-apiserver, built from the module that Kubernetes
// publishes, so that the end-to-end tests need nothing but the Go module proxy.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
