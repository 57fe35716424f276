package stored_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// A vector is a value that a release of kube-apiserver wrote, or one that none reads.
// Vectors are added and never changed.
type vector struct {
	path     string
	value    []byte
	want     stored.Record
	cipher   stored.Cipher
	openedBy stored.Cipher // empty: cipher
	key      []byte
	object   []byte
	refused  string
}

// loadVectors reads testdata/vectors: lines of NAME: VALUE, bytes in hex.
func loadVectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) < 27 {
		t.Fatalf("%d vectors, some are missing: %v", len(files), err)
	}
	all := map[string]vector{}
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".txt")] = loadVector(t, file)
	}
	return all
}

func loadVector(t testing.TB, file string) (v vector) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return b
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case strings.HasPrefix(line, "#"):
		case name == "path":
			v.path = value
		case name == "value":
			v.value = raw(value)
		case name == "format":
			v.want.Format = stored.Format(value)
		case name == "provider":
			v.want.Provider = value
		case name == "cipher":
			v.cipher = stored.Cipher(value)
		case name == "opened-by":
			v.openedBy = stored.Cipher(value)
		case name == "key_id":
			v.want.KeyID = value
		case name == "source":
			v.want.Source = map[string]stored.Source{"dek": stored.DEK, "seed": stored.DEKSeed}[value]
		case name == "annotation":
			if v.want.Annotations == nil {
				v.want.Annotations = map[string][]byte{}
			}
			key, hex, _ := strings.Cut(value, "=")
			v.want.Annotations[key] = raw(hex)
		case name == "wrapped":
			v.want.Wrapped = raw(value)
		case name == "key":
			v.key = raw(value)
		case name == "object":
			v.object = raw(value)
		case name == "refused":
			v.refused = value
		default:
			t.Fatalf("%s: %q is not known, so the vector would be half read", file, line)
		}
	}
	return v
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for name, v := range loadVectors(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := stored.Parse(v.value, nil)
			if v.refused != "" {
				var wrong *stored.ParseError
				if !errors.As(err, &wrong) || err.Error() != v.refused {
					t.Fatalf("Parse: %v, want %s", err, v.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, r, v.want)
			if got := r.Cipher(); got != v.cipher {
				t.Errorf("the cipher is %q, want %q", got, v.cipher)
			}
			if least, most := r.PlainSize(); len(v.object) < least || len(v.object) > most {
				t.Errorf("the object has between %d and %d bytes, and it has %d", least, most, len(v.object))
			}
			opens(t, r, v)
		})
	}
}

func same(t *testing.T, got, want stored.Record) {
	t.Helper()
	if got.Format != want.Format || got.Provider != want.Provider || got.KeyID != want.KeyID || got.Source != want.Source {
		t.Errorf("Parse: %s %q %q %d, want %s %q %q %d", got.Format, got.Provider, got.KeyID, got.Source,
			want.Format, want.Provider, want.KeyID, want.Source)
	}
	if !bytes.Equal(got.Wrapped, want.Wrapped) {
		t.Errorf("wrapped is %q, want %q", got.Wrapped, want.Wrapped)
	}
	if !maps.EqualFunc(got.Annotations, want.Annotations, bytes.Equal) {
		t.Errorf("the annotations are %q, want %q", got.Annotations, want.Annotations)
	}
}

