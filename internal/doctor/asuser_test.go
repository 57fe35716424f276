package doctor_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
)

// The user and the groups of an API server. Neither is anybody's on this machine.
const (
	apiServer      = 64125
	apiServerGroup = 64126
	otherGroup     = 64127
)

// open lets everybody enter the node's directory.
func (n *node) open() { n.must(nil, os.Chmod(n.dir, 0o755)) }

func TestSocketsAreAskedAsTheAPIServersUser(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	inGroup := &doctor.User{UID: apiServer, Groups: []uint32{otherGroup, apiServerGroup}}
	alone := &doctor.User{UID: apiServer, Groups: []uint32{otherGroup}}
	forGroup := []string{"--socket-mode=0660", fmt.Sprintf("--socket-group=%d", apiServerGroup)}
	for name, c := range map[string]struct {
		as    *doctor.User
		flags []string
		plant func(n *node)
		codes []string
		says  []string // DIR and SOCKET are filled in
	}{
		"a directory of root's": {inGroup, forGroup, func(*node) {}, []string{"KMS0733"}, []string{
			"× uid 64125 cannot enter DIR (mode 0700, user 0, group 0)\n", "let others enter it, and not list it: chmod o+x DIR;", "DirectoryMode=0755 in a drop-in of aws-encryption-provider.socket keeps it so",
		}},
		"a directory for its group": {inGroup, forGroup, func(n *node) {
			n.must(nil, os.Chown(n.dir, 0, otherGroup))
		}, []string{"KMS0733"}, []string{"let its group enter it: chmod g+x DIR;"}},
		"a directory further up": {inGroup, forGroup, func(n *node) {
			n.open()
			n.must(nil, os.MkdirAll(filepath.Join(n.dir, "a", "b"), 0o755))
			n.must(nil, os.Chmod(filepath.Join(n.dir, "a"), 0o711))
			n.must(nil, os.Chmod(filepath.Join(n.dir, "a", "b"), 0o750))
			n.socket = filepath.Join(n.dir, "a", "b", "s")
		}, []string{"KMS0733"}, []string{"cannot enter DIR/a/b (mode 0750,"}},
		"every part that keeps it out is told": {alone, forGroup, func(*node) {}, []string{"KMS0733", "KMS0733"}, []string{"cannot enter DIR (", "cannot write to SOCKET ("}},
		"a directory behind a link": {inGroup, forGroup, func(n *node) {
			n.open()
			n.must(nil, os.Mkdir(filepath.Join(n.dir, "real"), 0o700))
			n.must(nil, os.Symlink("real", filepath.Join(n.dir, "link")))
			n.socket = filepath.Join(n.dir, "link", "s")
		}, []string{"KMS0733"}, []string{"cannot enter DIR/real (mode 0700,"}},
		"a socket of root's": {alone, nil, (*node).open, []string{"KMS0733"}, []string{
			"× uid 64125 cannot write to SOCKET (mode 0600, user 0, group 0)\n", "--socket-mode=0660 --socket-group=64127 (socket.mode, socket.group; SocketMode=0660 and SocketGroup=64127 in a drop-in",
		}},
		"a socket of its group that may not write": {inGroup, []string{"--socket-mode=0640", forGroup[1]}, (*node).open, []string{"KMS0733"}, []string{
			"let its group in, which uid 64125 is in: --socket-mode=0660",
		}},
		"a socket of another group":  {alone, forGroup, (*node).open, []string{"KMS0733"}, []string{"cannot write to SOCKET (mode 0660, user 0, group 64126)"}},
		"in the group of the socket": {inGroup, forGroup, (*node).open, nil, []string{"√ SOCKET answers uid 64125, groups 64127, 64126\n"}},
		"by its entry in passwd":     {&doctor.User{UID: 1}, []string{"--socket-mode=0660", "--socket-group=1"}, (*node).open, nil, []string{"√ SOCKET answers uid 1, groups 1"}},
		"without an entry in passwd": {&doctor.User{UID: apiServer}, []string{"--socket-mode=0666"}, (*node).open, nil, []string{
			"- no groups of uid 64125 are known: it has no entry in passwd; --as-gid gives those of its pod", "√ SOCKET answers uid 64125, groups none\n",
		}},
		"without an entry in passwd, and kept out": {&doctor.User{UID: apiServer}, forGroup, (*node).open, []string{"KMS0733"}, []string{"look again with --as-gid=GID"}},
		"named by the plugin":                      {alone, []string{"--socket-mode=0666", "--allow-uid=0,64125"}, (*node).open, nil, []string{"√ SOCKET answers uid 64125"}},
		"not named by the plugin": {alone, []string{"--socket-mode=0666", "--allow-uid=0"}, (*node).open, []string{"KMS0733"}, []string{
			"× SOCKET: this configuration does not let uid 64125 in\n", "name uid 64125 too, by --allow-uid=64125 or in socket.allowUIDs",
		}},
		"root": {&doctor.User{}, nil, func(*node) {}, nil, []string{"√ SOCKET answers uid 0, groups 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t))
			n.flags = c.flags
			c.plant(n)
			n.run()
			n.options.As = c.as
			n.finds(c.codes, c.says)
		})
	}
}

