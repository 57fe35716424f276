package policy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/policy"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

const (
	nodeRole    = "arn:aws:iam::111122223333:role/nodes/control-plane"
	nodeSession = "arn:aws:sts::111122223333:assumed-role/control-plane/i-1234567890abcdef0"
	kmsRole     = "arn:aws:iam::111122223333:role/etcd-encryption"
	foreignUser = "arn:aws:iam::444455556666:user/cluster"

	otherUser    = "arn:aws:iam::111122223333:user/somebody"
	otherForeign = "arn:aws:iam::444455556666:user/somebody"

	keyA = "1234abcd-12ab-34cd-56ef-1234567890ab"
	keyB = "4321abcd-12ab-34cd-56ef-1234567890ba"
	mrk  = "mrk-1234abcd12ab34cd56ef1234567890ab"
)

func arnOf(id string) string { return "arn:aws:kms:us-west-2:111122223333:key/" + id }

// A setup is one configuration, and who runs it.
type setup struct {
	name      string
	providers string // of a file; "" with flags
	flags     []string
	principal string // given to the command; "" is not told
	runs      string // whose credentials the program has
}

func setups() []setup {
	provider := func(name, keys string) string {
		return "- name: " + name + "\n  listen: DIR/" + name + "\n  keys:\n" + keys
	}
	return []setup{
		{name: "flags", flags: []string{"--key=" + arnOf(keyA), "--listen=DIR/aws"}, principal: nodeRole, runs: nodeSession},
		{
			name: "several keys", principal: nodeRole, runs: nodeSession,
			providers: provider("aws", "  - key: "+arnOf(mrk)+"\n  - key: "+arnOf(keyB)+"\n") + provider("events", "  - key: "+arnOf(keyA)+"\n  - key: "+arnOf(keyB)+"\n"),
		},
		{
			name: "contexts", principal: nodeRole, runs: nodeSession,
			providers: provider("aws", "  - key: "+arnOf(keyA)+"\n    encryptionContext: {Cluster: 'a ${aws:username}*', stage: production}\n  - key: "+arnOf(keyA)+"\n"),
		},
		{
			name: "alias and key id", principal: nodeRole, runs: nodeSession,
			providers: provider("aws", "  - key: alias/cluster\n    region: us-west-2\n  - key: "+keyB+"\n    region: us-west-2\n"),
		},
		{
			name: "role to assume", principal: nodeRole, runs: nodeSession,
			providers: provider("aws", "  - key: "+arnOf(keyA)+"\n    assumeRoleARN: "+kmsRole+"\n    externalID: my-cluster\n    encryptionContext: {cluster: a}\n  - key: "+arnOf(keyB)+"\n"),
		},
		{
			name: "key of another account", principal: foreignUser, runs: foreignUser,
			providers: provider("aws", "  - key: "+arnOf(keyA)+"\n"),
		},
		{
			name: "role of the key's account", principal: foreignUser, runs: foreignUser,
			providers: provider("aws", "  - key: "+arnOf(keyA)+"\n    assumeRoleARN: "+kmsRole+"\n"),
		},
		{
			name: "principal not told", runs: nodeSession,
			providers: provider("aws", "  - key: "+keyA+"\n    region: us-west-2\n  - key: alias/other\n    region: us-west-2\n"),
		},
	}
}

// A scene is a setup over an emulator.
type scene struct {
	setup

	server *kmstest.Server
	dir    string
	stored map[string]*v2.EncryptResponse // by provider and key: what it has to read
}

func roleCredential(principal string) kmsemulator.Credential {
	c := kmstest.Credential()
	c.Principal = principal
	return c
}

