package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/cli"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify/verifytest"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon/daemontest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// A vault is an emulated KMS and an etcd whose objects are under its keys.
type vault struct {
	*kmstest.Server

	t     *testing.T
	etcd  *etcdtest.Etcd
	conns *awskms.Connections
	ahead *atomic.Int64 // of the emulator's clock, in days
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, ahead: &atomic.Int64{}, conns: awskms.NewConnections()}
	t.Cleanup(v.conns.Close)
	v.Server = kmstest.Start(t, kmsemulator.Options{Clock: func() time.Time { return time.Now().AddDate(0, 0, int(v.ahead.Load())) }})
	v.SetEnv(t)
	v.etcd = etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	return v
}

func (v *vault) key() string {
	v.t.Helper()
	arn, err := v.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	return arn
}

// wrap has KMS wrap a fresh seed.
func (v *vault) wrap(endpoint, key string, context map[string]string) (blob, seed []byte) {
	v.t.Helper()
	seed = verifytest.Random(32)
	client := awskms.New(awskms.Options{Connections: v.conns, Timeout: time.Minute, Region: kmstest.Region, Endpoint: endpoint, EncryptionContext: context})
	defer client.Close()
	sealed, err := client.Encrypt(v.t.Context(), awskms.Call{}, key, seed)
	if err != nil {
		v.t.Fatal(err)
	}
	return sealed.Blob, seed
}

func secretPath(name string) string { return "/registry/secrets/default/" + name }

// v2 writes objects under one seed, each after an older revision that nobody can open.
func (v *vault) v2(key, keyID string, names ...string) {
	v.t.Helper()
	blob, seed := v.wrap(v.URL, key, nil)
	for _, name := range names {
		v.etcd.Put(secretPath(name), string(verifytest.V2(secretPath(name), "aws", "arn:aws:kms:us-west-2:111122223333:key/00000000-0000-0000-0000-000000000000", []byte("1gone"), seed, nil)))
		v.etcd.Put(secretPath(name), string(verifytest.V2(secretPath(name), "aws", keyID, append([]byte("1"), blob...), seed, nil)))
	}
}

// v1 writes an object of KMS v1, whose DEK is wrapped as this program does or, bare, as
// the predecessor's first releases did.
func (v *vault) v1(endpoint, key, name string, bare bool) {
	v.t.Helper()
	blob, dek := v.wrap(endpoint, key, nil)
	if !bare {
		blob = append([]byte("1"), blob...)
	}
	v.etcd.Put(secretPath(name), string(verifytest.V1(secretPath(name), "old", blob, dek)))
}

func (v *vault) snapshot() string {
	v.t.Helper()
	file := filepath.Join(v.t.TempDir(), "backup.db")
	v.etcd.Snapshot(file)
	return file
}