// finds fails where the doctor finds other codes, or does not say all of this.
func (n *node) finds(codes, says []string) {
	n.t.Helper()
	r := n.examine()
	fill := strings.NewReplacer("DIR", n.dir, "SOCKET", n.socket)
	if got, _ := findings(r); !slices.Equal(got, codes) {
		n.t.Errorf("finds %q, want %q:\n%s", got, codes, text(n.t, r))
	}
	for _, want := range says {
		if want = fill.Replace(want); !strings.Contains(text(n.t, r), want) {
			n.t.Errorf("want %q in:\n%s", want, text(n.t, r))
		}
	}
	instructionsSayWhereAndWhenNot(n.t, r)
	titlesSayWhatWasFound(n.t, r)
}

// What the running plugin does counts, whatever this configuration says.
func TestPluginThatTurnsTheAPIServersUserAwayIsNamed(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	n := newNode(t, kmstest.Start(t))
	n.open()
	n.flags = []string{"--socket-mode=0666", "--allow-uid=0"}
	n.run()
	n.flags = []string{"--socket-mode=0666"}
	n.options.As = &doctor.User{UID: apiServer, Groups: []uint32{apiServerGroup}}
	n.finds([]string{"KMS0733"}, []string{"× SOCKET: the running plugin does not let uid 64125 in\n"})
}

// Before the plugin's first start, what is there already is looked at.
func TestWayToASocketThatIsNotServedYet(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	n := newNode(t, kmstest.Start(t))
	n.options.As = &doctor.User{UID: apiServer, Groups: []uint32{apiServerGroup}}
	n.finds([]string{"KMS0733"}, []string{"uid 64125 cannot enter DIR (mode 0700"})
	n.open()
	n.finds(nil, []string{"- SOCKET: whether uid 64125 is answered is not tried, since nobody serves it; nothing that is there already keeps it out; the program makes it with mode 0600\n"})
	n.socket = filepath.Join(n.dir, "new", "s")
	n.flags = []string{"--socket-mode=0660", "--socket-group=1"}
	n.finds(nil, []string{"; the program makes it with mode 0660 and group 1, and DIR/new for its own user alone\n"})
}

// Somebody else cannot be tried by who is not root: that is no warning to pass over,
// since it was asked for.
func TestAskingAsAnotherUserNeedsRoot(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	n := newNode(t, kmstest.Start(t))
	n.open()
	n.flags = []string{"--socket-mode=0666"}
	n.run()
	for as, want := range map[uint32][]string{nobody: nil, apiServer: {"KMS0730"}} {
		n.t.Setenv(asUserOfDoctor, fmt.Sprint(as))
		printed, err := n.examineAs(nobody)
		var r doctor.Report
		if jsonErr := json.Unmarshal(printed, &r); err != nil || jsonErr != nil {
			t.Fatalf("%v, %v: %s", err, jsonErr, printed)
		}
		if codes, said := findings(&r); !slices.Equal(codes, want) || r.OK != (want == nil) || want != nil && !strings.Contains(said, "run doctor as root") {
			t.Errorf("as %d finds %q, want %q:\n%s", as, codes, want, text(t, &r))
		}
	}
}
