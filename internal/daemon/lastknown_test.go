package daemon

import (
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/lastknown"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// Only what names another key, or the same key called in another way, makes what
// was known useless.
func TestDigestTellsConfigurationsApart(t *testing.T) {
	p := config.Provider{Name: "0", Listen: "/a", Keys: []config.Key{{Key: "k", EncryptionContext: map[string]string{"a": "b", "c": "d"}}}}
	want := digest(p)
	moved := p
	moved.Listen = "/b"
	if digest(moved) != want {
		t.Error("another socket is another configuration")
	}
	for name, change := range map[string]func(*config.Provider){
		"name":    func(p *config.Provider) { p.Name = "1" },
		"epoch":   func(p *config.Provider) { p.Epoch = 1 },
		"key":     func(p *config.Provider) { p.Keys[0].Key = "l" },
		"context": func(p *config.Provider) { p.Keys[0].EncryptionContext = map[string]string{"a": "b"} },
		"role":    func(p *config.Provider) { p.Keys[0].AssumeRoleARN = "r" },
		"more":    func(p *config.Provider) { p.Keys = append(p.Keys, config.Key{Key: "old"}) },
	} {
		other := p
		other.Keys = []config.Key{p.Keys[0]}
		change(&other)
		if digest(other) == want {
			t.Errorf("another %s is the same configuration", name)
		}
	}
	t.Setenv("AWS_REGION", "eu-central-1")
	if digest(p) == want {
		t.Error("another Region of the environment is the same configuration")
	}
}

// All that a provider keeps comes back in the next process.
func TestWhatIsKeptComesBack(t *testing.T) {
	t.Parallel()
	d := &Daemon{log: slog.New(slog.DiscardHandler), files: usualFiles()}
	p := config.Provider{Name: "0", Listen: testkit.Directory(t) + "/s"}
	now := time.Now()
	want := provider.Known{
		KeyID: "k?material=m", KeyARN: "k", Material: "m", Left: []string{"l"}, LastOK: now.Add(-time.Second),
		LeftKeys: []provider.LeftKey{{Key: "j", At: now.Add(-time.Minute)}},
	}
	if err := d.newMemory(p).Keep(want); err != nil {
		t.Fatal(err)
	}
	got := d.recall(d.newMemory(p))
	if got == nil || len(got.LeftKeys) != 1 {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	const between = time.Second // the two clocks are read one after the other
	if off := got.LastOK.Sub(want.LastOK).Abs(); off > between {
		t.Errorf("last_ok is off by %s", off)
	}
	if off := got.LeftKeys[0].At.Sub(want.LeftKeys[0].At).Abs(); off > between {
		t.Errorf("the key was left %s off", off)
	}
	got.LastOK, got.LeftKeys[0].At = want.LastOK, want.LeftKeys[0].At
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v, want %+v", *got, want)
	}
}

// What is known goes where its provider's socket goes, and goes with the provider.
func TestWhatIsKnownFollowsItsProvider(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	dir := testkit.Directory(t)
	first := providerText{name: "first", listen: dir + "/1", keys: []string{keyText(kms, createKey(t, kms))}}
	second := providerText{name: "second", listen: dir + "/2", keys: []string{keyText(kms, createKey(t, kms))}}
	f := runFiled(t, filing{dir: dir}, fileText("", first, second))
	f.ready()
	idA, idB := newCaller(t, dir+"/1").keyID(), newCaller(t, dir+"/2").keyID()
	keeps := func(socket, keyID string) {
		t.Helper()
		data, err := os.ReadFile(lastknown.Beside(dir + "/" + socket))
		if err != nil || !strings.Contains(string(data), keyID) {
			t.Errorf("beside socket %s: %q, %v, want key_id %s", socket, data, err, keyID)
		}
	}
	keeps("1", idA)
	keeps("2", idB)
	first.listen = dir + "/3"
	first.epoch = 1 // so that it is told, and kept, at once
	f.loads(fileText("", first, second))
	keeps("3", newCaller(t, dir+"/3").keyID())
	testkit.Until(t, "the place before is empty", func() bool { return !exists(lastknown.Beside(dir + "/1")) })
	f.loads(fileText("", first))
	testkit.Until(t, "what the provider knew is gone", func() bool { return !exists(lastknown.Beside(dir + "/2")) })
	f.shutdown()
	if !exists(lastknown.Beside(dir + "/3")) {
		t.Error("what is known is gone with the process")
	}
}
