// Command etcdctl is etcd's own client, built from the module that etcd
// publishes, so that the blocks of the docs run as they stand.
package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() { ctlv3.MustStart() }
