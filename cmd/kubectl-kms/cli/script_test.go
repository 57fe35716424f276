package cli_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/snapshot"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/scripttest"
)

var update = flag.Bool("update", false, "write what the program prints into the scripts")

// asProgram makes the test binary the program, over stores that are texts of
// audittest: --snapshot and --endpoints name files.
const asProgram = "KUBECTL_KMS_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := cli.Main(ctx, os.Args, cli.Streams{Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv, Stores: stores(), OutTerminal: os.Getenv("TERMINAL") != "", ErrTerminal: os.Getenv("TERMINAL") != ""})
	stop()
	os.Exit(code)
}

func stores() cli.Stores {
	return cli.Stores{
		Etcd: func(o etcd.Options) (store.Reader, error) {
			if len(o.Endpoints) != 1 {
				return nil, fmt.Errorf("%d endpoints", len(o.Endpoints))
			}
			return &lazy{o.Endpoints[0], "https://127.0.0.1:2379", false, o.Progress}, nil
		},
		Snapshot: func(file string, o snapshot.Options) store.Reader {
			return &lazy{file, file, true, o.Progress}
		},
	}
}

// A lazy store is read when it is asked.
type lazy struct {
	file, place string
	snapshot    bool
	progress    func(store.Progress)
}

func (l *lazy) Read(ctx context.Context, prefixes []string, each func(store.KeyValue) error) (store.Reading, error) {
	data, err := os.ReadFile(l.file)
	if err != nil {
		return store.Reading{}, err
	}
	s, err := audittest.Parse(l.place, string(data), l.snapshot)
	if err != nil {
		return store.Reading{}, err
	}
	s.Each = func(ctx context.Context, i int) error {
		l.progress(store.Progress{Done: int64(i), Total: int64(len(s.Values))})
		return ctx.Err()
	}
	return s.Read(ctx, prefixes, each)
}

// TestScripts runs testdata/script: what a person types, and to the word what the
// program answers. Their own commands are
//
//	exits CODE ARGUMENT ...   runs kubectl-kms, which has to exit with the code
//	narrow FILE ...           fails for a line that has over 80 columns, unless one word fills it
func TestScripts(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"kubectl-kms", "kubectl_complete-kms", "kubectl_complete-kms.exe"} {
		if err := os.Symlink(exe, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv(asProgram, "1")
			return nil
		},
		Cmds: scripttest.Commands("kubectl-kms", filled),
	})
}

// filled reports whether one word, such as a key_id, leaves no room for another.
func filled(line string) bool {
	for word := range strings.FieldsSeq(line) {
		if len(word) > 70 {
			return true
		}
	}
	return false
}

// A reading that is interrupted ends at once, says what was done, and gives no verdict.
func TestCtrlCSaysWhatWasDone(t *testing.T) {
	t.Parallel()
	s, err := audittest.Parse("backup.db", strings.Repeat("/registry/secrets/default/a plaintext\n", 10), true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	s.Each = func(_ context.Context, i int) error {
		if i == 2 {
			interrupt()
		}
		return nil
	}
	var out, errs strings.Builder
	code := cli.Main(ctx, []string{"kubectl-kms", "audit", "--snapshot", "backup.db", "--resources", "secrets", "--expect-only", "plaintext"}, cli.Streams{
		Out: &out, Err: &errs, LookupEnv: os.LookupEnv,
		Stores: cli.Stores{Snapshot: func(string, snapshot.Options) store.Reader { return s }},
	})
	want := "kubectl kms: interrupted: 2 keys of backup.db had been read, and nothing was changed; there is no verdict on a part: run it again\n"
	if code != cli.Failed || out.String() != "" || errs.String() != want {
		t.Errorf("exit code %d, %q, %q; want 1, nothing, %q", code, out.String(), errs.String(), want)
	}
}
