package etcd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcdtest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/roottest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// attempt reads whatever the options lead to.
func attempt(t *testing.T, o Options) (store.Reading, error) {
	t.Helper()
	r, err := New(o)
	if err != nil {
		return store.Reading{}, err
	}
	return r.Read(t.Context(), []string{"/registry"}, func(store.KeyValue) error { return nil })
}

// TestCertificates: what is right, and what each mistake is called.
func TestCertificates(t *testing.T) {
	ours, theirs := etcdtest.NewAuthority(t, "ours"), etcdtest.NewAuthority(t, "theirs")
	e := etcdtest.Start(t, etcdtest.V37, ours.Options(ours.Sign("server", time.Hour, "127.0.0.1")))
	wrongHost := etcdtest.Start(t, etcdtest.V37, ours.Options(ours.Sign("elsewhere", time.Hour, "etcd.example")))
	expired := etcdtest.Start(t, etcdtest.V37, ours.Options(ours.Sign("expired", -time.Minute, "127.0.0.1")))
	plain := etcdtest.Start(t, etcdtest.V37, cluster.EtcdOptions{})
	e.Put("/registry/a", "a")

	client, stranger, old := ours.Sign("client", time.Hour), theirs.Sign("stranger", time.Hour), ours.Sign("old", -time.Minute)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := Options{Endpoints: []string{e.URL}, CACert: ours.Cert, Cert: client.Cert, Key: client.Key}
	with := func(change func(*Options)) Options {
		o := good
		change(&o)
		return o
	}

	for name, o := range map[string]Options{
		"all files":              good,
		"no scheme":              with(func(o *Options) { o.Endpoints = []string{strings.TrimPrefix(e.URL, "https://")} }),
		"the name is given":      with(func(o *Options) { o.Endpoints, o.ServerName = []string{wrongHost.URL}, "etcd.example" }),
		"plain HTTP with files":  with(func(o *Options) { o.Endpoints = []string{plain.URL} }),
		"a slash at the end":     with(func(o *Options) { o.Endpoints = []string{e.URL + "/"} }),
		"the second one answers": with(func(o *Options) { o.Endpoints = []string{expired.URL, e.URL} }),
	} {
		t.Run(name, func(t *testing.T) {
			if reading, err := attempt(t, o); err != nil || len(reading.Caveats) != 0 {
				t.Errorf("%+v, %v", reading, err)
			}
		})
	}

	t.Run("skipping the check is a caveat", func(t *testing.T) {
		reading, err := attempt(t, with(func(o *Options) { o.CACert, o.InsecureSkipVerify = theirs.Cert, true }))
		if err != nil || len(reading.Caveats) != 1 || !strings.Contains(reading.Caveats[0], "was not checked") {
			t.Errorf("%+v, %v", reading, err)
		}
	})

	for _, c := range []struct {
		name   string
		change func(*Options)
		words  []string
	}{
		{
			"another authority", func(o *Options) { o.CACert = theirs.Cert },
			[]string{e.URL, "not signed by the authority in " + theirs.Cert, "--cacert", "/etc/kubernetes/pki/etcd/ca.crt"},
		},
		{"no authority", func(o *Options) { o.CACert = "" }, []string{"this machine does not trust", "--cacert"}},
		{"no client certificate", func(o *Options) { o.Cert, o.Key = "", "" }, []string{"asks for a client certificate", "--cert and --key"}},
		{
			"a client of another authority", func(o *Options) { o.Cert, o.Key = stranger.Cert, stranger.Key },
			[]string{"does not accept the certificate in " + stranger.Cert, "apiserver-etcd-client.crt"},
		},
		{"an expired client certificate", func(o *Options) { o.Cert, o.Key = old.Cert, old.Key }, []string{old.Cert, "expired on 20", "kubeadm certs renew"}},
		{"a key of another certificate", func(o *Options) { o.Key = stranger.Key }, []string{client.Cert, "do not go together"}},
		{"a certificate without key", func(o *Options) { o.Key = "" }, []string{"--cert and --key belong together"}},
		{"a missing certificate", func(o *Options) { o.Cert += ".gone" }, []string{".gone", "--cert cannot be read: no such file", "control-plane node"}},
		{"a missing authority", func(o *Options) { o.CACert += ".gone" }, []string{".gone", "--cacert cannot be read: no such file"}},
		{"a directory", func(o *Options) { o.CACert = filepath.Dir(text) }, []string{"--cacert cannot be read: is a directory"}},
		{"an authority that is text", func(o *Options) { o.CACert = text }, []string{text, "no certificate in PEM form"}},
		{"a certificate that is text", func(o *Options) { o.Cert = text }, []string{text, "do not go together"}},
		{
			"http to TLS", func(o *Options) { o.Endpoints = []string{strings.Replace(e.URL, "https", "http", 1)} },
			[]string{"http://", "the server speaks TLS", "Begin the endpoint with https://"},
		},
		{
			"https to plain HTTP", func(o *Options) { o.Endpoints = []string{strings.Replace(plain.URL, "http", "https", 1)} },
			[]string{"does not speak TLS", "http://"},
		},
		{"another host", func(o *Options) { o.Endpoints = []string{wrongHost.URL} }, []string{"not for 127.0.0.1, but for etcd.example"}},
		{"an expired server", func(o *Options) { o.Endpoints = []string{expired.URL} }, []string{"its certificate is valid from", "this machine's clock says", "certs renew etcd-server"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			_, err := attempt(t, with(c.change))
			want(t, err, c.words...)
			if took := time.Since(start); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestServersThatAreNoEtcd: the address of something else.
func TestServersThatAreNoEtcd(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	tlsWeb := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tlsWeb.Close)
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	closing := listen(t, func(c net.Conn) { _ = c.Close() })
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"a web server", Options{Endpoints: []string{web.URL}}, "the server does not speak gRPC"},
		{"a web server with TLS", Options{Endpoints: []string{tlsWeb.URL}, InsecureSkipVerify: true}, "the server does not speak gRPC"},
		{"one that says nothing", Options{Endpoints: []string{"http://" + silent}}, "does not answer as etcd does"},
		{"one that says nothing to TLS", Options{Endpoints: []string{"https://" + silent}}, "no TLS handshake within 5s"},
		{"one that closes", Options{Endpoints: []string{"http://" + closing}}, "does not answer as etcd does"},
		{"one that closes TLS", Options{Endpoints: []string{"https://" + closing}}, "the TLS handshake failed"},
		{"nothing", Options{Endpoints: []string{"http://127.0.0.1:1"}}, "nothing listens there (connection refused). Is etcd running"},
		{"no such host", Options{Endpoints: []string{"http://etcd.invalid:2379"}}, "the name etcd.invalid is not found"},
		{"no such socket", Options{Endpoints: []string{"unix:///nowhere/etcd.sock"}}, "cannot connect"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := attempt(t, c.o)
			want(t, err, c.o.Endpoints[0], c.want)
		})
	}
}

