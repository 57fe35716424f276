package settings

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
)

// credentialsJSON is what a credential_process prints, with the secret that no
// text may show.
const credentialsJSON = `{"Version":1,"AccessKeyId":"AKID","SecretAccessKey":"leak-me","SessionToken":"leak-me-too"}`

func TestWordsAreThoseOfAShell(t *testing.T) {
	t.Parallel()
	for command, want := range map[string][]string{
		"/opt/creds":                        {"/opt/creds"},
		"  /opt/creds\t--profile  a ":       {"/opt/creds", "--profile", "a"},
		`/opt/creds 'a b' "c d" e\ f`:       {"/opt/creds", "a b", "c d", "e f"},
		`"/opt/my creds" x''y "" ''`:        {"/opt/my creds", "xy", "", ""},
		`/opt/creds 'a$b|c;d&e<f>g*h~' "'"`: {"/opt/creds", "a$b|c;d&e<f>g*h~", "'"},
		`/opt/creds "a\"b\\c\d" 'it'\''s'`:  {"/opt/creds", `a"b\c\d`, "it's"},
		`/opt/creds \$HOME \~ \* a#b @:%+,`: {"/opt/creds", "$HOME", "~", "*", "a#b", "@:%+,"},
		"/opt/creds --key=value":            {"/opt/creds", "--key=value"},
		"/opt/crèds ü":                      {"/opt/crèds", "ü"},
	} {
		argv, plain, err := words(command)
		if err != nil || !plain || !slices.Equal(argv, want) {
			t.Errorf("words(%s) = %q, %v, %v; want %q without a shell", command, argv, plain, err, want)
		}
	}
	for _, command := range []string{
		"/opt/creds $HOME", `/opt/creds "$HOME"`, "/opt/creds `id`", "/opt/creds \"`id`\"", "a | b", "a; b", "a && b", "a < b", "a > b", "a *", "~/creds",
		"a ?", "a [b]", "(a)", "{ a; }", "a {b,c}", "a # b", "A=b c", "exec a", ". a", "cd a", "if a", "! a", "a\nb", "a \\\n b", "\"a\\\nb\"",
	} {
		if argv, plain, err := words(command); err != nil || plain {
			t.Errorf("words(%q) = %q, %v, %v; want that it needs a shell", command, argv, plain, err)
		}
	}
	for _, command := range []string{"a 'b", `a "b`, `a \`, `a "b\"`, "", "   "} {
		if argv, plain, err := words(command); err == nil {
			t.Errorf("words(%q) = %q, %v; want an error", command, argv, plain)
		}
	}
}

// script writes an executable file, and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// retrieveFrom runs a command as credential_process.
func retrieveFrom(t *testing.T, ctx context.Context, command string) (string, error) { //nolint:revive // the test comes first
	t.Helper()
	conns := transport.New()
	t.Cleanup(conns.Close)
	value, err := (&processProvider{command: command, conns: conns, timing: Timing{}.orUsual()}).Retrieve(ctx)
	if err != nil && strings.Contains(err.Error(), "leak-me") {
		t.Errorf("shows what was printed: %v", err)
	}
	return value.AccessKeyID, err
}

func TestCredentialProcessSaysWhatWentWrong(t *testing.T) {
	json := "printf '%s' '" + credentialsJSON + "'\n"
	for name, c := range map[string]struct {
		command string
		noShell bool
		want    string // of the error; "": it works
	}{
		"program":                       {command: script(t, "#!/bin/sh\n"+json)},
		"program with words":            {command: script(t, "#!/bin/sh\n[ \"$1\" = 'a b' ] || exit 9\n"+json) + " 'a b'"},
		"program, where there is no sh": {command: script(t, "#!/bin/sh\n"+json), noShell: true},
		"script without #!":             {command: script(t, json)},
		"shell":                         {command: "X=1; " + json},
		"shell, where there is none":    {command: "X=1; " + json, noShell: true, want: "credential_process needs a shell: sh was not found"},
		"program that is not there":     {command: "/no/such/program --key leak-me", want: `credential_process names the program "/no/such/program", which was not found`},
		"name that is not in PATH":      {command: "nosuchprogram", want: `names the program "nosuchprogram", which was not found`},
		"interpreter that is not there": {command: script(t, "#!/no/such/interpreter\n"), want: "interpreter"},
		"not executable":                {command: "/etc/passwd", want: `names the program "/etc/passwd", which this process's user may not run`},
		"exit":                          {command: script(t, "#!/bin/sh\n"+json+"echo leak-me >&2; exit 3\n"), want: "exited with 3"},
		"exit in a shell":               {command: "nosuchprogram; exit $?", want: "exited with 127: a program that it names was not found"},
		"signal":                        {command: script(t, "#!/bin/sh\nkill -TERM $$\n"), want: "signal terminated"},
		"quotation mark":                {command: "/bin/echo 'a", want: "quotation mark"},
		"nothing":                       {command: "/bin/true", want: "printed nothing"},
		"no JSON":                       {command: "/bin/echo leak-me", want: "something else than the JSON"},
		"two documents":                 {command: "/bin/echo '" + credentialsJSON + credentialsJSON + "'", want: "something else than the JSON"},
		"version":                       {command: "/bin/echo '{\"Version\":2,\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"leak-me\"}'", want: "Version is not 1"},
		"no key":                        {command: "/bin/echo '{\"Version\":1,\"SecretAccessKey\":\"leak-me\"}'", want: "without AccessKeyId"},
		"no secret":                     {command: "/bin/echo '{\"Version\":1,\"AccessKeyId\":\"leak-me\"}'", want: "without SecretAccessKey"},
		"no time":                       {command: "/bin/echo '{\"Version\":1,\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"b\",\"Expiration\":\"leak-me\"}'", want: "something else than the JSON"},
		"too much":                      {command: "/usr/bin/yes leak-me", want: "printed more than 65536 bytes"},
		"trace of a shell":              {command: "set -x; " + json},
	} {
		t.Run(name, func(t *testing.T) {
			if c.noShell {
				t.Setenv("PATH", t.TempDir())
			}
			key, err := retrieveFrom(t, t.Context(), c.command)
			switch {
			case c.want == "" && (err != nil || key != "AKID"):
				t.Errorf("got %q, %v", key, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A script under "set -x" writes the secret key to standard error.
func TestCredentialProcessHasNoStandardInputAndNoStandardError(t *testing.T) {
	t.Parallel()
	for fd, want := range map[string]string{"0": "/dev/null", "2": "/dev/null"} {
		command := script(t, "#!/bin/sh\nprintf '{\"Version\":1,\"AccessKeyId\":\"%s\",\"SecretAccessKey\":\"x\"}' \"$(readlink /proc/$$/fd/"+fd+")\"\n")
		if got, err := retrieveFrom(t, t.Context(), command); err != nil || got != want {
			t.Errorf("file descriptor %s is %q (%v), want %s", fd, got, err, want)
		}
	}
}

// gone waits until the process that wrote its id to a file has ended.
func gone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) {
			return
		}
	}
	t.Errorf("process %d goes on", pid)
}

// zombie reports whether a process has ended, and its parent has not looked.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func waitForFile(t *testing.T, file string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil && strings.HasSuffix(string(text), "\n") {
			return
		}
	}
	t.Fatal("the process does not start")
}

