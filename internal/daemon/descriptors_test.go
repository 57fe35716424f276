package daemon

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestFewDescriptorsAreWarnedOfWithWhatTheySufficeFor(t *testing.T) {
	t.Parallel()
	for limit, want := range map[uint64]string{
		64:      `"limit":64,"enough":1024,"most_at_sockets":512,"most_at_kms":256,"most_at_health_port":128,"of_its_own":32,"left_for_sockets_and_kms":0`,
		1023:    `"limit":1023,"enough":1024,"most_at_sockets":512,"most_at_kms":256,"most_at_health_port":128,"of_its_own":32,"left_for_sockets_and_kms":863`,
		1024:    "",
		1 << 63: "",
	} {
		book := &testkit.LogBook{}
		warnOfFewDescriptors(limit, 2, book.Logger())
		if got := book.String(); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%d descriptors: %s\nwant %s", limit, got, want)
		}
	}
}

// The start looks at the process's own limit: with a low one it is told.
func TestStartWarnsOfFewDescriptors(t *testing.T) {
	p := testkit.Another(t, role{Do: "few descriptors"}, os.Getuid())
	p.Expect("", "warned")
}
