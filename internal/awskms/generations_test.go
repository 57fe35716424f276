package awskms_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// eventually waits until a count is at most what is wanted.
func eventually(t *testing.T, what string, most int, count func() int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); count() > most; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s: %d, want at most %d", what, count(), most)
			return
		}
	}
}

// A process that reloads its configuration makes Clients and drops them, each
// time for other endpoints, Regions and roles.
func TestClientsComeAndGoAndLeaveNothing(t *testing.T) {
	s, key := start(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	other := kmstest.StartTLS(t)
	t.Setenv("AWS_CA_BUNDLE", other.CAFile)
	keys := map[string]string{}
	for _, region := range []string{"us-west-2", "eu-central-1"} {
		arn, err := other.CreateKey(region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		keys[region] = arn
	}
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	stays := newClient(t, awskms.Options{Connections: conns})
	mustSeal(t, stays, key)
	settled(t, s.Open)
	goroutines, open := runtime.NumGoroutine(), s.Open()

	cycle := func(i int) {
		role := fmt.Sprintf("arn:aws:iam::111122223333:role/r%d", i)
		region := []string{"us-west-2", "eu-central-1"}[i%2]
		clients := []*awskms.Client{
			newClient(t, awskms.Options{Connections: conns, AssumeRoleARN: role}), // of the endpoint that stays
			newClient(t, awskms.Options{Connections: conns, Endpoint: other.URL, Region: region}),
			newClient(t, awskms.Options{Connections: conns, Endpoint: strings.Replace(other.URL, "127.0.0.1", "localhost", 1), Region: region}),
			newClient(t, awskms.Options{Connections: conns, Endpoint: other.URL}), // never used
		}
		mustSeal(t, clients[0], key)
		mustSeal(t, clients[1], keys[region])
		mustSeal(t, clients[2], keys[region])
		mustSeal(t, stays, key)
		for _, c := range clients {
			c.Close()
		}
	}
	const cycles = 40
	before := s.Connections()
	for i := range cycles {
		cycle(i)
	}
	eventually(t, "connections to the endpoint that none uses", 0, other.Open)
	eventually(t, "connections to the endpoint that stays", open, s.Open)
	eventually(t, "goroutines", goroutines, runtime.NumGoroutine)
	if n := conns.Stats().Hosts; n != 1 {
		t.Errorf("%d hosts are remembered, want the one that stays", n)
	}
	if opened := s.Connections() - before; opened > open {
		t.Errorf("%d more connections to the endpoint that stays, want its Clients to share those there are", opened)
	}
	t.Logf("%d connections to the endpoint that came and went, in %d cycles", other.Connections(), cycles)
}

// The last calls of a generation may end after it was dropped.
func TestCallsOfAClosedClientWorkAndKeepNothing(t *testing.T) {
	s, key := startBeside(t)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	c := newClient(t, awskms.Options{Connections: conns, Endpoint: s.URL, Timeout: usualLimit})
	mustSeal(t, c, key)
	remove := s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang, Count: 1})
	underWay := make(chan error)
	hanging := s.Calls("Encrypt") + 1
	go func() {
		_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		underWay <- err
	}()
	eventually(t, "calls that are not there yet", 0, func() int { return hanging - s.Calls("Encrypt") })
	c.Close()
	c.Close() // once more does nothing
	remove()
	if err := <-underWay; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	mustSeal(t, c, key)
	eventually(t, "open connections", 0, s.Open)
}

func TestConnectionsOfOneHostAreThoseOfItsClients(t *testing.T) {
	s, key := start(t)
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	var clients []*awskms.Client
	for i := range 20 {
		c := newClient(t, awskms.Options{Connections: conns, EncryptionContext: map[string]string{"provider": fmt.Sprint(i)}})
		mustSeal(t, c, key)
		clients = append(clients, c)
	}
	settled(t, s.Open)
	if n := s.Connections(); n > 20 {
		t.Errorf("%d connections for 20 Clients that take turns, want about 17", n)
	}
	for _, c := range clients[1:] {
		c.Close()
	}
	if s.Open() == 0 {
		t.Error("the connections were closed, though one Client is left")
	}
	before := s.Connections()
	mustSeal(t, clients[0], key)
	if s.Connections() != before {
		t.Error("the Client that is left had to open a connection")
	}
	clients[0].Close()
	eventually(t, "open connections", 0, s.Open)
}

// way is how one key is reached and used.
type way struct {
	options awskms.Options
	server  *kmstest.Server
	key     string
}