// listen serves each connection by serve until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				serve(c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// TestUsersOfEtcd: a role that may read one prefix is enough, and does not see what
// else there is.
func TestUsersOfEtcd(t *testing.T) {
	for _, v := range etcdtest.Versions() {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			e := etcdtest.Start(t, v, cluster.EtcdOptions{})
			e.Put("/registry/a", "a")
			e.Put("/openshift.io/a", "a")
			addUsers(t, e.Client())
			o := Options{Endpoints: []string{e.URL}, User: "reader", Password: secret.Bytes("right")}
			reading, err := attempt(t, o)
			if err != nil || reading.Keys != 1 || len(reading.Unread) != 1 || reading.Unread[0] != store.UnreadUnknown {
				t.Errorf("%+v, %v", reading, err)
			}
			r, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Read(t.Context(), []string{"/openshift.io"}, func(store.KeyValue) error { return nil })
			want(t, err, "etcd does not let user reader read this", "grant-permission")
			_, err = attempt(t, Options{Endpoints: []string{e.URL}})
			want(t, err, "etcd has users of its own and was told none", "ETCDCTL_USER")
			o.Password = secret.Bytes("Wr0ng")
			o.Endpoints = append(o.Endpoints, e.URL)
			_, err = attempt(t, o)
			want(t, err, "does not know user reader with this password")
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, o, o), "Wr0ng") {
				t.Errorf("the password is shown: %v", err)
			}
			if strings.Count(err.Error(), "does not know") != 1 {
				t.Errorf("each member was asked: %v", err)
			}
		})
	}
}

func addUsers(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for what, do := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "audit"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "audit", "/registry/", "/registry0", clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "reader", "right"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "reader", "audit"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatalf("step %d: %v", what, err)
		}
	}
}

// otherUser makes the test binary print what New says of the files.
const otherUser = "ETCD_TEST_OTHER_USER"

// TestFilesOfRootAreNamed: kubeadm's certificates are root's. It needs root to become
// somebody else.
func TestFilesOfRootAreNamed(t *testing.T) {
	if path := os.Getenv(otherUser); path != "" {
		_, err := New(Options{Endpoints: []string{"127.0.0.1:1"}, CACert: path})
		fmt.Println(err) //nolint:forbidigo // to the test that runs this one
		return
	}
	roottest.Needs(t, "it acts as another user")
	dir, err := os.MkdirTemp("", "root-") // others may enter it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path, binary := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "test")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestFilesOfRootAreNamed$")
	cmd.Env = []string{otherUser + "=" + path}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, words := range []string{path + ": the file of --cacert cannot be read: permission denied. Become root", "belong to root"} {
		if !strings.Contains(string(out), words) {
			t.Errorf("%s\ndoes not say %q", out, words)
		}
	}
}
