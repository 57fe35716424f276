package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestServesFromEveryFormOfTheCommandLine(t *testing.T) {
	s := kmstest.Start(t)
	arn := key(t, s)
	for name, form := range map[string]func(listen string) (env, args []string){
		"one dash": func(l string) ([]string, []string) {
			return nil, []string{"-key=" + arn, "-region=us-west-2", "-listen=" + l, "-health-port=127.0.0.1:0"}
		},
		"one dash, values apart": func(l string) ([]string, []string) {
			return nil, []string{"-key", arn, "-region", "us-west-2", "-listen", l, "-health-port", "127.0.0.1:0", "-debug"}
		},
		"two dashes": func(l string) ([]string, []string) {
			return nil, []string{"--key=" + arn, "--listen", l, "--health-port=127.0.0.1:0"}
		},
		"serve": func(l string) ([]string, []string) {
			return nil, []string{"serve", "--key=" + arn, "-listen=unix://" + l, "--health-port=127.0.0.1:0"}
		},
		"environment": func(l string) ([]string, []string) {
			return []string{
				"AWS_ENCRYPTION_PROVIDER_KEY=" + arn, "AWS_ENCRYPTION_PROVIDER_LISTEN=" + l,
				"AWS_ENCRYPTION_PROVIDER_HEALTH_PORT=127.0.0.1:0", "AWS_ENCRYPTION_PROVIDER_ENCRYPTION_CONTEXT=a=b",
			}, nil
		},
		"command line before environment": func(l string) ([]string, []string) {
			return []string{"AWS_ENCRYPTION_PROVIDER_KEY=alias/none", "AWS_ENCRYPTION_PROVIDER_LISTEN=/nowhere/s"},
				[]string{"--key=" + arn, "--listen=" + l, "--health-port=127.0.0.1:0"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listen := socketIn(t)
			env, args := form(listen)
			p := launch(t, append(s.Env(), env...), args...)
			secret := []byte("of the command line " + name)
			if got := open(t, listen, seal(t, listen, secret)); !bytes.Equal(got, secret) {
				t.Errorf("%q went in, %q came back", secret, got)
			}
			p.signal(syscall.SIGTERM)
			p.exits(0)
			if exists(listen) {
				t.Error("the socket outlives the process")
			}
			if p.out.String() != "" {
				t.Errorf("standard output is not empty: %s", p.out)
			}
		})
	}
}

func TestStartIsOneLineWithTheResolvedConfiguration(t *testing.T) {
	listen := socketIn(t)
	p := launch(t, nil, "--key=alias/k", "--region=us-west-2", "--listen="+listen, "--health-port=127.0.0.1:0",
		"--kms-endpoint=http://user:passphrase@127.0.0.1:1/?token=of-the-query", "--shutdown-delay=1ms", "--health-kms-version=v2",
		"--retry-token-capacity=7", "--assume-role-arn=arn:aws:iam::111122223333:role/r", "--external-id=of-the-partner", fmt.Sprintf("--socket-group=%d", os.Getegid()))
	p.logs(`"serving"`)
	line, rest, _ := strings.Cut(p.err.String(), "\n")
	for _, want := range []string{
		`"msg":"starting"`, `"version":"`, `"commit":"`, `"go":"go1.`, `"key":"alias/k"`, `"region":"us-west-2"`,
		fmt.Sprintf(`"socket":%q`, listen), `"socket_mode":"0600"`, `"kms_timeout":"2.5s"`, `"outage_grace":"3m0s"`, `"shutdown_delay":"1ms"`,
		`"livez_path":"/livez"`, `"log_level":"INFO"`, `"endpoint":"http://user:xxxxx@127.0.0.1:1/?xxxxx"`,
		`"retry_token_capacity":7`, `"retry_flat_cost":false`, `"external_id_set":true`, `"log_format":"json"`, fmt.Sprintf(`"socket_group":"%d"`, os.Getegid()),
	} {
		if !strings.Contains(line, want) {
			t.Errorf("the first line has no %s:\n%s", want, line)
		}
	}
	if !strings.Contains(rest, "--health-kms-version has no effect") {
		t.Errorf("what has no effect is not said:\n%s", rest)
	}
	for _, secret := range []string{"passphrase", "of-the-query", "of-the-partner"} {
		if strings.Contains(p.err.String(), secret) {
			t.Errorf("the log shows %q:\n%s", secret, p.err)
		}
	}
	p.signal(syscall.SIGINT)
	p.exits(0)
	for _, want := range []string{`"msg":"shutting down","signal":"interrupt","delay":"1ms"`, `"msg":"stopped"`} {
		if !strings.Contains(p.err.String(), want) {
			t.Errorf("the log of the end has no %s:\n%s", want, p.err)
		}
	}
}

