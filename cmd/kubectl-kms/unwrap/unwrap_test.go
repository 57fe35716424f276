package unwrap

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const arn = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

func open(context.Context) error { return nil }

// An entry is served by the provider on its socket, and by any where that is not known.
func TestProvidersOfAnEntry(t *testing.T) {
	t.Parallel()
	cfg := &config.Config{KMSTimeout: time.Second, Providers: []config.Provider{
		{Name: "a", Listen: "/run/a.sock", Keys: []config.Key{{Key: arn}}}, {Name: "b", Listen: "@b", Keys: []config.Key{{Key: arn}}},
	}}
	serving := func(version, name string) string {
		return map[string]string{"v2 aws": "@b", "v1 aws": "/run/a.sock", "v2 moved": "/run/c.sock"}[version+" "+name]
	}
	k := NewKeys(cfg, "test", "v1", serving, open)
	defer k.Close()
	for entry, want := range map[string]string{"v2 aws": "@b", "v1 aws": "/run/a.sock", "v2 moved": "/run/a.sock @b", "v2 else": "/run/a.sock @b"} {
		version, name, _ := strings.Cut(entry, " ")
		var got []string
		for _, p := range k.of(verify.Wrapped{Version: version, Provider: name}) {
			got = append(got, p.listen)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", entry, got, want)
		}
	}
}

func TestFlagsOfTheDaemon(t *testing.T) {
	t.Parallel()
	other := strings.Replace(arn, "1234abcd", "0000abcd", 1)
	cfg, err := ConfigFlags([]string{arn, other, arn}, []string{"a=b", "c=d", "a=b"}, []string{"--kms-endpoint=https://kms.test", "--assume-role-arn=arn:aws:iam::111122223333:role/r"})
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Key{
		{Key: arn, Region: "us-west-2", Endpoint: "https://kms.test", AssumeRoleARN: "arn:aws:iam::111122223333:role/r", EncryptionContext: map[string]string{"a": "b"}},
		{Key: other, Region: "us-west-2", Endpoint: "https://kms.test", AssumeRoleARN: "arn:aws:iam::111122223333:role/r", EncryptionContext: map[string]string{"c": "d"}},
	}
	if diff := cmp.Diff(want, cfg.Providers[0].Keys); diff != "" {
		t.Error(diff)
	}
	if _, err := ConfigFlags([]string{"arn:x"}, nil, nil); err == nil || !strings.Contains(err.Error(), "--key: ") {
		t.Errorf("%v", err)
	}
}

// A plugin of anybody's, which answers as the test says.
type stub struct {
	v2.UnimplementedKeyManagementServiceServer
	err  error
	seen *v2.DecryptRequest
}

func (s *stub) Decrypt(_ context.Context, r *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	s.seen = r
	return &v2.DecryptResponse{Plaintext: []byte("seed of 32 bytes, as it should be")}, s.err
}

type stubV1 struct {
	v1beta1.UnimplementedKeyManagementServiceServer
	seen *v1beta1.DecryptRequest
}

func (s *stubV1) Decrypt(_ context.Context, r *v1beta1.DecryptRequest) (*v1beta1.DecryptResponse, error) {
	s.seen = r
	return &v1beta1.DecryptResponse{Plain: []byte("dek")}, nil
}