// stage makes keys, and has each of the configuration's keys encrypt something
// before anything is enforced.
func stage(t *testing.T, s setup) *scene {
	t.Helper()
	sc := &scene{setup: s, dir: daemontest.Directory(t), stored: map[string]*v2.EncryptResponse{}}
	sc.server = kmstest.Start(t, kmsemulator.Options{Credentials: []kmsemulator.Credential{roleCredential(s.runs)}})
	for _, id := range []string{keyA, keyB} {
		mustCreate(t, sc.server, kmsemulator.KeyOptions{KeyID: id})
	}
	mustCreate(t, sc.server, kmsemulator.KeyOptions{KeyID: mrk, MultiRegion: true})
	for alias, id := range map[string]string{"alias/cluster": keyA, "alias/other": keyB} {
		if err := sc.server.CreateAlias(kmstest.Region, alias, arnOf(id)); err != nil {
			t.Fatal(err)
		}
	}
	sc.server.SetEnv(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", sc.server.STSURL(t))
	if s.runs == foreignUser { // who else could not reach the keys at all
		sc.enforceAlone(t, nil)
	}
	for _, p := range sc.config(t).Providers {
		for _, k := range p.Keys {
			alone := *sc.config(t)
			alone.Providers = []config.Provider{{Name: "x", Listen: filepath.Join(sc.dir, "x"), Keys: []config.Key{k}}}
			alone.Health.Address = "127.0.0.1:0"
			func() {
				d := daemontest.Start(t, &alone)
				defer d.Shutdown(t.Context())
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				conn := connect(t, alone.Providers[0].Listen)
				sealed, err := v2.NewKeyManagementServiceClient(conn).Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("stored"), Uid: "u"})
				if err != nil {
					t.Fatalf("before anything is enforced: %v", err)
				}
				sc.stored[p.Listen+" of "+k.Key+fmt.Sprint(len(k.EncryptionContext))] = sealed
			}()
		}
	}
	return sc
}

const patience = 10 * time.Second