func TestSignalsOfEveryKind(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) { // as under nohup; what is started would ignore it as well
		noticed := make(chan os.Signal, 1)
		signal.Notify(noticed, syscall.SIGHUP)
		t.Cleanup(func() { signal.Stop(noticed) })
	}
	s := kmstest.Start(t)
	arn := key(t, s)
	serve := func(t *testing.T, args ...string) (*program, string) {
		t.Helper()
		listen := socketIn(t)
		p := launch(t, s.Env(), append([]string{"--key=" + arn, "--listen=" + listen, "--health-port=127.0.0.1:0"}, args...)...)
		seal(t, listen, []byte("k"))
		return p, listen
	}
	for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGHUP": syscall.SIGHUP} {
		t.Run(name+" ends it", func(t *testing.T) {
			t.Parallel()
			p, listen := serve(t)
			p.signal(sig)
			p.exits(0)
			if exists(listen) {
				t.Error("the socket outlives the process")
			}
		})
	}
	t.Run("SIGUSR1 toggles debug", func(t *testing.T) {
		t.Parallel()
		p, listen := serve(t)
		if strings.Contains(p.err.String(), `"call served"`) {
			t.Fatalf("successes are logged without being asked for:\n%s", p.err)
		}
		p.signal(syscall.SIGUSR1)
		p.logs(`"level":"DEBUG"`)
		seal(t, listen, []byte("k"))
		p.logs(`"call served"`)
		p.signal(syscall.SIGUSR1)
		p.logs(`"msg":"log level changed by SIGUSR1","level":"INFO"`)
		before := strings.Count(p.err.String(), `"call served"`)
		seal(t, listen, []byte("k"))
		p.signal(syscall.SIGTERM)
		p.exits(0)
		if after := strings.Count(p.err.String(), `"call served"`); after != before {
			t.Errorf("successes are logged after the second signal:\n%s", p.err)
		}
	})
	t.Run("shutdown delay goes on serving", func(t *testing.T) {
		t.Parallel()
		p, listen := serve(t, "--shutdown-delay=2s")
		began := time.Now()
		p.signal(syscall.SIGTERM)
		p.logs("shutting down")
		seal(t, listen, []byte("over a new connection"))
		p.exits(0)
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("ended after %s, want to serve for 2s", took)
		}
	})
	t.Run("second signal hurries", func(t *testing.T) {
		t.Parallel()
		p, listen := serve(t, "--shutdown-delay=10m")
		p.signal(syscall.SIGTERM)
		p.logs("shutting down")
		p.signal(syscall.SIGUSR1) // ends nothing
		p.signal(syscall.SIGTERM)
		p.exits(0)
		if exists(listen) {
			t.Error("the socket outlives the process")
		}
	})
}

func TestRunningCallOutlivesTheSignal(t *testing.T) {
	s := kmstest.Start(t)
	listen := socketIn(t)
	p := launch(t, s.Env(), "--key="+key(t, s), "--listen="+listen, "--health-port=127.0.0.1:0")
	seal(t, listen, []byte("k"))
	s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Latency, Delay: 700 * time.Millisecond})
	before := s.Calls("Encrypt")
	c := v2.NewKeyManagementServiceClient(dial(t, listen))
	done := make(chan error, 1)
	go func() {
		_, err := c.Encrypt(t.Context(), &v2.EncryptRequest{Plaintext: []byte("k")}, grpc.WaitForReady(true))
		done <- err
	}()
	until(t, "KMS has the call", func() bool { return s.Calls("Encrypt") > before })
	p.signal(syscall.SIGTERM)
	if err := <-done; err != nil {
		t.Errorf("the running call: %v, want it finished", err)
	}
	p.exits(0)
}

func TestHeldSocketIsWaitedForTenSecondsAndItsHolderNamed(t *testing.T) {
	t.Parallel()
	s := kmstest.Start(t)
	arn, listen := key(t, s), socketIn(t)
	args := []string{"--key=" + arn, "--listen=" + listen, "--health-port=127.0.0.1:0"}
	first := launch(t, s.Env(), args...)
	first.logs(`"msg":"serving"`)
	began := time.Now()
	second := launch(t, s.Env(), args...)
	second.logs("waiting for its holder to leave")
	second.exits(1)
	if took := time.Since(began); took < 10*time.Second {
		t.Errorf("gave up after %s, want 10s", took)
	}
	want := fmt.Sprintf("aws-encryption-provider: listening on %s: the process with pid %d serves it; stop that process, or give this one another --listen\n",
		listen, first.cmd.Process.Pid)
	if !strings.HasSuffix(second.err.String(), want) {
		t.Errorf("its last words:\n%s\nwant\n%s", second.err, want)
	}
	seal(t, listen, []byte("the first still serves"))
	third := launch(t, s.Env(), args...)
	third.logs("waiting for its holder to leave")
	first.signal(syscall.SIGTERM)
	first.exits(0)
	third.logs(`"msg":"serving"`)
	seal(t, listen, []byte("the third serves"))
	third.signal(syscall.SIGKILL)
	<-third.ended
	fourth := launch(t, s.Env(), args...) // over what the killed one left
	fourth.logs(`"msg":"serving"`)
	seal(t, listen, []byte("the fourth serves"))
}

func TestReaderOfTheLogMayGo(t *testing.T) {
	s := kmstest.Start(t)
	listen := socketIn(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := command(t, s.Env(), "--key="+key(t, s), "--listen="+listen, "--health-port=127.0.0.1:0", "--debug")
	p.cmd.Stderr = w
	p.start()
	_ = w.Close()
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	for range 3 {
		seal(t, listen, []byte("each of them is logged"))
	}
	p.signal(syscall.SIGTERM)
	p.exits(0)
}

func TestVersionAndMistakesNeedNoSocket(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}, {"-version"}} {
		p := launch(t, nil, args...)
		p.exits(0)
		lines := strings.Split(p.out.String(), "\n")
		if len(lines) != 4 || !strings.HasPrefix(lines[0], "aws-encryption-provider ") || !strings.HasPrefix(lines[1], "commit ") || !strings.HasPrefix(lines[2], "go1.") {
			t.Errorf("%v prints %q, want name and version, commit, Go version", args, p.out)
		}
	}
	p := launch(t, nil, "--lisetn=x")
	p.exits(2)
	if p.out.String() != "" || !strings.Contains(p.err.String(), "did you mean --listen?") {
		t.Errorf("prints %q and %q, want the mistake on standard error alone", p.out, p.err)
	}
}
