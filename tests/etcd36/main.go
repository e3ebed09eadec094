// etcd 3.6, built from its own module: what `cargo xtask bench fanout` compares with where the system's etcd is older.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