func (v *vault) write(name, text string) string {
	v.t.Helper()
	file := filepath.Join(v.t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return file
}

// proves runs verify, and demands its exit code and words.
func (v *vault) proves(code int, words []string, args ...string) string {
	v.t.Helper()
	got, out, errs := command(v.t, append([]string{"verify", "--rate", "100000"}, args...)...)
	if got != code {
		v.t.Errorf("%s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, errs)
	}
	for _, w := range words {
		if !strings.Contains(out+errs, w) {
			v.t.Errorf("%s: no %q in\n%s%s", strings.Join(args, " "), w, out, errs)
		}
	}
	for _, secret := range []string{verifytest.Planted, "f:value"} {
		if strings.Contains(out+errs, secret) {
			v.t.Errorf("%s: it prints %s", args, secret)
		}
	}
	return out
}

// report runs verify, which has to say no, for what it prints as JSON.
func (v *vault) report(args ...string) *verify.Report {
	v.t.Helper()
	var r verify.Report
	if err := json.Unmarshal([]byte(v.proves(cli.Found, nil, append(args, "-o", "json")...)), &r); err != nil {
		v.t.Fatal(err)
	}
	return &r
}

func keyOf(t *testing.T, r *verify.Report, arn string) verify.KeyReport {
	t.Helper()
	for _, k := range r.Keys {
		if k.Key == arn {
			return k
		}
	}
	t.Fatalf("no %s in %+v", arn, r.Keys)
	return verify.KeyReport{}
}

// A backup under keys in every state: each is named with what hangs on it, by the
// plugin's own configuration, by --key, and through a plugin that runs.
func TestVerifyNamesEachKeyAndWhatHangsOnIt(t *testing.T) {
	v := newVault(t)
	good, disabled, leaving, deleted := v.key(), v.key(), v.key(), v.key()
	const denying = "arn:aws:kms:us-west-2:999988887777:key/dddddddd-12ab-34cd-56ef-1234567890ab"
	v.v2(good, good+"?material=1", "g1", "g2")
	v.v1(v.URL, good, "g3", false)
	v.v1(v.URL, good, "g4", true)
	fine := v.snapshot()
	v.v2(disabled, disabled+"?material=1", "d1")
	v.v1(v.URL, disabled, "d2", true)
	v.v2(leaving, leaving+"?material=1", "l1", "l2")
	v.v1(v.URL, leaving, "l3", false)
	v.v2(deleted, deleted+"?material=1", "x1")
	v.v2(good, denying+"?material=1", "y1") // the blob does not matter
	for _, err := range []error{v.DisableKey(disabled), v.ScheduleKeyDeletion(deleted, 7)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	v.ahead.Store(8)
	if err := v.ScheduleKeyDeletion(leaving, 7); err != nil {
		t.Fatal(err)
	}
	v.ahead.Store(0) // else it takes no signature of now
	day := time.Now().AddDate(0, 0, 8+7).UTC().Format(time.DateOnly)
	backup := v.snapshot()

	all := []string{good, disabled, leaving, deleted, denying}
	file := "apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\nproviders:\n- name: aws\n  listen: /run/a.sock\n  keys:\n"
	var flags []string
	for _, key := range all {
		file += "  - key: " + key + "\n"
		flags = append(flags, "--key", key)
	}
	plugin := v.write("plugin.yaml", file)
	for name, by := range map[string][]string{"--config": {"--config", plugin}, "--key": flags} {
		t.Run(name, func(t *testing.T) {
			v := *v
			v.t = t
			v.proves(cli.Done, []string{"verdict: yes: 4 encrypted objects under 3 DEKs and seeds, which all open"}, append(by, "--snapshot", fine)...)
			v.proves(cli.Done, []string{"verdict: yes: 4 encrypted objects under 3 DEKs and seeds, all opened"}, append(by, "--snapshot", fine, "--open")...)
			out := v.proves(cli.Found, []string{
				"verdict: no: 7 of 11 encrypted objects", "pending deletion on " + day, "disabled", "KMS0101", "KMS0102", "KMS0103", "KMS0104",
			}, append(by, "--snapshot", backup, "--open")...)
			r := v.report(append(by, "--snapshot", backup)...)
			for _, want := range []struct {
				key     string
				state   verify.State
				objects int64
				open    int64
			}{
				{good, verify.Enabled, 4, 3},
				{disabled, verify.Disabled, 2, 0},
				{leaving, verify.PendingDeletion, 3, 0},
				{deleted, verify.NotFound, 1, 0},
				{denying, verify.Denied, 1, 0},
			} {
				if k := keyOf(t, r, want.key); k.State != want.state || k.Objects != want.objects || k.Open != want.open {
					t.Errorf("%+v, want %+v\n%s", k, want, out)
				}
			}
			if k := keyOf(t, r, leaving); !strings.HasPrefix(k.Deletion, day) {
				t.Errorf("%+v, want its deletion on %s", k, day)
			}
		})
	}
	t.Run("--socket", func(t *testing.T) {
		v := *v
		v.t = t
		socket := filepath.Join(daemontest.Directory(t), "s")
		args := []string{"--key=" + good, "--listen=" + socket, "--health-port=127.0.0.1:0"}
		for _, key := range all[1:] {
			args = append(args, "--decrypt-key="+key)
		}
		daemontest.Start(t, daemontest.Config(t, args...))
		until(t, func() bool { _, err := os.Stat(socket); return err == nil })
		v.proves(cli.Done, []string{"verdict: yes: 4 encrypted objects", "by the running plugin at " + socket}, "--socket", socket, "--snapshot", fine, "--open")
		r := v.report("--socket", socket, "--snapshot", backup)
		for key, want := range map[string]verify.State{good: verify.Unknown, disabled: verify.Disabled, leaving: verify.PendingDeletion, deleted: verify.NotFound, denying: verify.Denied} {
			if k := keyOf(t, r, key); k.State != want {
				t.Errorf("%+v, want %s", k, want)
			}
		}
		enc := v.write("enc.yaml", fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - kms: {apiVersion: v2, name: aws, endpoint: \"unix://%s\"}\n  - kms: {apiVersion: v1, name: old, endpoint: \"unix://%s\"}\n", socket, socket))
		v.proves(cli.Done, []string{"by the running plugin at " + socket}, "--snapshot", fine, "--encryption-config", enc)
		v.proves(cli.Failed, []string{"no process serves"}, "--socket", v.dead(), "--snapshot", fine)
		v.proves(cli.Failed, []string{"is not there"}, "--socket", socket+"x", "--snapshot", fine)
	})
	t.Run("live", func(t *testing.T) {
		v := *v
		v.t = t
		v.proves(cli.Found, []string{"true of one revision", "older revisions: not read"}, append(flags, "--endpoints", v.etcd.URL)...)
	})
	t.Run("DescribeKey is denied", func(t *testing.T) {
		v := *v
		v.t = t
		only := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]}`
		if err := v.Enforce(kmsemulator.Policies{Identity: map[string][]string{v.Credential.Principal: {only}}}); err != nil {
			t.Fatal(err)
		}
		v.proves(cli.Done, []string{"opens; its state is not known; kms:DescribeKey is denied"}, "--key", good, "--snapshot", fine)
		r := v.report(append(flags, "--snapshot", backup)...)
		for key, want := range map[string]verify.State{good: verify.Unknown, disabled: verify.Disabled, leaving: verify.PendingDeletion} {
			if k := keyOf(t, r, key); k.State != want {
				t.Errorf("%+v, want %s", k, want)
			}
		}
	})
}

// until waits for up to a minute.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain")
		}
	}
}

// dead is a socket that no process serves.
func (v *vault) dead() string {
	v.t.Helper()
	path := filepath.Join(daemontest.Directory(v.t), "s")
	l, err := (&net.ListenConfig{}).Listen(v.t.Context(), "unix", path)
	if err != nil {
		v.t.Fatal(err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		v.t.Fatal("no unix listener")
	}
	u.SetUnlinkOnClose(false)
	_ = u.Close()
	return path
}

// A configuration that lacks a key opens nothing by it, and says which one it is: v1's
// bytes name none, and KMS does.
func TestVerifyNamesAKeyThatTheConfigurationLacks(t *testing.T) {
	v := newVault(t)
	given, other := v.key(), v.key()
	v.v2(given, given+"?material=1", "a1")
	v.v2(other, other+"?material=1", "b1")
	v.v1(v.URL, other, "b2", false)
	v.v1(v.URL, other, "b3", true)
	v.v2(other, given+"?material=1", "lie") // its key_id does not name the key that made it
	backup := v.snapshot()
	r := v.report("--key", given, "--snapshot", backup, "--open")
	if k := keyOf(t, r, other); k.State != verify.NotListed || k.Given || k.Objects != 4 || k.Open != 0 {
		t.Errorf("%+v", k)
	}
	if k := keyOf(t, r, given); k.State != verify.Enabled || k.Objects != 1 || k.Open != 1 {
		t.Errorf("%+v", k)
	}
	v.proves(cli.Found, []string{"4 of 5 encrypted objects", "(not listed)", "KMS says that " + other + " made it"}, "--key", given, "--snapshot", backup)
	v.proves(cli.Done, nil, "--key", given, "--decrypt-key", other, "--snapshot", backup, "--open")
	// Which key v1 is under is known now.
	resources := []string{"--resources", "secrets", "--snapshot", backup}
	v.proves(cli.Found, []string{"--expect-unused: no: 4 of 5 objects"}, append(resources, "--key", given, "--key", other, "--expect-unused", other)...)
	v.etcd.Delete(secretPath("b1"))
	v.etcd.Delete(secretPath("lie"))
	v.etcd.Delete(secretPath("a1"))
	v.etcd.Compact(v.etcd.Put("compact_rev_key", "1"))
	resources[3] = v.snapshot()
	v.proves(cli.Done, []string{"--expect-unused: yes"}, append(resources, "--key", other, "--expect-unused", given)...)
	v.proves(cli.Done, []string{"--expect-only: yes"}, append(resources, "--key", other, "--expect-only", other)...)
	v.proves(cli.Found, []string{"--expect-unused: no: 2 of 2 objects"}, append(resources, "--key", other, "--expect-unused", other)...)
}

// A DEK that a key of another account made is foreign, and that key opens nothing.
func TestVerifyNamesAForeignAccount(t *testing.T) {
	v := newVault(t)
	key := v.key()
	there := kmstest.Credential()
	there.Principal = "arn:aws:iam::444455556666:user/tester"
	abroad := kmstest.Start(t, kmsemulator.Options{Account: "444455556666", Credentials: []kmsemulator.Credential{there}})
	foreign, err := abroad.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v.v1(v.URL, key, "own", false)
	v.v1(abroad.URL, foreign, "f1", false)
	v.v1(abroad.URL, foreign, "f2", true)
	front := bothAccounts(t, v.URL, abroad.URL)
	r := v.report("--key", key, "--kms-endpoint", front, "--snapshot", v.snapshot(), "--open")
	if k := keyOf(t, r, foreign); k.State != verify.Foreign || k.Objects != 2 || k.Open != 0 {
		t.Errorf("%+v", k)
	}
	if k := keyOf(t, r, key); k.Objects != 1 || k.Open != 1 {
		t.Errorf("%+v", k)
	}
}

// bothAccounts is a KMS that has the keys of two accounts, as AWS has.
func bothAccounts(t *testing.T, first, second string) string {
	t.Helper()
	ask := func(r *http.Request, url string, body []byte) (status int, header http.Header, answer []byte) {
		again, err := http.NewRequestWithContext(r.Context(), http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return http.StatusBadGateway, nil, nil
		}
		again.Header, again.Host = r.Header.Clone(), r.Host
		resp, err := http.DefaultClient.Do(again)
		if err != nil {
			if r.Context().Err() == nil { // else who asked has left
				t.Error(err)
			}
			return http.StatusBadGateway, nil, nil
		}
		defer resp.Body.Close()
		answer, _ = io.ReadAll(resp.Body)
		return resp.StatusCode, resp.Header, answer
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		status, header, answer := ask(r, first, body)
		if !bytes.Contains(body, []byte("KeyId")) && status != http.StatusOK {
			status, header, answer = ask(r, second, body)
		}
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}))
	t.Cleanup(s.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s.URL
}

// A KMS that looks at a key's state before it looks at the blob does not make a value of
// v1 one of that key: who made it is asked.
func TestVerifyCountsV1UnderNoKeyThatDidNotMakeIt(t *testing.T) {
	v := newVault(t)
	given, down, other := v.key(), v.key(), v.key()
	v.v1(v.URL, given, "a", false)
	v.v1(v.URL, other, "b", true)
	backup := v.snapshot()
	v.Inject(kmsemulator.Fault{Operation: "Decrypt", Key: down, Kind: kmsemulator.Error, Code: "DisabledException", Message: down + " is disabled."})
	r := v.report("--key", given, "--key", down, "--snapshot", backup)
	if k := keyOf(t, r, other); k.Objects != 1 || k.State != verify.NotListed {
		t.Errorf("%+v", k)
	}
	if k := keyOf(t, r, down); k.Objects != 0 {
		t.Errorf("%+v", k)
	}
}

// An encryption context is part of what is wrapped: another one opens nothing.
func TestVerifyCallsKeysWithTheirContext(t *testing.T) {
	v := newVault(t)
	key := v.key()
	blob, seed := v.wrap(v.URL, key, map[string]string{"cluster": "prod"})
	v.etcd.Put(secretPath("a"), string(verifytest.V2(secretPath("a"), "aws", key, append([]byte("1"), blob...), seed, nil)))
	backup := v.snapshot()
	v.proves(cli.Done, nil, "--key", key, "--encryption-context", "cluster=prod", "--snapshot", backup, "--open")
	v.proves(cli.Found, []string{"KMS0404"}, "--key", key, "--snapshot", backup)
	v.proves(cli.Usage, []string{"2 contexts and 1 keys"}, "--key", key, "--encryption-context", "a=b", "--encryption-context", "c=d", "--snapshot", backup)
}

// KMS is called no faster than --rate, and a KMS that is gone makes nothing lost.
func TestVerifyAndAKMSThatIsSlowOrGone(t *testing.T) {
	v := newVault(t)
	key := v.key()
	for i := range 6 {
		v.v1(v.URL, key, fmt.Sprint(i), false)
	}
	backup := v.snapshot()
	began := time.Now()
	if code, out, errs := command(t, "verify", "--rate", "5", "--key", key, "--snapshot", backup); code != cli.Done {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	if took := time.Since(began); took < 6*200*time.Millisecond { // 7 calls, of which the first waits for nothing
		t.Errorf("7 calls in %s, at most 5 in a second", took)
	}
	for i := range 5 {
		v.etcd.Delete(secretPath(fmt.Sprint(i)))
	}
	one := v.snapshot()
	v.Inject(kmsemulator.Fault{Operation: "Decrypt", Kind: kmsemulator.Throttle, Count: 3})
	v.proves(cli.Done, nil, "--key", key, "--snapshot", one)
	v.StopServing()
	v.proves(cli.Failed, []string{"verdict: not known", "KMS0204", "unreachable"}, "--key", key, "--snapshot", one)
}

// Ctrl-C ends a verify that waits for KMS, and leaves no half a verdict.
func TestCtrlCEndsAVerifyThatWaitsForKMS(t *testing.T) {
	v := newVault(t)
	key := v.key()
	v.v2(key, key, "a")
	backup := v.snapshot()
	v.Inject(kmsemulator.Fault{Operation: "Decrypt", Kind: kmsemulator.Hang})
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out, errs strings.Builder
	ended, before := make(chan int), v.Calls("Decrypt")
	go func() {
		ended <- cli.Main(ctx, []string{"kubectl-kms", "verify", "--key", key, "--snapshot", backup}, cli.Streams{
			Out: &out, Err: &errs, LookupEnv: func(string) (string, bool) { return "", false }, Stores: stores(),
		})
	}()
	until(t, func() bool { return v.Calls("Decrypt") > before })
	interrupt()
	code := <-ended
	if code != cli.Failed || out.String() != "" || errs.String() != "kubectl kms: interrupted: 2 keys had been read, and 0 DEKs and seeds asked for; nothing was changed; there is no verdict on a part: run it again\n" {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errs.String())
	}
}
