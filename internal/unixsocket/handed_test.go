package unixsocket

import (
	"os"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestHandedOverSocketIsThereForALaterConfiguration(t *testing.T) {
	path := testkit.Directory(t) + "/s"
	file := testkit.HandOver(t, path, 0o600)
	h := NewHanded([]*os.File{file}, (&testkit.LogBook{}).Logger())
	defer h.Close()
	for range 2 { // taken out of the configuration, and put in again
		l, err := h.take(path)
		if err != nil || l == nil {
			t.Fatalf("take: %v, %v", l, err)
		}
		if _, err := h.take(path); err == nil {
			t.Error("one socket was taken twice")
		}
		_ = l.Close()
		h.giveBack(path)
	}
	if got := h.Unused(); len(got) != 1 || got[0] != path {
		t.Errorf("unused is %q", got)
	}
}
