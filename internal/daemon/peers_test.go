package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

// stranger is a uid other than this process's where that can be had.
func stranger() int {
	if os.Getuid() == 0 {
		return 65534
	}
	return os.Getuid()
}

func rejected(reason string) string {
	return fmt.Sprintf("aws_encryption_provider_connections_rejected_total{provider=%q,reason=%q}", "0", reason)
}

func TestAllowUIDDecidesByTheCallersUser(t *testing.T) {
	for name, listen := range map[string]string{"file": "", "abstract": "@aep-uid-" + strconv.Itoa(os.Getpid())} {
		for _, allowed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %t", name, allowed), func(t *testing.T) {
				t.Parallel()
				uid := stranger()
				if !allowed {
					uid++
				}
				own := listen
				if own != "" {
					own += strconv.FormatBool(allowed)
				}
				r := run(t, setup{listen: own, args: []string{"--allow-uid=1", "--allow-uid=" + strconv.Itoa(uid), "--socket-mode=0666"}}).serving()
				p := testkit.Another(t, role{Do: "connect", Path: r.path}, stranger())
				p.Ask("open")
				said := p.Line()
				if in := said == "in"; in != allowed {
					t.Errorf("uid %d, with %d allowed: %q, want let in: %t", stranger(), uid, said, allowed)
				}
				if err := r.itself(); err != nil {
					t.Errorf("the process itself: %v, want it let in", err)
				}
				want := ""
				if !allowed {
					want = "1"
					line := fmt.Sprintf(`"peer_uid":%d,"peer_pid":%d`, stranger(), p.PID())
					if !r.log.Has(line) || !r.log.Has("--allow-uid") {
						t.Errorf("the log does not say who was refused and why; want %s:\n%s", line, r.log)
					}
				}
				if got := r.metric(rejected("uid")); got != want {
					t.Errorf("%s is %q, want %q", rejected("uid"), got, want)
				}
			})
		}
	}
}

func TestWithoutAllowUIDTheFileDecides(t *testing.T) {
	t.Parallel()
	r := run(t, setup{args: []string{"--socket-mode=0666"}}).serving()
	testkit.Another(t, role{Do: "connect", Path: r.path}, stranger()).Expect("open", "in")
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	r := run(t, setup{}).ready()
	p := testkit.Another(t, role{Do: "connect", Path: r.path}, os.Getuid())
	for range 256 {
		p.Expect("open", "in")
	}
	for range 2 {
		p.Ask("open")
		if said := p.Line(); !strings.HasPrefix(said, "error: ") {
			t.Fatalf("connection %d: %q, want it closed", unixsocket.MaxConnections+1, said)
		}
	}
	if got := r.metric(rejected("limit")); got != "2" {
		t.Errorf("%s is %q, want 2", rejected("limit"), got)
	}
	if n := strings.Count(r.log.String(), "too many are open"); n != 1 {
		t.Errorf("two refusals are logged in %d lines, want one a minute:\n%s", n, r.log)
	}
	if err := r.itself(); err != nil {
		t.Errorf("the process itself: %v, want it let in", err)
	}
	if err := os.Remove(r.path); err != nil { // a new listener knows of the old one's connections
		t.Fatal(err)
	}
	testkit.Until(t, "the socket is back", func() bool { return r.itself() == nil && r.exists() })
	p.Ask("open")
	if said := p.Line(); !strings.HasPrefix(said, "error: ") {
		t.Errorf("connection %d to the socket that was put back: %q, want it closed", unixsocket.MaxConnections+1, said)
	}
	p.Expect("close", "closed")
	testkit.Until(t, "one that is closed makes room", func() bool { p.Ask("open"); return p.Line() == "in" })
	p.Ask("open")
	if said := p.Line(); !strings.HasPrefix(said, "error: ") {
		t.Errorf("a second one after one was closed: %q, want it closed", said)
	}
	p.Kill()
	testkit.Until(t, "a caller that died makes room", func() bool { return r.current.Load().providers[0].at.conns.Count() == 0 })
}

func TestConnectionsAreBoundedOfEachSocketAlone(t *testing.T) {
	t.Parallel()
	other := filepath.Join(testkit.Directory(t), "s")
	r := run(t, setup{args: []string{"--key=alias/other", "--listen=" + other}}).serving()
	p := testkit.Another(t, role{Do: "connect", Path: r.path}, os.Getuid())
	for range unixsocket.MaxConnections {
		p.Expect("open", "in")
	}
	testkit.Another(t, role{Do: "connect", Path: other}, os.Getuid()).Expect("open", "in")
}

// The pid of another process can be this one's: in another pid namespace, or after
// it was used again. It lets nobody in.
func TestPidLetsNobodyIn(t *testing.T) {
	t.Parallel()
	r := run(t, setup{args: []string{"--allow-uid=" + strconv.Itoa(os.Getuid()+1)}}).serving()
	conn, err := greeted(r.path) // of this pid and an uid that is not allowed
	if err == nil {
		_ = conn.Close()
		t.Error("a connection of this process's pid is let in")
	}
	if err := r.itself(); err != nil {
		t.Errorf("the process itself: %v, want it let in", err)
	}
}
