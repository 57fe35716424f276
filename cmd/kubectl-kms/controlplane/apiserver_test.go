package controlplane

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kubeadm's manifest, as far as it matters.
const kubeadm = `apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=10.0.0.1
    - --allow-privileged=true
    - --encryption-provider-config=/etc/kubernetes/enc/config.yaml
    - --etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt
    - --etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt
    - --etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key
    - --etcd-servers=https://127.0.0.1:2379
    image: registry.k8s.io/kube-apiserver:v1.37.2
    name: kube-apiserver
    volumeMounts:
    - mountPath: /etc/kubernetes/pki
      name: k8s-certs
      readOnly: true
    - mountPath: /etc/kubernetes/enc
      name: enc
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki
      type: DirectoryOrCreate
    name: k8s-certs
  - hostPath:
      path: /etc/kubernetes/encryption
    name: enc
`

// manifest writes a pod with this container and these volumes, and a sidecar.
func manifest(container, volumes string) string {
	return "kind: Pod\nspec:\n  containers:\n  - {name: sidecar, command: [other, --etcd-servers=wrong]}\n  - " + container + "\n  volumes: " + volumes + "\n"
}

func TestManifests(t *testing.T) {
	const etcd = "--etcd-servers=http://a:1"
	one := func(a APIServer) APIServer {
		if a.Prefix == "" {
			a.Prefix = "/registry"
		}
		if a.Servers == nil {
			a.Servers = []string{"http://a:1"}
		}
		return a
	}
	for _, c := range []struct {
		name, text string
		want       APIServer
	}{
		{"kubeadm", kubeadm, APIServer{
			Servers: []string{"https://127.0.0.1:2379"}, Prefix: "/registry",
			CAFile: "/etc/kubernetes/pki/etcd/ca.crt", CertFile: "/etc/kubernetes/pki/apiserver-etcd-client.crt",
			KeyFile: "/etc/kubernetes/pki/apiserver-etcd-client.key", EncryptionConfig: "/etc/kubernetes/encryption/config.yaml",
		}},
		{
			"values apart, in command and args", manifest(`{name: kube-apiserver, command: [kube-apiserver, --etcd-prefix], args: [/other, --etcd-servers, "http://a:1"]}`, "[]"),
			one(APIServer{Prefix: "/other"}),
		},
		{"args alone", manifest(`{name: kube-apiserver, args: ["`+etcd+`"]}`, "[]"), one(APIServer{})},
		{"another name", manifest(`{name: api, command: [/usr/local/bin/kube-apiserver, "`+etcd+`"]}`, "[]"), one(APIServer{})},
		{
			"a shell", manifest(`{name: api, command: [/bin/sh, -ec, "exec /usr/local/bin/kube-apiserver --etcd-servers='http://a:1' --etcd-prefix /x 2>&1"]}`, "[]"),
			one(APIServer{Prefix: "/x"}),
		},
		{"underscores", manifest(`{name: kube-apiserver, args: ["--etcd_servers=http://a:1"]}`, "[]"), one(APIServer{})},
		{"after --", manifest(`{name: kube-apiserver, args: ["`+etcd+`", --, --etcd-prefix=/no]}`, "[]"), one(APIServer{})},
		{"the last one counts", manifest(`{name: kube-apiserver, args: ["`+etcd+`", --etcd-prefix=/a, --etcd-prefix=/b]}`, "[]"), one(APIServer{Prefix: "/b"})},
		{
			"servers repeat", manifest(`{name: kube-apiserver, args: ["--etcd-servers=http://a:1, http://b:1", "--etcd-servers=http://c:1,"]}`, "[]"),
			one(APIServer{Servers: []string{"http://a:1", "http://b:1", "http://c:1"}}),
		},
		{
			"overrides", manifest(`{name: kube-apiserver, args: ["`+etcd+`", "--etcd-servers-overrides=/events#http://e:1;http://f:1,coordination.k8s.io/leases#http://l:1"]}`, "[]"),
			one(APIServer{Overrides: []Override{{"", "events", []string{"http://e:1", "http://f:1"}}, {"coordination.k8s.io", "leases", []string{"http://l:1"}}}}),
		},
		{"a variable", manifest(`{name: kube-apiserver, env: [{name: A, value: a}], args: ["--etcd-servers=http://$(A):1"]}`, "[]"), one(APIServer{})},
		{"no variable", manifest(`{name: kube-apiserver, args: ["`+etcd+`", "--etcd-prefix=/$$(A)/$(B)"]}`, "[]"), one(APIServer{Prefix: "/$(A)/$(B)"})},
		{
			"the innermost mount", manifest(`{name: kube-apiserver, args: ["`+etcd+`", --etcd-cafile=/etc/pki/etcd/ca.crt, --etcd-certfile=/etc/pki/c.crt, --etcd-keyfile=/k/key],
    volumeMounts: [{name: pki, mountPath: /etc/pki/}, {name: etcd, mountPath: /etc/pki/etcd, subPath: tls}, {name: key, mountPath: /k/key}]}`,
				`[{name: pki, hostPath: {path: /host/pki}}, {name: etcd, hostPath: {path: /host/etcd}}, {name: key, hostPath: {path: /host/the.key}}]`),
			one(APIServer{CAFile: "/host/etcd/tls/ca.crt", CertFile: "/host/pki/c.crt", KeyFile: "/host/the.key"}),
		},
		{"the root is mounted", manifest(`{name: kube-apiserver, args: ["`+etcd+`", --etcd-cafile=/ca.crt], volumeMounts: [{name: root, mountPath: /}]}`,
			`[{name: root, hostPath: {path: /}}]`), one(APIServer{CAFile: "/ca.crt"})},
		{"JSON", `{"kind":"Pod","spec":{"containers":[{"name":"kube-apiserver","args":["` + etcd + `"]}]}}`, one(APIServer{})},
		{"an empty file flag", manifest(`{name: kube-apiserver, args: ["`+etcd+`", --etcd-cafile=]}`, "[]"), one(APIServer{})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Read(write(t, c.text))
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "kube-apiserver.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestManifestsThatDoNotHelp: each says why, and what to do.
func TestManifestsThatDoNotHelp(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"text", "hello", "it is not YAML of a pod"},
		{"broken", "kind: [", "it is not YAML of a pod"},
		{"empty", "", `its kind is "", and not Pod`},
		{"another kind", "kind: Deployment", `its kind is "Deployment"`},
		{"no containers", "kind: Pod", "no container of it runs kube-apiserver"},
		{"another program", manifest("{name: etcd, command: [etcd]}", "[]"), "no container of it runs kube-apiserver"},
		{"no servers", manifest("{name: kube-apiserver, args: [--etcd-prefix=/a]}", "[]"), "no flag --etcd-servers"},
		{"no value", manifest("{name: kube-apiserver, args: [--etcd-servers]}", "[]"), "no flag --etcd-servers"},
		{"an override without servers", manifest(`{name: kube-apiserver, args: ["--etcd-servers=a", "--etcd-servers-overrides=/events"]}`, "[]"), `has "/events": want GROUP/RESOURCE#SERVER`},
		{"a variable of the kubelet", manifest(`{name: kube-apiserver, env: [{name: IP, valueFrom: {}}], args: ["--etcd-servers=http://$(IP):1"]}`, "[]"), "only the kubelet knows: IP"},
		{"a file that is not mounted", manifest(`{name: kube-apiserver, args: [--etcd-servers=a, --etcd-cafile=/ca.crt]}`, "[]"), "--etcd-cafile is /ca.crt, which is not mounted"},
		{"a file beside a mount", manifest(`{name: kube-apiserver, args: [--etcd-servers=a, --etcd-keyfile=/pki2/key], volumeMounts: [{name: a, mountPath: /pki}]}`,
			"[{name: a, hostPath: {path: /pki}}]"), "--etcd-keyfile is /pki2/key, which is not mounted"},
		{"a file in a Secret", manifest(`{name: kube-apiserver, args: [--etcd-servers=a, --encryption-provider-config=/enc/c], volumeMounts: [{name: a, mountPath: /enc}]}`,
			"[{name: a, secret: {}}]"), "--encryption-provider-config is /enc/c, which is not mounted"},
		{"huge", strings.Repeat("#", largest+1), "larger than any manifest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.text)
			_, err := Read(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--endpoints") {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
	_, err := Read(filepath.Join(t.TempDir(), "gone"))
	if err == nil || !strings.Contains(err.Error(), "there is no such manifest. Run this on a control-plane node. Name etcd by --endpoints") {
		t.Errorf("%v", err)
	}
	_, err = Read(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("%v", err)
	}
}

// FuzzParse: a manifest may be anything; what is returned can be used.
func FuzzParse(f *testing.F) {
	f.Add([]byte(kubeadm))
	f.Add([]byte(manifest(`{name: kube-apiserver, args: [--etcd-servers, a, --etcd-cafile, /a/b], volumeMounts: [{name: a, mountPath: /a}]}`, "[{name: a, hostPath: {path: /b}}]")))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parse(text)
		if err != nil {
			return
		}
		if len(a.Servers) == 0 {
			t.Error("no server, and no error")
		}
		for _, o := range a.Overrides {
			if o.Resource == "" || len(o.Servers) == 0 {
				t.Errorf("override %+v", o)
			}
		}
	})
}
