package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
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
	roottest.Needs(t, "it acts as another user")
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

// Doctor as the API server's user says what it may not look at, and blames nobody; root
// asks as that user, with its groups and without them, and is told what is missing.
func TestDoctorAsTheAPIServersUser(t *testing.T) {
	roottest.Needs(t, "it acts as another user")
	s := kmstest.Start(t)
	arn, exe := key(t, s), forEveryone(t)
	socket := socketIn(t)
	dir := filepath.Dir(socket)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--key=" + arn, "--listen=" + socket, "--health-port=127.0.0.1:0", "--socket-mode=0660", fmt.Sprintf("--socket-group=%d", someGroup)}
	launch(t, s.Env(), flags...)
	seal(t, socket, []byte("it serves"))
	as := func(groups string) []string {
		return []string{"setpriv", fmt.Sprintf("--reuid=%d", someUser), fmt.Sprintf("--regid=%d", someUser), groups, exe}
	}
	uid := fmt.Sprintf("--as-uid=%d", someUser)
	for _, c := range []struct {
		name string
		who  []string // nil: root
		args []string
		want int
		says []string
	}{
		{"without the group", as("--clear-groups"), nil, 0, []string{"‼ " + socket + " may not be asked\n", "KMS0730", "do: run doctor as root"}},
		{"in the group", as(fmt.Sprintf("--groups=%d", someGroup)), nil, 0, []string{"√ " + socket + " is well: " + arn}},
		{"another user's place, without root", as("--clear-groups"), []string{"--as-uid=1"}, 3, []string{"× " + socket + " cannot be asked as uid 1\n", "do: run doctor as root"}},
		{"root, without the group", nil, []string{uid, fmt.Sprintf("--as-gid=%d", someUser)}, 3, []string{
			fmt.Sprintf("× uid %d cannot write to %s (mode 0660, user 0, group %d)\n", someUser, socket, someGroup), "KMS0733",
		}},
		{"root, in the group", nil, []string{uid, fmt.Sprintf("--as-gid=%d,%d", someUser, someGroup)}, 0, []string{fmt.Sprintf("√ %s answers uid %d, groups %[2]d, %d\n", socket, someUser, someGroup)}},
	} {
		p := command(t, s.Env())
		args := append([]string{"doctor"}, append(flags, c.args...)...)
		if c.who != nil {
			p.cmd.Path, p.cmd.Err = exec.LookPath(c.who[0])
			args = append(c.who, args...)
			p.cmd.Args = args
		} else {
			p.cmd.Args = append(p.cmd.Args[:1], args...)
		}
		p.start()
		p.exits(c.want)
		for _, says := range c.says {
			if !strings.Contains(p.out.String(), says) {
				t.Errorf("%s: want %q in:\n%s", c.name, says, p.out)
			}
		}
	}
}