// opens demands that a value opens with its key at its path, and in no other way.
func opens(t *testing.T, r stored.Record, v vector) {
	t.Helper()
	if r.Format == stored.Secretbox {
		if _, err := r.Open(v.key, v.path); !errors.Is(err, stored.ErrSecretbox) {
			t.Errorf("Open: %v, want ErrSecretbox", err)
		}
		if nonce, box, ok := r.Box(); !ok || !bytes.Equal(append(nonce[:], box...), r.Sealed) {
			t.Error("nonce and box are not what is sealed")
		}
		return
	}
	o, err := r.Open(v.key, v.path)
	if err != nil {
		t.Fatal(err)
	}
	by := v.openedBy
	if by == "" {
		by = v.cipher
	}
	if !bytes.Equal(o.Object, v.object) || o.Cipher != by {
		t.Errorf("opened by %q to %q, want by %q %q", o.Cipher, []byte(o.Object), by, v.object)
	}
	authentic := by != stored.NoCipher && by != stored.CBC
	if o.Authenticated != authentic {
		t.Errorf("authenticated: %t, want %t", o.Authenticated, authentic)
	}
	if authentic {
		refusesWhatIsNotIt(t, r, v)
	}
	if len(v.key) > 0 {
		wrong := bytes.Clone(v.key)
		wrong[0] ^= 1
		for name, key := range map[string][]byte{"another": wrong, "a short": v.key[:8], "no": nil} {
			if _, err := r.Open(key, v.path); !errors.Is(err, stored.ErrKey) {
				t.Errorf("%s key: %v, want ErrKey", name, err)
			}
		}
	}
}

func refusesWhatIsNotIt(t *testing.T, r stored.Record, v vector) {
	t.Helper()
	if _, err := r.Open(v.key, v.path+"x"); !errors.Is(err, stored.ErrKey) {
		t.Errorf("at another path: %v, want ErrKey", err)
	}
	sealed := r.Sealed
	for i := range sealed {
		r.Sealed = bytes.Clone(sealed)
		r.Sealed[i] ^= 0x80
		if _, err := r.Open(v.key, v.path); !errors.Is(err, stored.ErrKey) {
			t.Errorf("byte %d changed: %v, want ErrKey", i, err)
		}
	}
}

func TestNamesMayHoldColons(t *testing.T) {
	t.Parallel()
	value := []byte("k8s:enc:aesgcm:v1:a:b:" + strings.Repeat("x", 28))
	for name, c := range map[string]struct {
		names      []string
		want, rest string
	}{
		"not listed":    {nil, "a", "b:"},
		"listed":        {[]string{"a:b"}, "a:b", ""},
		"the longest":   {[]string{"a", "a:b", "b"}, "a:b", ""},
		"another one":   {[]string{"a:c"}, "a", "b:"},
		"a shorter one": {[]string{"a"}, "a", "b:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := stored.Parse(value, c.names)
			if err != nil || r.Provider != c.want || string(r.Sealed) != c.rest+strings.Repeat("x", 28) {
				t.Errorf("Parse: %q %q %v, want %q and %q before the object", r.Provider, r.Sealed, err, c.want, c.rest)
			}
		})
	}
}

// TestProtobufIsReadAsProtobufReadsIt: fields in any order, unknown ones, those of
// another type, and repeated ones, of which the last counts.
func TestProtobufIsReadAsProtobufReadsIt(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("d", 60)
	const head = "k8s:enc:kms:v2:aws:"
	for name, body := range map[string]string{
		"in order":        "\x0a\x3c" + data + "\x12\x03key" + "\x1a\x03src" + "\x28\x01",
		"backwards":       "\x28\x01" + "\x1a\x03src" + "\x12\x03key" + "\x0a\x3c" + data,
		"repeated":        "\x0a\x01x" + "\x12\x01x" + "\x28\x00" + "\x0a\x3c" + data + "\x12\x03key" + "\x1a\x03src" + "\x28\x01",
		"unknown fields":  "\x32\x01x" + "\x38\x05" + "\x45\x00\x00\x00\x00" + "\x0a\x3c" + data + "\x12\x03key" + "\x1a\x03src" + "\x28\x01",
		"of another type": "\x10\x05" + "\x2a\x01x" + "\x0a\x3c" + data + "\x12\x03key" + "\x1a\x03src" + "\x28\x01",
		"a group":         "\x33\x08\x01\x34" + "\x0a\x3c" + data + "\x12\x03key" + "\x1a\x03src" + "\x28\x01",
		"a wide enum":     "\x0a\x3c" + data + "\x12\x03key" + "\x1a\x03src" + "\x28\x81\x80\x80\x80\x10", // 1<<32 + 1
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := stored.Parse([]byte(head+body), nil)
			if err != nil {
				t.Fatal(err)
			}
			if string(r.Sealed) != data || r.KeyID != "key" || string(r.Wrapped) != "src" || r.Source != stored.DEKSeed {
				t.Errorf("Parse: %q %q %q %d", r.Sealed, r.KeyID, r.Wrapped, r.Source)
			}
		})
	}
}

