package doctor_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
)

// asDoctor has the flags, one a line, with which the test binary examines this node
// and prints the report, as whatever user it runs.
const asDoctor = "AEP_TEST_EXAMINE"

// asUserOfDoctor has the user as whom that examination asks sockets; "": none.
const asUserOfDoctor = "AEP_TEST_AS_UID"

func TestMain(m *testing.M) {
	if args := os.Getenv(asDoctor); args != "" {
		if err := examineAsIs(strings.Split(args, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func examineAsIs(args []string) error {
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(args, func(string) (string, bool) { return "", false })
	if err != nil {
		return err
	}
	o := doctor.Options{Config: cfg, Calls: 2}
	if uid, err := strconv.ParseUint(os.Getenv(asUserOfDoctor), 10, 32); err == nil {
		o.As = &doctor.User{UID: uint32(uid)}
	}
	r, err := doctor.Examine(context.Background(), o)
	if err != nil {
		return err
	}
	return r.Print(os.Stdout, doctor.PrintOptions{Form: "json"})
}
