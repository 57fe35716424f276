// Command version prints the version that Go gives a build of this checkout, as it gives
// it the daemon: a tag such as v1.2.3, or what lies behind one. It prints nothing where
// no repository says one. hack/version.sh builds and runs it.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
)

func main() {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "(devel)" {
		return
	}
	if _, err := fmt.Fprintln(os.Stdout, info.Main.Version); err != nil {
		os.Exit(1)
	}
}