// hanging is a command that starts another, which hangs with it and ignores what
// can be ignored, and the file that gets the other's process id.
func hanging(t *testing.T) (command, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "pid")
	return script(t, "#!/bin/sh\ntrap '' HUP INT TERM\nsleep 1000 &\necho $$ > "+file+".leader\necho $! > "+file+"\nwait\n"), file
}

func TestHangingCredentialProcessEndsWithItsCallerAndItsChildren(t *testing.T) {
	t.Parallel()
	command, file := hanging(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		waitForFile(t, file)
		cancel()
	}()
	if _, err := retrieveFrom(t, ctx, command); err == nil || !strings.Contains(err.Error(), "nobody waits for it") {
		t.Errorf("got %v, want that it was killed at once", err)
	}
	gone(t, file)
}

// The process has a group of its own, so that no signal to this one's reaches it.
func TestHangingCredentialProcessEndsWithTheConnections(t *testing.T) {
	t.Parallel()
	command, file := hanging(t)
	conns := transport.New()
	done := make(chan error, 1)
	go func() {
		_, err := (&processProvider{command: command, conns: conns, timing: Timing{}.orUsual()}).Retrieve(context.Background())
		done <- err
	}()
	waitForFile(t, file)
	conns.Close()
	leader, err := os.ReadFile(file + ".leader")
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(leader))); err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		t.Errorf("Close does not wait until process %d is gone: %v", pid, err)
	}
	if err := <-done; err == nil {
		t.Error("what was killed gave credentials")
	}
	gone(t, file)
}

func TestHangingCredentialProcessEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	command, file := hanging(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := runProcess(ctx, Timing{}.orUsual(), command)
	e, ok := errors.AsType[*ProcessError](err)
	if !ok || !e.Timeout() || !strings.Contains(e.Said, "did not end within 25s and was killed") {
		t.Errorf("got %v", err)
	}
	waitForFile(t, file)
	gone(t, file)
}

// What holds the pipe open is not waited for, and does not stay either.
func TestCredentialProcessThatLeavesAChildBehind(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	command := script(t, "#!/bin/sh\nsleep 1000 &\necho $! > "+file+"\nprintf '%s' '"+credentialsJSON+"'\n")
	began := time.Now()
	if key, err := retrieveFrom(t, t.Context(), command); err != nil || key != "AKID" {
		t.Errorf("got %q, %v", key, err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %v, want about a second", took)
	}
	gone(t, file)
}

// processVariable makes this test the process that is killed: it names the file for
// the id of what a credential_process runs.
const processVariable = "AWSKMS_TEST_PROCESS"

// A plugin that is killed leaves no credential_process behind that hangs. While it
// runs, threads of it may end.
func TestCredentialProcessEndsWithAKilledPlugin(t *testing.T) {
	if file := os.Getenv(processVariable); file != "" {
		runHanging(t, file)
		return
	}
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), processVariable+"="+file)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || line != "it runs\n" {
		t.Fatalf("said %q, %v; want that the credential_process outlives threads", line, err)
	}
	gone(t, file)
}

func runHanging(t *testing.T, file string) {
	t.Helper()
	go func() {
		_, _ = retrieveFrom(t, context.Background(), "echo $$ > "+file+".new; mv "+file+".new "+file+"; exec sleep 600")
	}()
	var text []byte
	for end := time.Now().Add(time.Minute); len(text) == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		text, _ = os.ReadFile(file)
	}
	var ending sync.WaitGroup
	for range 100 {
		ending.Go(runtime.LockOSThread) // ends the thread with the goroutine
	}
	ending.Wait()
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && syscall.Kill(pid, 0) == nil && !zombie(pid) {
		_, _ = os.Stdout.WriteString("it runs\n")
	}
	select {} // until it is killed
}
