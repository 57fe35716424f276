package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	oneSum   = "1111111111111111111111111111111111111111111111111111111111111111"
	otherSum = "2222222222222222222222222222222222222222222222222222222222222222"
)

func TestRebuildSaysWhichFileDiffers(t *testing.T) {
	var out strings.Builder
	got := compareSums(
		map[string]string{"same": oneSum, "other": oneSum, "gone": oneSum},
		map[string]string{"same": oneSum, "other": otherSum, "unlisted": oneSum}, &out)
	if want := []string{"gone", "other"}; !slices.Equal(got, want) {
		t.Errorf("%q differ, want %q", got, want)
	}
	want := "NOT BUILT  gone\nDIFFERS    other\n           published " + oneSum + "\n           here      " + otherSum + "\nsame       same\n"
	if out.String() != want {
		t.Errorf("it says\n%swant\n%s", out.String(), want)
	}
}

// Whoever has one file of a release builds that one.
func TestRebuildBuildsWhatIsListed(t *testing.T) {
	r := rebuildRequest{version: "v1.2.3", checksums: "sums"}
	for listed, want := range map[string]string{
		"aws-encryption-provider_v1.2.3_linux_arm64.deb":         "arm64",
		"aws-encryption-provider_v1.2.3_linux_amd64_fips140.rpm": "amd64_fips140",
		"image-digest.txt":                     "amd64 arm64",
		"kubectl-kms_v1.2.3_linux_arm64.deb":   "kubectl-kms_linux_arm64",
		"kubectl-kms_v1.2.3_windows_amd64.zip": "kubectl-kms_windows_amd64",
		"kubectl-kms_v1.2.3_darwin_arm64.tar.gz kubectl-kms_v1.2.3_darwin_arm64.spdx.json": "kubectl-kms_darwin_arm64",
		"kubectl-kms-image-digest.txt": "kubectl-kms_linux_amd64 kubectl-kms_linux_arm64",
		"kubectl-kms_v1.2.3_oci.tar":   "kubectl-kms_linux_amd64 kubectl-kms_linux_arm64",
		"aws-encryption-provider_v1.2.3_oci.tar aws-encryption-provider_v1.2.3_linux_amd64_fips140.spdx.json": "amd64 amd64_fips140 arm64",
	} {
		sums := map[string]string{}
		for file := range strings.FieldsSeq(listed) {
			sums[file] = oneSum
		}
		if got, err := targetsIn(r, sums); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v; want %s", listed, got, err, want)
		}
	}
}

// A branch moves: what was published under a tag is compared with that tag alone.
func TestRebuildTakesNoBranchForATag(t *testing.T) {
	c := newCheckout(t, filepath.Join("..", ".."))
	c.git(t, "branch", "v1.2.4")
	sums := filepath.Join(t.TempDir(), "SHA256SUMS")
	if err := os.WriteFile(sums, []byte(oneSum+"  aws-encryption-provider_v1.2.4_linux_amd64.deb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"rebuild", "--version", "v1.2.4", "--checksums", sums, "--source", c.dir}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "has v1.2.4, but not as a tag") {
		t.Errorf("a branch: %v", err)
	}
}

func TestRebuildRefusals(t *testing.T) {
	sums := func(text string) string {
		path := filepath.Join(t.TempDir(), "SHA256SUMS")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := sums(oneSum + "  aws-encryption-provider_v1.2.3_linux_amd64.deb\n")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"make rebuild VERSION=v1.2.3 CHECKSUMS=SHA256SUMS", nil},
		{"make rebuild VERSION=v1.2.3 CHECKSUMS=SHA256SUMS", []string{"--version", "v1.2.3"}},
		{"no such file", []string{"--version", "v1.2.3", "--checksums", "absent"}},
		{":2: \"two\" is no SHA-256 sum", []string{"--version", "v1.2.3", "--checksums", sums(oneSum + "  one\ntwo\n")}},
		{"lists no file of v1.2.4", []string{"--version", "v1.2.4", "--checksums", good}},
		{"no target \"mips\"", []string{"--version", "v1.2.3", "--checksums", sums(oneSum + " *aws-encryption-provider_v1.2.3_linux_mips.deb\n")}},
		{"git fetch --tags", []string{"--version", "v1.2.3", "--checksums", good, "--source", t.TempDir()}},
	} {
		err := run(t.Context(), append([]string{"rebuild"}, c.args...), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("rebuild %q: %v, want %q", c.args, err, c.want)
		}
	}
}
