package unixsocket

import (
	"net"
	"path/filepath"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestNameOfTheProcessItselfIsGoodForOneConnection(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testkit.Directory(t), "s")
	s := mustClaim(t, path)
	i := NewItself(dialUnix)
	conn, err := i.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := s.Current().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	name := accepted.RemoteAddr().String()
	if l, err := net.Listen("unix", name); err == nil {
		_ = l.Close()
		t.Error("somebody else can bind the name of an open connection")
	}
	if !i.Is(accepted) || i.Is(accepted) {
		t.Error("the name is not recognised, or more than once")
	}
	_ = conn.Close()
	later, err := i.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unused := later.LocalAddr().String()
	_ = later.Close()
	if i.forget(unused) || len(i.names) > 0 {
		t.Error("the name of a closed connection is still known")
	}
	if _, err := i.Dial(t.Context(), path+"-none"); err == nil || len(i.names) > 0 {
		t.Errorf("a dial that fails: %v, and %d names are known; want an error and none", err, len(i.names))
	}
}
