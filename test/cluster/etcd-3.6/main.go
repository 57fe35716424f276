// Command etcd is the server of etcd's 3.6, which many clusters still run: it has
// no RangeStream, so what reads it has to ask for pages.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
