package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
)

// A vector is a ciphertext that a release wrote, or that every release refuses.
// Vectors are added and never changed.
type vector struct {
	Name       string `json:"name"`
	WrittenBy  string `json:"writtenBy"`
	Ciphertext string `json:"ciphertext"` // hex
	Repeat     int    `json:"repeat"`     // how many times the last byte follows, for long ones
	Bare       bool   `json:"bare"`       // as KMS v1 reads it
	Blob       string `json:"blob"`       // hex, followed by as many repeats
	Refused    string `json:"refused"`    // error code instead
}

func loadVectors(t *testing.T) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors found: %v, %v", files, err)
	}
	var all []vector
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields() // a field that is not understood is a vector half read
		var vectors []vector
		if err := decoder.Decode(&vectors); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, vectors...)
	}
	plain, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(plain) < len(all) {
		t.Fatalf("%d plain vectors of %d: %v", len(plain), len(all), err)
	}
	for _, file := range plain {
		all = append(all, loadPlain(t, file))
	}
	return all
}

// loadPlain reads a vector as docs/format.md has them: lines of NAME: VALUE, bytes in hex.
func loadPlain(t *testing.T, file string) (v vector) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	v.Name = filepath.Base(file)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case strings.HasPrefix(line, "#"):
		case name == "api":
			v.Bare = value == "v1"
		case name == "ciphertext":
			v.Ciphertext = value
		case name == "blob":
			v.Blob = value
		case name == "refused":
			v.Refused = value
		default:
			t.Fatalf("%s: %q is not known, so the vector would be half read", file, line)
		}
	}
	return v
}

func long(t *testing.T, digits string, repeat int) []byte {
	t.Helper()
	raw, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	if repeat > 0 {
		raw = append(raw, bytes.Repeat(raw[len(raw)-1:], repeat)...)
	}
	return raw
}

func TestEveryFormatEverWrittenIsRead(t *testing.T) {
	t.Parallel()
	for _, v := range loadVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			blob, err := seal.Parse(long(t, v.Ciphertext, v.Repeat), v.Bare)
			if v.Refused != "" {
				if err == nil || cause.Of(err).Code.String() != v.Refused || cause.ClassOf(err) != cause.BadData {
					t.Fatalf("got blob %x, error %v; want a refusal with %s", blob, err, v.Refused)
				}
				return
			}
			if want := long(t, v.Blob, v.Repeat); err != nil || !bytes.Equal(blob, want) {
				t.Fatalf("got blob %x, error %v; want %x", blob, err, want)
			}
		})
	}
}

func TestDirectFormatIsItsByteAndTheBlob(t *testing.T) {
	t.Parallel()
	if got := seal.Append([]byte("before"), []byte("\x01\x02seed")); string(got) != "before1\x01\x02seed" {
		t.Errorf("%q", got)
	}
}

func TestPlaintextThatKMSDoesNotTakeIsRefused(t *testing.T) {
	t.Parallel()
	for size, ok := range map[int]bool{0: false, 1: true, 4096: true, 4097: false} {
		if err := seal.CheckPlaintext(size); (err == nil) != ok || err != nil && cause.Of(err).Code != cause.PlaintextSize {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// What is read is the ciphertext itself or all of it but the first byte: a blob
// that is accepted can be written again to the same bytes.
func FuzzParse(f *testing.F) {
	f.Add([]byte("1\x01\x02\x03"), true)
	f.Add([]byte("\x01\x02\x03"), true)
	f.Add([]byte("?"), false)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, ciphertext []byte, bare bool) {
		blob, err := seal.Parse(ciphertext, bare)
		if err != nil {
			if cause.ClassOf(err) != cause.BadData {
				t.Errorf("refused as %s, want bad data", cause.ClassOf(err))
			}
			return
		}
		if len(blob) == 0 || len(blob) > seal.MaxBlob {
			t.Errorf("a blob of %d bytes", len(blob))
		}
		again := append([]byte{'1'}, blob...)
		if bare && ciphertext[0] != '1' {
			again = blob
		}
		if !bytes.Equal(again, ciphertext) {
			t.Errorf("%x was read as %x", ciphertext, blob)
		}
		if !bare && ciphertext[0] != '1' {
			t.Errorf("%x was read without its format byte", ciphertext)
		}
	})
}
