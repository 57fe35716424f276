package etcd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// TestFromEnvironment: the variables of etcdctl.
func TestFromEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want Options
	}{
		{"nothing", nil, Options{}},
		{"all", map[string]string{
			"ETCDCTL_ENDPOINTS": "https://a:2379,https://b:2379", "ETCDCTL_CACERT": "ca", "ETCDCTL_CERT": "cert", "ETCDCTL_KEY": "key",
			"ETCDCTL_USER": "user", "ETCDCTL_PASSWORD": "password", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "true",
		}, Options{
			Endpoints: []string{"https://a:2379", "https://b:2379"}, CACert: "ca", Cert: "cert", Key: "key",
			User: "user", Password: secret.Bytes("password"), InsecureSkipVerify: true,
		}},
		{"user and password in one", map[string]string{"ETCDCTL_USER": "user:pass:word"}, Options{User: "user", Password: secret.Bytes("pass:word")}},
		{"a colon in the user", map[string]string{"ETCDCTL_USER": "a:b", "ETCDCTL_PASSWORD": "p"}, Options{User: "a:b", Password: secret.Bytes("p")}},
		{"not skipped", map[string]string{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "0"}, Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := FromEnvironment(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(Options{}, "Progress")); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	_, err := FromEnvironment(func(name string) (string, bool) { return "perhaps", strings.HasSuffix(name, "VERIFY") })
	if err == nil || !strings.Contains(err.Error(), `ETCDCTL_INSECURE_SKIP_TLS_VERIFY is "perhaps": want true or false`) {
		t.Errorf("%v", err)
	}
}

// TestEndpoints: what etcdctl takes, and what nobody could connect to.
func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		text   string
		secure bool
		want   endpoint
		err    string
	}{
		{text: "https://10.0.0.1:2379", want: endpoint{"https://10.0.0.1:2379", "tcp", "10.0.0.1:2379", "10.0.0.1", true}},
		{text: "http://[::1]:2379/", want: endpoint{"http://[::1]:2379", "tcp", "[::1]:2379", "::1", false}},
		{text: " etcd:2379", want: endpoint{"http://etcd:2379", "tcp", "etcd:2379", "etcd", false}},
		{text: "etcd:2379", secure: true, want: endpoint{"https://etcd:2379", "tcp", "etcd:2379", "etcd", true}},
		{text: "unix:///run/etcd.sock", want: endpoint{"unix:///run/etcd.sock", "unix", "/run/etcd.sock", "etcd.sock", false}},
		{text: "unixs:///run/etcd.sock", want: endpoint{"unixs:///run/etcd.sock", "unix", "/run/etcd.sock", "etcd.sock", true}},
		{text: "https://10.0.0.1", err: "want a host and a port"},
		{text: "https://:2379", err: "want a host and a port"},
		{text: "https://a:2379/v3", err: "and no path"},
		{text: "", err: "want a host and a port"},
		{text: "ftp://a:2379", err: "begins with ftp: want https"},
		{text: "https://user:secret@a:2379", err: "has a user in it"},
		{text: "https://a:b:c", err: "is not an address"},
	} {
		got, err := parseEndpoint(c.text, c.secure)
		if c.err == "" && (err != nil || got != c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.text, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %v; want %q", c.text, err, c.err)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no endpoint is not an error")
	}
}
