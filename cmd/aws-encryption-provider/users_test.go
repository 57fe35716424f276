package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// Who asks, and the group of the socket: neither is anybody's on this machine.
const (
	someUser  = 64123
	someGroup = 64124
)

// forEveryone copies the test binary to where every user may run it.
func forEveryone(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	dir := directory(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "aws-encryption-provider")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if closeErr := to.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
	return path
}

// Another user is told what keeps it from the socket and who gets in, with the group
// of the socket and without it.
func TestStatusAsAnotherUser(t *testing.T) {
	daemontest.NeedsRoot(t)
	s := kmstest.Start(t)
	arn, exe := key(t, s), forEveryone(t)
	me := fmt.Sprintf("user %d", someUser)
	type asking struct {
		name   string
		groups string // "": none
		want   int
		says   []string // {dir} and {socket} are filled in
	}
	for _, c := range []struct {
		name string
		dir  os.FileMode
		args []string
		who  []asking
	}{
		{"the socket is for its group", 0o755, []string{"--socket-mode=0660", fmt.Sprintf("--socket-group=%d", someGroup)}, []asking{
			{"without the group", "", 3, []string{
				fmt.Sprintf("problem       KMS0802: this user may not reach the socket (%s may not write to {socket}, mode 0660, user 0, group %d)\n", me, someGroup),
				fmt.Sprintf("do: ask as root, or as a user in group %d; --socket-mode and --socket-group of the program let others in\n", someGroup),
			}},
			{"in the group", fmt.Sprint(someGroup), 0, []string{"healthz       ok\n", "result        ok\n"}},
		}},
		{"the socket is for its user", 0o755, nil, []asking{
			{"in any group", fmt.Sprint(someGroup), 3, []string{"KMS0802", "mode 0600", "do: ask as root; --socket-mode"}},
		}},
		{"the directory is its user's", 0o700, []string{"--socket-mode=0660", fmt.Sprintf("--socket-group=%d", someGroup)}, []asking{
			{"in the group of the socket", fmt.Sprint(someGroup), 3, []string{
				fmt.Sprintf("KMS0802: this user may not reach the socket (%s may not search the directory {dir}, mode 0700, user 0, group 0)\n", me),
				"do: ask as root; change no owner and no mode for it\n",
			}},
		}},
		{"the program lets root in", 0o755, []string{"--socket-mode=0666", "--allow-uid=0"}, []asking{
			{"as another user", "", 3, []string{"KMS0803: the process that serves the socket closes the connection at once (this is " + me + ")\n", "do: ask as a user that --allow-uid names"}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket := socketIn(t)
			dir := filepath.Dir(socket)
			if err := os.Chmod(dir, c.dir); err != nil {
				t.Fatal(err)
			}
			launch(t, s.Env(), append([]string{"--key=" + arn, "--listen=" + socket, "--health-port=127.0.0.1:0"}, c.args...)...)
			seal(t, socket, []byte("it serves"))
			for _, who := range c.who {
				args := []string{fmt.Sprintf("--reuid=%d", someUser), fmt.Sprintf("--regid=%d", someUser), "--clear-groups"}
				if who.groups != "" {
					args[2] = "--groups=" + who.groups
				}
				p := command(t, nil)
				p.cmd.Path, p.cmd.Err = exec.LookPath("setpriv")
				p.cmd.Args = append(append([]string{"setpriv"}, args...), exe, "status", "--listen="+socket)
				p.start()
				p.exits(who.want)
				for _, says := range who.says {
					if says = strings.NewReplacer("{dir}", dir, "{socket}", socket).Replace(says); !strings.Contains(p.out.String(), says) {
						t.Errorf("%s: want %q in:\n%s", who.name, says, p.out)
					}
				}
				if strings.Count(p.out.String(), "\nresult        ") != 1 {
					t.Errorf("%s: want one result:\n%s", who.name, p.out)
				}
			}
		})
	}
}
