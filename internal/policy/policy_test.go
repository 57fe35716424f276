package policy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"k8s.io/kms/apis/v1beta1"
	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/policy"
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
	conn, err := daemon.Connect(socket)
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
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse(args, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
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

func TestWhatIsPrintedIsEnough(t *testing.T) {
	each(t, func(t *testing.T, sc *scene) {
		sc.enforce(t, sc.policies(t, sc.documents(t, false)))
		if err := sc.live(t); err != nil {
			t.Errorf("the program: %v", err)
		}
		sc.enforce(t, sc.policies(t, sc.documents(t, true)))
		if err := sc.live(t); err != nil {
			t.Errorf("the program, with what doctor is allowed: %v", err)
		}
		// Of another account's key nobody is told the rotation.
		for line := range strings.Lines(sc.look(t)) {
			if sc.principal != foreignUser || !strings.Contains(line, "its rotation is not known") {
				t.Errorf("doctor: %s", line)
			}
		}
	})
}

// clone makes documents that can be changed.
func clone(t *testing.T, documents []policy.Document) []policy.Document {
	t.Helper()
	out := slices.Clone(documents)
	for i, d := range out {
		out[i].Policy.Statement = slices.Clone(d.Policy.Statement)
		for j, s := range d.Policy.Statement {
			c := policy.Condition{}
			for op, keys := range s.Condition {
				c[op] = maps.Clone(keys)
			}
			s.Condition = c
			s.Action, s.Resource = slices.Clone(s.Action), slices.Clone(s.Resource)
			out[i].Policy.Statement[j] = s
		}
	}
	return out
}

// A cut takes one thing out of a statement; nothing is left of a statement
// without actions or resources.
func cut(t *testing.T, documents []policy.Document, i, j int, edit func(*policy.Statement)) []policy.Document {
	t.Helper()
	out := clone(t, documents)
	p := &out[i].Policy
	edit(&p.Statement[j])
	if s := p.Statement[j]; len(s.Action) == 0 || len(documents[i].Policy.Statement[j].Resource) > 0 && len(s.Resource) == 0 {
		p.Statement = slices.Delete(p.Statement, j, j+1)
	}
	if len(p.Statement) > 0 {
		return out
	}
	if out[i].Kind == policy.Endpoint { // without a policy it would let everything through
		p.Statement = []policy.Statement{{Effect: "Deny", Principal: map[string]policy.Texts{"AWS": {"*"}}, Action: policy.Texts{"*"}, Resource: policy.Texts{"*"}}}
		return out
	}
	return slices.Delete(out, i, i+1)
}

func TestEachActionAndResourceIsNeeded(t *testing.T) {
	each(t, func(t *testing.T, sc *scene) {
		documents := sc.documents(t, true)
		sc.enforce(t, sc.policies(t, documents))
		seen := sc.look(t)
		needed := func(name string, left []policy.Document) {
			t.Run(name, func(t *testing.T) {
				sc.enforce(t, sc.policies(t, left))
				if sc.live(t) == nil && sc.look(t) == seen {
					t.Error("everything works without it")
				}
			})
		}
		for i, d := range documents {
			for j, s := range d.Policy.Statement {
				if s.Sid == "Administer" {
					continue // TestAdministratorsKeepTheKey
				}
				at := string(d.Kind) + " " + d.For + " " + s.Sid + " without "
				for n, action := range s.Action {
					needed(at+action, cut(t, documents, i, j, func(s *policy.Statement) { s.Action = slices.Delete(s.Action, n, n+1) }))
				}
				for n, resource := range s.Resource {
					if len(s.Resource) > 1 {
						needed(at+resource, cut(t, documents, i, j, func(s *policy.Statement) { s.Resource = slices.Delete(s.Resource, n, n+1) }))
					}
				}
			}
		}
	})
}

// TestEachConditionIsNeeded takes each condition away, with all other documents
// open, and tries what only that condition refuses.
func TestEachConditionIsNeeded(t *testing.T) {
	each(t, func(t *testing.T, sc *scene) {
		documents := sc.documents(t, false)
		for i, d := range documents {
			for j, s := range d.Policy.Statement {
				for op, keys := range s.Condition {
					for key := range keys {
						t.Run(string(d.Kind)+" "+d.For+" "+s.Sid+" without "+op+" "+key, func(t *testing.T) {
							a := attempt{kind: d.Kind, of: d.For, statement: s, op: op, key: key}
							sc.enforceAlone(t, documents[i:i+1])
							if err := a.make(t, sc); err == nil {
								t.Error("allowed, with the condition")
							}
							left := cut(t, documents, i, j, func(s *policy.Statement) {
								delete(s.Condition[op], key)
								if len(s.Condition[op]) == 0 {
									delete(s.Condition, op)
								}
							})
							sc.enforceAlone(t, left[i:i+1])
							if err := a.make(t, sc); err != nil {
								t.Errorf("refused by something else than the condition: %v", err)
							}
						})
					}
				}
			}
		}
	})
}

// enforceAlone enforces one document; all others let everything through.
func (sc *scene) enforceAlone(t *testing.T, one []policy.Document) {
	t.Helper()
	p := sc.policies(t, one)
	for _, who := range []string{sc.identityOf(nodeRole), kmsRole, foreignUser, otherUser, otherForeign} {
		if p.Identity[who] == nil {
			p.Identity[who] = []string{everything}
		}
	}
	p.Identity["arn:aws:iam::444455556666:role/control-plane"] = p.Identity[sc.identityOf(nodeRole)]
	for _, id := range []string{keyA, keyB, mrk} {
		if p.Keys[arnOf(id)] == "" {
			p.Keys[arnOf(id)] = open(foreignUser)
		}
	}
	if p.Trust[kmsRole] == "" {
		p.Trust[kmsRole] = openTrust(foreignUser)
	}
	sc.enforce(t, p)
}

// An attempt is a call that meets all conditions of a statement but one.
type attempt struct {
	kind      policy.Kind
	of        string
	statement policy.Statement
	op, key   string
}

// context is what the statement wants, or spoiled as the condition is to notice.
func (a attempt) context() map[string]string {
	context := map[string]string{}
	for key, values := range a.statement.Condition["StringEquals"] {
		if name, ok := strings.CutPrefix(key, "kms:EncryptionContext:"); ok {
			context[name] = strings.ReplaceAll(values[0], "${$}{", "${")
		}
	}
	switch name, pair := strings.CutPrefix(a.key, "kms:EncryptionContext:"); {
	case pair:
		context[name] = "other"
	case a.key == "kms:EncryptionContextKeys":
		context["more"] = "than that"
	}
	return context
}

// who makes the attempt: whom the document is about, or somebody else.
func (a attempt) who(sc *scene) string {
	who := sc.runs
	for _, values := range []policy.Texts{a.statement.Condition["ArnEquals"]["aws:PrincipalArn"], {a.of}} {
		if len(values) == 1 && values[0] == kmsRole && a.kind != policy.Trust {
			who = "arn:aws:sts::111122223333:assumed-role/etcd-encryption/s"
		}
	}
	switch {
	case a.key == "aws:PrincipalArn" && strings.Contains(who, "444455556666"):
		return otherForeign
	case a.key == "aws:PrincipalArn":
		return otherUser
	}
	return who
}

// target is the key of the attempt.
func (a attempt) target() string {
	switch {
	case a.kind == policy.Key:
		return keyOf(a.of)
	case a.key == "kms:ResourceAliases":
		return arnOf(mrk)
	}
	if aliases := a.statement.Condition["ForAnyValue:StringEquals"]["kms:ResourceAliases"]; len(aliases) > 0 {
		return keyOf(aliases[0])
	}
	if strings.HasSuffix(a.statement.Resource[0], "*") {
		return arnOf(keyA)
	}
	return strings.ReplaceAll(strings.Replace(a.statement.Resource[0], "::", ":111122223333:", 1), ":*:", ":111122223333:")
}

func (a attempt) make(t *testing.T, sc *scene) error {
	t.Helper()
	c := roleCredential(a.who(sc))
	if a.key == "aws:ResourceAccount" { // the same policy, in another account
		c.Principal = "arn:aws:sts::444455556666:assumed-role/control-plane/i"
	}
	c.AccessKeyID = "AKIAATTEMPT"
	sc.server.AddCredential(c)
	cfg := aws.Config{Region: kmstest.Region, Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")}
	if a.statement.Action[0] == "sts:AssumeRole" {
		in := &sts.AssumeRoleInput{RoleArn: aws.String(kmsRole), RoleSessionName: aws.String("attempt")}
		if ids := a.statement.Condition["StringEquals"]["sts:ExternalId"]; len(ids) > 0 && a.key != "sts:ExternalId" {
			in.ExternalId = &ids[0]
		}
		_, err := sts.NewFromConfig(cfg, func(o *sts.Options) { o.BaseEndpoint = aws.String(sc.server.STSURL(t)) }).AssumeRole(t.Context(), in)
		return err
	}
	key := a.target()
	_, err := kms.NewFromConfig(cfg, func(o *kms.Options) { o.BaseEndpoint = &sc.server.URL }).Decrypt(t.Context(), &kms.DecryptInput{
		KeyId: &key, EncryptionContext: a.context(), DryRun: aws.Bool(true), DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	})
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() == "DryRunOperationException" {
		return nil
	}
	return err
}

// TestAdministratorsKeepTheKey: the account's administrators do with the key what
// they have to, do not use it, and do not end it.
func TestAdministratorsKeepTheKey(t *testing.T) {
	for _, id := range []string{keyA, mrk} {
		sc := stage(t, setup{flags: []string{"--key=" + arnOf(id), "--listen=DIR/aws"}, principal: nodeRole, runs: nodeSession})
		documents := sc.documents(t, false)
		i := slices.IndexFunc(documents, func(d policy.Document) bool { return d.Kind == policy.Key })
		may := func(documents []policy.Document, action string) bool {
			text, err := json.Marshal(documents[i].Policy)
			if err != nil {
				t.Fatal(err)
			}
			return allows(t, string(text), otherUser, action, arnOf(id))
		}
		statement := documents[i].Policy.Statement[0]
		for n, action := range statement.Action {
			if !may(documents, action) {
				t.Errorf("%s: administrators may not %s", id, action)
			}
			if may(cut(t, documents, i, 0, func(s *policy.Statement) { s.Action = slices.Delete(s.Action, n, n+1) }), action) {
				t.Errorf("%s: administrators may %s without being allowed to", id, action)
			}
		}
		for _, action := range []string{"kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:CreateGrant", "kms:ScheduleKeyDeletion", "kms:DisableKey"} {
			if may(documents, action) {
				t.Errorf("%s: administrators may %s", id, action)
			}
		}
		if got := slices.Contains(statement.Action, "kms:ReplicateKey"); got != (id == mrk) {
			t.Errorf("%s: administrators may replicate: %t", id, got)
		}
	}
}

// allows says whether a key's policy lets a principal act whose own policy lets
// it do everything.
func allows(t *testing.T, text, principal, action, key string) bool {
	t.Helper()
	of, err := iam.Parse(iam.Resource, text)
	if err != nil {
		t.Fatal(err)
	}
	own, err := iam.Parse(iam.Identity, everything)
	if err != nil {
		t.Fatal(err)
	}
	return iam.Refusal(iam.Request{Principal: principal, Action: action, Resource: key, ResourceAccount: iam.AccountOf(key)},
		iam.Policies{Identity: []*iam.Policy{own}, Resource: of}) == ""
}

func TestRefusals(t *testing.T) {
	sc := stage(t, setups()[0])
	for principal, want := range map[string]string{
		nodeSession:                            "is a session: name its role",
		"arn:aws:iam::111122223333:root":       "is no ARN of a role or user",
		"arn:aws:iam::111122223333:role/*":     "is no ARN of a role or user",
		"arn:aws:iam::111122223333:role/":      "is no ARN of a role or user",
		"control-plane":                        "is no ARN of a role or user",
		"arn:aws:iam::1111:role/control-plane": "is no ARN of a role or user",
	} {
		_, err := policy.Documents(policy.Options{Config: sc.config(t), Principal: principal})
		if err == nil || !strings.Contains(err.Error(), "--principal: "+want) {
			t.Errorf("principal %s: %v, want %q", principal, err, want)
		}
	}
	cfg := *sc.config(t)
	cfg.Providers[0].Keys[0].EncryptionContext = map[string]string{"Cluster": "a", "cluster": "b"}
	if _, err := policy.Documents(policy.Options{Config: &cfg}); err == nil || !strings.Contains(err.Error(), `no condition can tell "Cluster" and "cluster"`) {
		t.Errorf("names that differ by case: %v", err)
	}
}

// TestRegionSaysThePartition, where nothing else does.
func TestRegionSaysThePartition(t *testing.T) {
	for region, want := range map[string]string{
		"us-west-2": "arn:aws:kms:us-west-2:*:key/" + keyA, "cn-north-1": "arn:aws-cn:kms:cn-north-1:*:key/" + keyA,
		"us-gov-west-1": "arn:aws-us-gov:kms:us-gov-west-1:*:key/" + keyA, "": "arn:aws:kms:*:*:key/" + keyA,
		"us-iso-east-1": "arn:aws-iso:kms:us-iso-east-1:*:key/" + keyA, "us-isob-east-1": "arn:aws-iso-b:kms:us-isob-east-1:*:key/" + keyA,
		"eu-isoe-west-1": "arn:aws-iso-e:kms:eu-isoe-west-1:*:key/" + keyA, "us-isof-south-1": "arn:aws-iso-f:kms:us-isof-south-1:*:key/" + keyA,
		"eusc-de-east-1": "arn:aws-eusc:kms:eusc-de-east-1:*:key/" + keyA,
	} {
		all, err := policy.Documents(policy.Options{Config: &config.Config{Providers: []config.Provider{{Keys: []config.Key{{Key: keyA, Region: region}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := all[0].Policy.Statement[0].Resource[0]; got != want {
			t.Errorf("Region %q: resource %s, want %s", region, got, want)
		}
	}
}

// keysOf is a configuration with a provider for each list of keys.
func keysOf(providers ...[]config.Key) *config.Config {
	cfg := &config.Config{}
	for i, keys := range providers {
		cfg.Providers = append(cfg.Providers, config.Provider{Name: fmt.Sprint(i), Keys: keys})
	}
	return cfg
}

// TestNamesSayWhoseTheyAre where two roles or keys have one name: nothing else in
// a file does.
func TestNamesSayWhoseTheyAre(t *testing.T) {
	var keys []config.Key
	for _, account := range []string{"111122223333", "444455556666"} {
		keys = append(keys, config.Key{Key: "arn:aws:kms:us-west-2:" + account + ":alias/cluster", AssumeRoleARN: "arn:aws:iam::" + account + ":role/etcd-1"})
	}
	keys = append(keys, config.Key{Key: "alias/a/b", Region: "us-west-2"}, config.Key{Key: "alias/a-b", Region: "us-west-2"})
	all, err := policy.Documents(policy.Options{Config: keysOf(keys), Principal: nodeRole})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	if want := []string{
		"identity-policy", "identity-policy-etcd-1", "identity-policy-etcd-1-444455556666",
		"trust-policy-etcd-1", "trust-policy-etcd-1-444455556666",
		"key-policy-us-west-2-cluster", "key-policy-us-west-2-cluster-444455556666", "key-policy-us-west-2-a-b", "key-policy-us-west-2-a-b-111122223333",
		"kms-endpoint-policy", "sts-endpoint-policy",
	}; !slices.Equal(names, want) {
		t.Errorf("names are %q, want %q", names, want)
	}
}

// TestPartitionsAreNotMixed: no principal of one uses a key or role of another.
func TestPartitionsAreNotMixed(t *testing.T) {
	china := "arn:aws-cn:kms:cn-north-1:111122223333:key/" + keyA
	for name, keys := range map[string][]config.Key{
		"key":         {{Key: china}},
		"role to key": {{Key: china, AssumeRoleARN: kmsRole}},
		"role":        {{Key: china, AssumeRoleARN: strings.Replace(kmsRole, "aws", "aws-cn", 1)}},
	} {
		if _, err := policy.Documents(policy.Options{Config: keysOf(keys), Principal: nodeRole}); err == nil || !strings.Contains(err.Error(), "AWS lets none into the other") {
			t.Errorf("%s of another partition: %v", name, err)
		}
	}
}

// TestBothOrdersOfKeysAreAllowedTogether, as a rotation needs it: nodes change the
// order one after the other.
func TestBothOrdersOfKeysAreAllowedTogether(t *testing.T) {
	one, two := config.Key{Key: arnOf(keyA)}, config.Key{Key: arnOf(keyB)}
	all, err := policy.Documents(policy.Options{Config: keysOf([]config.Key{one, two}, []config.Key{two, one}), Principal: nodeRole})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Kind != policy.Identity && d.Kind != policy.Key {
			continue
		}
		last := d.Policy.Statement[len(d.Policy.Statement)-1]
		if !slices.Equal(last.Action, policy.Texts{"kms:Encrypt", "kms:Decrypt"}) || d.Kind == policy.Identity && (len(d.Policy.Statement) > 1 || len(last.Resource) != 2) {
			t.Errorf("%s: %+v", d.Name, d.Policy.Statement)
		}
	}
}

func TestNotesTellWhatAWSWouldNotSay(t *testing.T) {
	documents := func(keys ...config.Key) []policy.Document {
		all, err := policy.Documents(policy.Options{Principal: nodeRole, Config: &config.Config{Providers: []config.Provider{{Keys: keys}}}})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if notes := policy.Notes(documents(config.Key{Key: arnOf(keyA)}, config.Key{Key: arnOf(keyB)})); len(notes) > 0 {
		t.Errorf("two keys: %q", notes)
	}
	notes := policy.Notes(documents(config.Key{Key: "alias/cluster", Region: "us-west-2"}, config.Key{Key: arnOf(keyA)}))
	if len(notes) != 1 || !strings.Contains(notes[0], "alias/cluster") || !strings.Contains(notes[0], arnOf(keyA)) || !strings.Contains(notes[0], "one policy") {
		t.Errorf("an alias and a key: %q", notes)
	}
	if notes := policy.Notes(documents(config.Key{Key: "alias/cluster", Region: "us-west-2"}, config.Key{Key: "alias/other", Region: "us-west-2"})); len(notes) != 1 {
		t.Errorf("two aliases: %q", notes)
	}
	long := map[string]string{}
	for i := range 150 {
		long[fmt.Sprintf("a-name-of-some-length-%d", i)] = "value"
	}
	notes = policy.Notes(documents(config.Key{Key: arnOf(keyA), EncryptionContext: long}))
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "identity-policy has ") {
		t.Errorf("150 pairs: %q", notes)
	}
}