func serve(t *testing.T) (socket string, second *stub, first *stubV1) {
	t.Helper()
	socket = filepath.Join(daemontest.Directory(t), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	second, first = &stub{}, &stubV1{}
	server := grpc.NewServer()
	v2.RegisterKeyManagementServiceServer(server, second)
	v1beta1.RegisterKeyManagementServiceServer(server, first)
	done := make(chan struct{})
	go func() { // ends with the server
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return socket, second, first
}

// A plugin gets what an API server would send it.
func TestAPluginIsAskedAsByAnAPIServer(t *testing.T) {
	t.Parallel()
	socket, second, first := serve(t)
	s, err := NewSockets(t.Context(), []string{socket}, nil, open)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := verify.Wrapped{Version: "v2", Provider: "aws", Ciphertext: []byte("c"), KeyID: "k", Annotations: map[string][]byte{"a.b": []byte("v")}}
	if u, err := s.Open(t.Context(), w); err != nil || string(u.Secret) != "seed of 32 bytes, as it should be" || u.Key != "" {
		t.Errorf("%d bytes, %v", len(u.Secret), err)
	}
	if r := second.seen; string(r.GetCiphertext()) != "c" || r.GetKeyId() != "k" || string(r.GetAnnotations()["a.b"]) != "v" || len(r.GetUid()) != 36 {
		t.Errorf("%v", r)
	}
	w.Version = "v1"
	if u, err := s.Open(t.Context(), w); err != nil || string(u.Secret) != "dek" {
		t.Errorf("%d bytes, %v", len(u.Secret), err)
	}
	if r := first.seen; string(r.GetCipher()) != "c" || r.GetVersion() != "v1beta1" {
		t.Errorf("%v", r)
	}
}

// What a plugin's error says of a DEK: of this project's by its code, of others by
// gRPC's. A value of v1 is never counted under the key that an error names.
func TestErrorsOfPlugins(t *testing.T) {
	t.Parallel()
	ours := "KMS0101 provider \"0\": Decrypt with " + arn + ": the key is disabled (DisabledException); enable the key"
	for name, c := range map[string]struct {
		code    codes.Code
		text    string
		version string
		state   verify.State
		kms     string
		keys    []string
		again   bool
	}{
		"ours":                 {codes.FailedPrecondition, ours, "v2", verify.Disabled, "KMS0101", []string{arn}, false},
		"ours, of v1":          {codes.FailedPrecondition, ours, "v1", verify.Disabled, "KMS0101", nil, false},
		"ours, throttled":      {codes.Unavailable, "KMS0201: Decrypt: throttled", "v2", verify.Unreachable, "KMS0201", nil, true},
		"ours, no key":         {codes.InvalidArgument, "KMS0405 provider \"0\": Decrypt with " + arn + ": no", "v2", verify.NotListed, "KMS0405", []string{arn}, false},
		"another's, away":      {codes.Unavailable, "connection refused", "v2", verify.Unreachable, "", nil, true},
		"another's, denied":    {codes.PermissionDenied, "no", "v2", verify.Denied, "", nil, false},
		"another's, bad":       {codes.InvalidArgument, "no", "v2", verify.Damaged, "", nil, false},
		"another's, who knows": {codes.Unknown, "rpc \x1b[2J", "v2", verify.Unknown, "", nil, false},
		"a code that is none":  {codes.Unknown, "KMS9999 x", "v2", verify.Unknown, "", nil, false},
	} {
		r := (&plugin{path: "/s"}).refusal(verify.Wrapped{Version: c.version}, status.Error(c.code, c.text))
		if r.State != c.state || r.Code != c.kms || r.Again != c.again || !cmp.Equal(r.Keys, c.keys) {
			t.Errorf("%s: %+v", name, r)
		}
		if strings.Contains(r.Text, "\x1b") || r.Text == "" {
			t.Errorf("%s: %q", name, r.Text)
		}
	}
}

// A replica is the key that was given: where KMS names it in another Region, what counts
// is why the one that was given does not open.
func TestAReplicaIsTheKeyThatWasGiven(t *testing.T) {
	emulator := kmstest.Start(t)
	emulator.SetEnv(t)
	primary, err := emulator.CreateKey("us-west-2", kmsemulator.KeyOptions{MultiRegion: true})
	if err != nil {
		t.Fatal(err)
	}
	replica, err := emulator.ReplicateKey(primary, "eu-west-1")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := emulator.CreateKey("us-west-2", kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keys := NewKeys(&config.Config{KMSTimeout: 10 * time.Second, Providers: []config.Provider{{Name: "a", Keys: []config.Key{
		{Key: plain, Region: "us-west-2"}, {Key: replica, Region: "eu-west-1"},
	}}}}, "test", "v1", nil, open)
	t.Cleanup(keys.Close)
	sealed, err := keys.providers[0].keys[1].client.Encrypt(t.Context(), awskms.Call{}, replica, []byte("seed"))
	if err != nil {
		t.Fatal(err)
	}
	if err := emulator.DisableKey(replica); err != nil {
		t.Fatal(err)
	}
	_, err = keys.Open(t.Context(), verify.Wrapped{Version: "v1", Ciphertext: append([]byte("1"), sealed.Blob...)})
	refused, ok := errors.AsType[*verify.Refusal](err)
	if !ok || refused.State != verify.Disabled || refused.Made.ID() != keyref.ARN(replica).ID() || !slices.Equal(refused.Keys, []string{replica}) {
		t.Errorf("%+v: want that %s is disabled", err, replica)
	}
}

func TestKeyIn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		arn + " is disabled.": arn, "'" + arn + "' does not exist": arn, arn + ": the key": arn, arn + ", other": arn,
		"": "", "User: x is not authorized on " + arn: "", "arn:aws:kms:us-west-2:111122223333:alias/x is": "", "1234abcd-12ab-34cd-56ef-1234567890ab is": "",
	} {
		if got := keyIn(text); string(got) != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
