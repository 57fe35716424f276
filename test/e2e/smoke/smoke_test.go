package smoke_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/smoke"
)

const checks = 8

// smoked runs it over an emulator with one key.
func smoked(t *testing.T, s *kmstest.Server, key string) (string, error) {
	t.Helper()
	program, err := cluster.BuildPlugin(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.SetEnv(t)
	before, err := filepath.Glob(filepath.Join(os.TempDir(), "kms-smoke-*"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	failed := smoke.Run(t.Context(), smoke.Options{Program: program, Key: key, Out: &out})
	if after, err := filepath.Glob(filepath.Join(os.TempDir(), "kms-smoke-*")); err != nil || len(after) > len(before) {
		t.Errorf("it leaves %q, %v", after, err)
	}
	return out.String(), failed
}

func TestSmokePassesOverTheEmulator(t *testing.T) {
	s := kmstest.Start(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := smoked(t, s, key)
	if err != nil || strings.Count(out, "ok      ") != checks {
		t.Errorf("%v\n%s", err, out)
	}
	// CONTRIBUTING.md says what a run costs.
	if n := s.Calls("*"); n > 100 {
		t.Errorf("%d calls of KMS, want at most 100", n)
	} else {
		t.Logf("%d calls of KMS:\n%s", n, out)
	}
}

// A smoke test that cannot fail says nothing.
func TestSmokeSaysWhatIsWrong(t *testing.T) {
	s := kmstest.Start(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Error, Operation: "Decrypt", Code: "AccessDeniedException"})
	out, err := smoked(t, s, key)
	if err == nil || !strings.Contains(err.Error(), "checks failed with "+key) || !strings.Contains(out, "FAILED  DryRun") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestSmokeKeepsOutOfCI(t *testing.T) {
	t.Setenv("CI", "true")
	t.Setenv("AWS_ENDPOINT_URL_KMS", "")
	err := smoke.Run(t.Context(), smoke.Options{Key: "arn:aws:kms:us-west-2:111122223333:key/a"})
	if err == nil || !strings.Contains(err.Error(), "no business with a real key") {
		t.Errorf("in CI, over AWS: %v", err)
	}
}

func TestSmokeWantsAKey(t *testing.T) {
	t.Setenv("CI", "")
	for _, key := range []string{"", "alias/a", "arn:aws:kms:us-west-2:111122223333:alias/a", "arn:aws:iam::111122223333:role/r"} {
		if err := smoke.Run(t.Context(), smoke.Options{Key: key}); err == nil || !strings.Contains(err.Error(), "want the ARN of a KMS key") {
			t.Errorf("%q: %v", key, err)
		}
	}
}