// ways are keys that have nothing in common.
func ways(t *testing.T) map[string]way {
	t.Helper()
	roles := []kmsemulator.Role{
		{ARN: "arn:aws:iam::111122223333:role/one", ExternalID: "external-1"},
		{ARN: "arn:aws:iam::111122223333:role/two", ExternalID: "external-2"},
	}
	first := kmstest.Start(t, kmsemulator.Options{Roles: roles})
	first.SetEnv(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", first.STSURL(t))
	second := kmstest.Start(t)
	made := map[string]way{
		"plain":    {awskms.Options{}, first, ""},
		"context":  {awskms.Options{EncryptionContext: map[string]string{"cluster": "a"}}, first, ""},
		"region":   {awskms.Options{Region: "eu-central-1"}, first, ""},
		"endpoint": {awskms.Options{Endpoint: second.URL, Region: "us-east-1"}, second, ""},
		"role":     {awskms.Options{AssumeRoleARN: roles[0].ARN, ExternalID: "external-1"}, first, ""},
		"other role": {awskms.Options{
			AssumeRoleARN: roles[1].ARN, ExternalID: "external-2", Region: "ap-south-1",
			SourceARN: "arn:aws:eks:ap-south-1:444455556666:cluster/c", EncryptionContext: map[string]string{"cluster": "b"},
		}, first, ""},
	}
	for name, w := range made {
		region := w.options.Region
		if region == "" {
			region = kmstest.Region
		}
		key, err := w.server.CreateKey(region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.key = key
		made[name] = w
	}
	return made
}

func TestEachKeyIsCalledInItsOwnWay(t *testing.T) {
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	keys := ways(t)
	clients := map[string]*awskms.Client{}
	for name, w := range keys {
		w.options.Connections = conns
		clients[name] = newClient(t, w.options)
	}
	var calls sync.WaitGroup
	for name, w := range keys {
		for range 4 {
			calls.Go(func() {
				sealed, err := clients[name].Encrypt(t.Context(), awskms.Call{}, w.key, secret.Bytes("seed"))
				if err != nil || string(sealed.KeyARN) != w.key {
					t.Errorf("%s: sealed by %q, %v", name, sealed.KeyARN, err)
				}
				opened, err := clients[name].Decrypt(t.Context(), awskms.Call{}, w.key, sealed.Blob)
				if err != nil || string(opened.KeyARN) != w.key || !bytes.Equal(opened.Plaintext, []byte("seed")) {
					t.Errorf("%s: opened by %q, %v", name, opened.KeyARN, err)
				}
			})
		}
	}
	calls.Wait()
	for name, principal := range map[string]string{
		"plain": ":user/tester", "region": ":user/tester", "endpoint": ":user/tester",
		"role": ":assumed-role/one/", "other role": ":assumed-role/two/",
	} {
		w := keys[name]
		w.server.Deny(w.key, "Encrypt")
		_, err := clients[name].Encrypt(t.Context(), awskms.Call{}, w.key, secret.Bytes("seed"))
		if e := cause.Of(err); e.Code != cause.AccessDenied || !strings.Contains(e.Principal, principal) {
			t.Errorf("%s: called by %q, want one with %s", name, e.Principal, principal)
		}
		w.server.Allow(w.key, "Encrypt")
	}
	for name, w := range keys {
		for other := range keys {
			if other == name || keys[other].server == w.server && keys[other].options.EncryptionContext == nil && w.options.EncryptionContext == nil {
				continue
			}
			sealed := mustSeal(t, clients[name], w.key)
			if _, err := clients[other].Decrypt(t.Context(), awskms.Call{}, w.key, sealed.Blob); err == nil {
				t.Errorf("what %s sealed is opened by %s", name, other)
			}
		}
	}
}

// What one key's Client meets, the others do not hear of.
func TestFailuresOfOneClientAreItsOwn(t *testing.T) {
	s, key := start(t)
	broken, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conns := awskms.NewConnections()
	t.Cleanup(conns.Close)
	budget := awskms.RetryBudget{Tokens: 2, Flat: true}
	poor := newClient(t, awskms.Options{Connections: conns, Retry: budget})
	rich := newClient(t, awskms.Options{Connections: conns, Retry: budget})
	lost := newClient(t, awskms.Options{Connections: conns, AssumeRoleARN: "arn:aws:iam::999999999999:role/none"})
	remove := s.Inject(kmsemulator.Fault{Key: broken, Kind: kmsemulator.Internal})
	for range 5 {
		_, _ = poor.Encrypt(t.Context(), awskms.Call{}, broken, secret.Bytes("seed"))
		_, _ = lost.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	}
	remove()
	before := s.Calls("Encrypt")
	defer s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Internal, Count: 1})()
	mustSeal(t, rich, key)
	if calls := s.Calls("Encrypt") - before; calls != 2 {
		t.Errorf("%d attempts, want a retry from a budget of its own", calls)
	}
}
