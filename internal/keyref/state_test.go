package keyref_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

const stateKey = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// The form is for ever: API servers compare the bytes, and every object in etcd
// carries them.
func TestKeyIDOfAState(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]keyref.State{
		stateKey:                                     {Key: stateKey},
		stateKey + "?material=9a4f":                  {Key: stateKey, Material: "9a4f"},
		stateKey + "?context=0d15":                   {Key: stateKey, Context: "0d15"},
		stateKey + "?format=NAME":                    {Key: stateKey, Format: "NAME"},
		stateKey + "?epoch=3":                        {Key: stateKey, Epoch: 3},
		stateKey + "?material=9a4f&epoch=4294967295": {Key: stateKey, Material: "9a4f", Epoch: 1<<32 - 1},
		stateKey + "?material=9a4f&context=0d15&format=NAME&epoch=3": {
			Key: stateKey, Material: "9a4f", Context: "0d15", Format: "NAME", Epoch: 3,
		},
	} {
		if got := s.String(); got != want {
			t.Errorf("%+v is %q, want %q", s, got, want)
		}
		if got := keyref.ParseState(want); got != s {
			t.Errorf("%q is read as %+v, want %+v", want, got, s)
		}
	}
}

func TestEveryKeyIDOfTheLongestKindFits(t *testing.T) {
	t.Parallel()
	const most = 1024 // kube-apiserver's
	s := keyref.State{
		Key:      "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
		Material: strings.Repeat("f", 128), Context: strings.Repeat("f", 16), Format: strings.Repeat("f", 16), Epoch: 1<<32 - 1,
	}
	if n := len(s.String()); n > most/2 {
		t.Errorf("a key_id of %d bytes, want at most half of the %d that are taken", n, most)
	}
}

func TestForeignKeyIDsAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	for keyID, want := range map[string]keyref.State{
		"":                              {},
		"alias/K8sKMSKey":               {Key: "alias/K8sKMSKey"},
		stateKey + "?":                  {Key: stateKey},
		stateKey + "?later=x&epoch=2":   {Key: stateKey, Epoch: 2},
		stateKey + "?epoch=99999999999": {Key: stateKey, Epoch: 1<<32 - 1},
		"?material":                     {},
	} {
		if got := keyref.ParseState(keyID); got != want {
			t.Errorf("%q is read as %+v, want %+v", keyID, got, want)
		}
	}
}

func TestContextHashIsOfThePairsAlone(t *testing.T) {
	t.Parallel()
	if got := keyref.ContextHash(nil) + keyref.ContextHash(map[string]string{}); got != "" {
		t.Errorf("no context is %q, want none", got)
	}
	// A golden value: a change of it would rewrite every cluster.
	if got, want := keyref.ContextHash(map[string]string{"cluster": "prod", "a": "b"}), "9db95d09b708246f"; got != want {
		t.Errorf("hash %q, want %q", got, want)
	}
	seen := map[string]string{}
	for name, pairs := range map[string]map[string]string{
		"one":            {"a": "b"},
		"other value":    {"a": "c"},
		"other name":     {"b": "b"},
		"two":            {"a": "b", "c": "d"},
		"two run in one": {"a": "bcd"},
		"shifted":        {"ab": "c", "d": ""},
		"empty value":    {"a": ""},
	} {
		hash := keyref.ContextHash(pairs)
		if other, twice := seen[hash]; twice || len(hash) != 16 {
			t.Errorf("%s has the hash %q of %q", name, hash, other)
		}
		seen[hash] = name
	}
}

func FuzzState(f *testing.F) {
	f.Add(stateKey + "?material=9a4f&context=0d15&format=x&epoch=3")
	f.Add("alias/a")
	f.Add("?&=&epoch=-1")
	f.Fuzz(func(t *testing.T, keyID string) {
		s := keyref.ParseState(keyID)
		if again := keyref.ParseState(s.String()); again != s {
			t.Errorf("%q is %+v, and after a round %+v", keyID, s, again)
		}
	})
}
