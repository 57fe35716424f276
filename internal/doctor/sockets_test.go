package doctor_test

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestDirectoryThatTheUserMayNotWriteToIsNamed(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.must(nil, os.Chmod(n.dir, 0o555))
	o := n.options
	o.Config, _ = n.config()
	var r *doctor.Report
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with what it was made
		const nobody = 65534
		_, _ = unix.SetfsuidRetUid(nobody) // of root; anybody else is not let in either way
		r, err = doctor.Examine(t.Context(), o)
	}()
	<-done
	n.must(nil, err)
	if codes, said := findings(r); !slices.Equal(codes, []string{"KMS0707"}) || !strings.Contains(said, "may not write to "+n.dir) {
		t.Errorf("finds %q:\n%s", codes, text(t, r))
	}
}
