package keyref_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// testdata/vectors has key_ids as docs/format.md describes them. Vectors are added and
// never changed: API servers compare them by their bytes.
func TestKeyIDsAreThoseOfTheVectors(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d vectors, some are missing: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s keyref.State
			var want string
			pairs := map[string]string{}
			for line := range strings.Lines(string(text)) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
				switch {
				case strings.HasPrefix(line, "#"):
				case name == "arn":
					ref, err := keyref.Parse(value)
					if err != nil {
						t.Fatal(err)
					}
					s.Key = ref.ID()
				case name == "material":
					s.Material = value
				case name == "context":
					key, value, _ := strings.Cut(value, "=")
					pairs[key] = value
				case name == "epoch":
					n, err := strconv.ParseUint(value, 10, 32)
					if err != nil {
						t.Fatal(err)
					}
					s.Epoch = uint32(n)
				case name == "key_id":
					want = value
				default:
					t.Fatalf("%q is not known, so the vector would be half read", line)
				}
			}
			s.Context = keyref.ContextHash(pairs)
			if got := s.String(); got != want {
				t.Errorf("the key_id is %s, want %s", got, want)
			}
			if got := keyref.ParseState(want); got != s {
				t.Errorf("ParseState(%s) = %+v, want %+v", want, got, s)
			}
		})
	}
}