func TestCBCOpensToObjectsOnly(t *testing.T) {
	t.Parallel()
	v := loadVectors(t)["aescbc"]
	r, err := stored.Parse(v.value, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	for i := range 1 << 16 { // a padding of one byte fits one wrong key in 256
		key := bytes.Clone(v.key)
		key[0], key[1] = byte(i), byte(i>>8)
		if _, err := r.Open(key, v.path); err == nil {
			opened++
		}
	}
	if opened > 1+1<<16/256/256*8 {
		t.Errorf("%d of 65,536 keys open it", opened)
	}
}

func TestSourceIDIsOneOfItsParts(t *testing.T) {
	t.Parallel()
	base := func() stored.Record {
		return stored.Record{
			Format: stored.KMSv2, Wrapped: []byte("wrapped"), KeyID: "key", Source: stored.DEKSeed,
			Annotations: map[string][]byte{"a.b": []byte("c"), "d.e": nil},
		}
	}
	want := base().SourceID()
	same := base()
	same.Provider, same.Sealed = "other", []byte("another object")
	if same.SourceID() != want {
		t.Error("another object under the same seed has another SourceID")
	}
	for name, change := range map[string]func(*stored.Record){
		"format":           func(r *stored.Record) { r.Format = stored.KMSv1 },
		"wrapped":          func(r *stored.Record) { r.Wrapped = []byte("wrappe") },
		"key_id":           func(r *stored.Record) { r.KeyID = "kex" },
		"moved boundary":   func(r *stored.Record) { r.Wrapped, r.KeyID = []byte("wrappedk"), "ey" },
		"source":           func(r *stored.Record) { r.Source = stored.DEK },
		"annotation":       func(r *stored.Record) { r.Annotations["a.b"] = []byte("x") },
		"annotation gone":  func(r *stored.Record) { delete(r.Annotations, "d.e") },
		"annotation's key": func(r *stored.Record) { delete(r.Annotations, "d.e"); r.Annotations["d.f"] = nil },
	} {
		r := base()
		change(&r)
		if r.SourceID() == want {
			t.Errorf("%s: the same SourceID", name)
		}
	}
	if (stored.Record{Format: stored.AESGCM}).SourceID() != (stored.SourceID{}) {
		t.Error("a local key has a SourceID")
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range loadVectors(f) {
		f.Add(v.value, "aws")
	}
	f.Fuzz(func(t *testing.T, value []byte, name string) {
		r, err := stored.Parse(value, []string{name})
		if err != nil {
			if _, ok := errors.AsType[*stored.ParseError](err); !ok {
				t.Errorf("no ParseError: %v", err)
			}
			return
		}
		if least, most := r.PlainSize(); least < 0 || most < least || most > len(value) {
			t.Errorf("an object of %d to %d bytes in a value of %d", least, most, len(value))
		}
		_, _ = r.Open(make([]byte, 32), "/registry/secrets/default/demo")
		r.SourceID()
		if r.Format == stored.KMSv1 {
			whole := "k8s:enc:kms:v1:" + r.Provider + ":" + string([]byte{byte(len(r.Wrapped) >> 8), byte(len(r.Wrapped))}) + string(r.Wrapped) + string(r.Sealed)
			if whole != string(value) {
				t.Errorf("the parts make %q, the value is %q", whole, value)
			}
		}
	})
}
