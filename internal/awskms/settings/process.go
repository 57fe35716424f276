package settings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// maxProcessOutput is many times what credentials need.
const maxProcessOutput = 64 << 10

// A processProvider runs a credential_process. The SDK's own runner needs a shell, hands
// on this process's standard input and standard error, and kills neither the
// children of what it started nor anything that outlives its time.
//
// It has no standard input, and its standard error goes nowhere: a script under
// "set -x" writes the secret key there. What it prints is never told either.
type processProvider struct {
	command string // the value of credential_process; set before the first run
	conns   *transport.Connections
	waits   *bounded.Observer
	timing  Timing
}

// A ProcessError is a credential_process that gave no credentials. Its text holds
// nothing that the process printed.
type ProcessError struct {
	Said   string
	Silent bool // it did not end in time
}

func (e *ProcessError) Error() string { return "credential_process " + e.Said }

// Timeout says to whoever asks as [net.Error] does whether time ran out.
func (e *ProcessError) Timeout() bool { return e.Silent }

// Retrieve runs the process, until ctx or the Connections end.
func (p *processProvider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	var value aws.Credentials
	var err error
	done := make(chan struct{})
	p.conns.Background(p.timing.Process, func(running context.Context) { //nolint:contextcheck // it ends with ctx, and with the Connections
		defer close(done)
		running, cancel := context.WithCancel(running)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		value, err = p.retrieve(running)
	})
	<-done
	return value, err
}

// ProviderSources tells the SDK's user agent what the SDK's own runner would.
func (p *processProvider) ProviderSources() []aws.CredentialSource {
	return []aws.CredentialSource{aws.CredentialSourceProcess}
}

func (p *processProvider) retrieve(ctx context.Context) (aws.Credentials, error) {
	patient, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(p.timing.Kill, giveUp) })()
	out, err := bounded.Do(patient, p.waits, bounded.Settings, func(context.Context) ([]byte, error) { return runProcess(ctx, p.timing, p.command) })
	if _, ok := errors.AsType[*bounded.AbandonedError](err); ok {
		err = &ProcessError{Said: "cannot be killed", Silent: true}
	}
	if err != nil {
		return aws.Credentials{}, err
	}
	return parseProcess(out)
}

// parseProcess reads what a credential_process prints.
//
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
func parseProcess(out []byte) (aws.Credentials, error) {
	var r processcreds.CredentialProcessResponse
	said := ""
	switch err := json.Unmarshal(out, &r); {
	case len(bytes.TrimSpace(out)) == 0:
		said = "printed nothing"
	case err != nil:
		said = "printed something else than the JSON of credentials"
	case r.Version != 1:
		said = "printed JSON whose Version is not 1"
	case r.AccessKeyID == "":
		said = "printed JSON without AccessKeyId"
	case r.SecretAccessKey == "":
		said = "printed JSON without SecretAccessKey"
	}
	if said != "" {
		return aws.Credentials{}, &ProcessError{Said: said}
	}
	value := aws.Credentials{
		AccessKeyID: r.AccessKeyID, SecretAccessKey: r.SecretAccessKey, SessionToken: r.SessionToken,
		AccountID: r.AccountID, Source: processcreds.ProviderName,
	}
	if r.Expiration != nil {
		value.CanExpire, value.Expires = true, *r.Expiration
	}
	return value, nil
}

// runProcess runs a command and returns what it printed.
func runProcess(ctx context.Context, timing Timing, command string) ([]byte, error) {
	argv, plain, err := words(command)
	switch {
	case err != nil:
		return nil, err
	case !plain:
		return runShell(ctx, timing, command)
	}
	out, err := run(ctx, timing, argv)
	if errors.Is(err, syscall.ENOEXEC) { // a script without "#!", which sh runs itself
		return runShell(ctx, timing, command)
	}
	return out, told(ctx, timing, err, argv[0])
}

func runShell(ctx context.Context, timing Timing, command string) ([]byte, error) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return nil, &ProcessError{Said: "needs a shell: sh was not found"}
	}
	out, err := run(ctx, timing, []string{sh, "-c", command})
	return out, told(ctx, timing, err, sh)
}

// errTooMuch is a process that goes on printing.
var errTooMuch = errors.New("more output than credentials need")

// run runs a program in a process group of its own, and ends the whole group with
// ctx. The kernel kills the program, though not what that has started, when this
// process is killed: more exactly, when the thread that started it ends. So that
// thread is kept until the program has ended.
//
// https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
func run(ctx context.Context, timing Timing, argv []string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // the operator's own command
	out := &limited{full: func() { cancel(errTooMuch) }}
	cmd.Stdout, cmd.Env, cmd.WaitDelay = out, os.Environ(), timing.Pipe
	kill := ownGroup(cmd)
	cmd.Cancel = kill
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	if err != nil { // what it started goes with it, above all what holds the pipe
		_ = kill()
	}
	switch {
	case context.Cause(ctx) != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay): // it ended well, and something else held the pipe
		err = nil
	}
	return out.b.Bytes(), err
}

