// Command etcd is etcd's server, built from the module that etcd publishes, so
// that the end-to-end tests need nothing but the Go module proxy.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