// connect waits for a socket: gRPC would wait longer.
func connect(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket); err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody serves %s after %s", socket, patience)
		}
	}
	conn, err := unixsocket.Connect(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func mustCreate(t *testing.T, s *kmstest.Server, o kmsemulator.KeyOptions) {
	t.Helper()
	if _, err := s.CreateKey(kmstest.Region, o); err != nil {
		t.Fatal(err)
	}
}

func (sc *scene) config(t *testing.T) *config.Config {
	t.Helper()
	args := slices.Clone(sc.flags)
	if sc.providers != "" {
		path := filepath.Join(sc.dir, "config.yaml")
		text := "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nhealth: {address: '127.0.0.1:0'}\nproviders:\n" + sc.providers
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", sc.dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = []string{"--config=" + path}
	} else {
		args = append(args, "--health-port=127.0.0.1:0")
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", sc.dir)
	}
	return daemontest.Config(t, args...)
}

func (sc *scene) documents(t *testing.T, doctor bool) []policy.Document {
	t.Helper()
	all, err := policy.Documents(policy.Options{Config: sc.config(t), Principal: sc.principal, Doctor: doctor})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const everything = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:*","sts:*"],"Resource":"*"}]}`

// open is a key's policy that lets accounts decide.
func open(principals ...string) string {
	accounts := []string{"111122223333"}
	for _, p := range principals {
		accounts = append(accounts, strings.Split(p, ":")[4])
	}
	list, _ := json.Marshal(accounts)
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":` + string(list) + `},"Action":"kms:*","Resource":"*"}]}`
}

func openTrust(principals ...string) string {
	return strings.ReplaceAll(strings.ReplaceAll(open(principals...), "kms:*", "sts:AssumeRole"), `,"Resource":"*"`, "")
}

// policies are the printed documents as the emulator takes them: those of an
// alias or key id hang on its key.
func (sc *scene) policies(t *testing.T, documents []policy.Document) kmsemulator.Policies {
	t.Helper()
	p := kmsemulator.Policies{Identity: map[string][]string{}, Keys: map[string]string{}, Trust: map[string]string{}}
	for _, d := range documents {
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if err := e.Encode(d.Policy); err != nil {
			t.Fatal(err)
		}
		switch d.Kind {
		case policy.Identity:
			p.Identity[sc.identityOf(d.For)] = append(p.Identity[sc.identityOf(d.For)], text.String())
		case policy.Trust:
			p.Trust[d.For] = text.String()
		case policy.Key:
			p.Keys[keyOf(d.For)] = text.String()
		case policy.Endpoint:
			if d.For == "sts" {
				p.STSEndpoint = text.String()
			} else {
				p.KMSEndpoint = text.String()
			}
		}
	}
	return p
}

// identityOf is the ARN by which the emulator knows a principal: a session does
// not tell its role's path.
func (sc *scene) identityOf(arn string) string {
	switch arn {
	case "", nodeRole:
		return "arn:aws:iam::111122223333:role/control-plane"
	}
	return arn
}

func keyOf(name string) string {
	switch {
	case strings.HasSuffix(name, "alias/cluster"):
		return arnOf(keyA)
	case strings.HasSuffix(name, "alias/other"):
		return arnOf(keyB)
	}
	return name
}

func (sc *scene) enforce(t *testing.T, p kmsemulator.Policies) {
	t.Helper()
	// The emulator's session has lost the path of its role, so policies lose it too.
	fix := func(s string) string { return strings.ReplaceAll(s, ":role/nodes/", ":role/") }
	for _, m := range []map[string]string{p.Keys, p.Trust} {
		for k, v := range m {
			m[k] = fix(v)
		}
	}
	p.KMSEndpoint, p.STSEndpoint = fix(p.KMSEndpoint), fix(p.STSEndpoint)
	if err := sc.server.Enforce(p); err != nil {
		t.Fatal(err)
	}
}

// live runs the program through what it does in its life, and returns the first
// call that failed.
func (sc *scene) live(t *testing.T) error {
	t.Helper()
	cfg := sc.config(t)
	d := daemontest.Start(t, cfg)
	defer d.Shutdown(t.Context())
	for _, p := range cfg.Providers {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn := connect(t, p.Listen)
		client, old := v2.NewKeyManagementServiceClient(conn), v1beta1.NewKeyManagementServiceClient(conn)
		sealed, err := client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte("new"), Uid: "u"})
		if err != nil {
			return err
		}
		if _, err := client.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "u"}); err != nil {
			return err
		}
		one, err := old.Encrypt(ctx, &v1beta1.EncryptRequest{Version: "v1beta1", Plain: []byte("new")})
		if err != nil {
			return err
		}
		if _, err := old.Decrypt(ctx, &v1beta1.DecryptRequest{Version: "v1beta1", Cipher: one.Cipher}); err != nil {
			return err
		}
		for of, stored := range sc.stored {
			if !strings.HasPrefix(of, p.Listen+" of ") {
				continue
			}
			if _, err := client.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: stored.Ciphertext, KeyId: stored.KeyId, Annotations: stored.Annotations, Uid: "u"}); err != nil {
				return fmt.Errorf("what %s: %w", of, err)
			}
		}
		status, err := client.Status(ctx, &v2.StatusRequest{})
		if err != nil {
			return err
		}
		if status.Healthz != "ok" {
			return errors.New("Status: " + status.Healthz)
		}
	}
	return nil
}

// look runs doctor, and returns what it could not do or see, a line each.
func (sc *scene) look(t *testing.T) string {
	t.Helper()
	r, err := doctor.Examine(t.Context(), doctor.Options{Config: sc.config(t), Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	var blind strings.Builder
	for _, g := range r.Groups {
		for _, c := range g.Checks {
			if c.Status == doctor.Failure || strings.Contains(c.Text, "the program does not need") {
				fmt.Fprintf(&blind, "%s: %s: %s\n", g.Title, c.Text, c.Cause)
			}
		}
	}
	return blind.String()
}

func each(t *testing.T, test func(t *testing.T, sc *scene)) {
	t.Helper()
	for _, s := range setups() {
		t.Run(s.name, func(t *testing.T) { test(t, stage(t, s)) })
	}
}