// told says why a run failed, in words that hold nothing of what it printed.
func told(ctx context.Context, timing Timing, err error, program string) error {
	if err == nil {
		return nil
	}
	e := &ProcessError{}
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case errors.Is(err, errTooMuch):
		e.Said = fmt.Sprintf("printed more than %d bytes", maxProcessOutput)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Said, e.Silent = fmt.Sprintf("did not end within %s and was killed", timing.Process), true
	case ctx.Err() != nil:
		e.Said, e.Silent = "was killed, since nobody waits for it any more", true
	case exited:
		e.Said = howItEnded(exit.ProcessState)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		e.Said = "names the program " + cause.Quote(program) + ", which was not found, or needs an interpreter or libraries that were not"
	case errors.Is(err, exec.ErrDot):
		e.Said = "names the program " + cause.Quote(program) + ", which is only in the working directory: give its path"
	case errors.Is(err, fs.ErrPermission):
		e.Said = "names the program " + cause.Quote(program) + ", which this process's user may not run"
	default:
		e.Said = "names the program " + cause.Quote(program) + ", which cannot be run: " + cause.Quote(transport.Innermost(err))
	}
	return e
}

func howItEnded(state *os.ProcessState) string {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return "was ended by the signal " + status.Signal().String()
	}
	const byConvention = 127 // of shells
	said := fmt.Sprintf("exited with %d", state.ExitCode())
	if state.ExitCode() == byConvention {
		said += ": a program that it names was not found"
	}
	return said
}

// limited keeps the start of an output, and says when there is too much.
type limited struct {
	b    bytes.Buffer
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxProcessOutput {
		l.full()
		return 0, errTooMuch
	}
	return l.b.Write(p)
}

// words splits a command into words as sh does. plain is false where that takes
// sh itself: for variables, pipes, patterns and whatever else is special in it.
func words(command string) (argv []string, plain bool, err error) {
	var word strings.Builder
	started := false
	for rest := command; rest != ""; {
		c := rest[0]
		switch {
		case c == ' ' || c == '\t':
			if started {
				argv, started = append(argv, word.String()), false
				word.Reset()
			}
			rest = rest[1:]
			continue
		case c == '#' && started:
			word.WriteByte(c)
		case strings.IndexByte("$`|&;<>()*?[]{}~#\n\r", c) >= 0:
			return nil, false, nil
		case c == '=' && len(argv) == 0: // perhaps a variable for the command
			return nil, false, nil
		case c == '\\' || c == '\'' || c == '"':
			text, n, plain := quoted(rest)
			if n == 0 {
				return nil, false, &ProcessError{Said: "is not complete: a quotation mark is not closed, or a backslash is last"}
			}
			if !plain {
				return nil, false, nil
			}
			word.WriteString(text)
			rest, started = rest[n:], true
			continue
		default:
			word.WriteByte(c)
		}
		rest, started = rest[1:], true
	}
	if started {
		argv = append(argv, word.String())
	}
	if len(argv) == 0 {
		return nil, false, &ProcessError{Said: "is empty"}
	}
	return argv, !ofTheShell(argv[0]), nil
}

// quoted reads what begins with a quotation mark or a backslash, and returns how
// long that is; 0 where its end is missing. It is not plain where sh would put
// something else in its place.
func quoted(s string) (text string, length int, plain bool) {
	switch {
	case s[0] == '"':
		return doubleQuoted(s)
	case s[0] == '\'':
		text, _, closed := strings.Cut(s[1:], "'")
		if !closed {
			return "", 0, true
		}
		return text, len(text) + len("''"), true
	case len(s) == 1:
		return "", 0, true
	}
	return s[1:2], len(`\x`), s[1] != '\n'
}

func doubleQuoted(s string) (text string, length int, plain bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			return b.String(), i + 1, true
		case c == '$' || c == '`':
			return "", len(s), false
		case c == '\\' && i+1 < len(s) && strings.IndexByte("$`\"\\", s[i+1]) >= 0:
			i++
			c = s[i]
		case c == '\\' && i+1 < len(s) && s[i+1] == '\n':
			return "", len(s), false
		}
		b.WriteByte(c)
	}
	return "", 0, true
}

// ofTheShell reports whether a command's first word means something to sh itself,
// so that there is no program of that name, or another one.
//
// https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html
func ofTheShell(word string) bool {
	const reserved = " ! case do done elif else esac fi for function if in select then time until while "
	const builtin = " . : alias bg break cd command continue eval exec exit export fc fg getopts hash jobs local" +
		" read readonly return set shift source times trap type ulimit umask unalias unset wait "
	return strings.Contains(reserved+builtin, " "+word+" ")
}
