package generate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A flag is one of kube-apiserver's.
type flag struct{ name, value string }

// flags are what kube-apiserver is told, by all distributions alike. With
// reload it takes a changed file within a minute, without a restart.
func (o *Options) flags() []flag {
	all := []flag{
		{"encryption-provider-config", o.PathAt},
		{"encryption-provider-config-automatic-reload", "true"},
	}
	if o.KMSv1 {
		all = append(all, flag{"feature-gates", "KMSv1=true"})
	}
	return all
}

// flagList is the flags as name=value.
func (o *Options) flagList() []string {
	var all []string
	for _, f := range o.flags() {
		all = append(all, f.name+"="+f.value)
	}
	return all
}

// apiServerMounts are what kube-apiserver sees of its host: the directories of
// the sockets and of the EncryptionConfiguration. Connecting needs no more than
// to read.
func (o *Options) apiServerMounts() []mount {
	var all []mount
	for i, dir := range o.socketDirs() {
		all = append(all, mount{name: numbered("kms-socket", i+1), path: dir, kind: "DirectoryOrCreate"})
	}
	if o.mountsFile() {
		return append(all, mount{name: "encryption-config", path: o.PathAt, kind: "File"})
	}
	return append(all, mount{name: "encryption-config", path: path.Dir(o.PathAt), kind: "DirectoryOrCreate"})
}

// mountsFile reports whether the EncryptionConfiguration is mounted by itself, as its
// directory has other things in it.
func (o *Options) mountsFile() bool {
	return !isOurs(path.Dir(o.PathAt), encryption) && isOwnFile(o.PathAt, true)
}

// fileNote says what a mount of the file by itself costs.
func (o *Options) fileNote() string {
	if !o.mountsFile() {
		return ""
	}
	return "- after every change of that file kube-apiserver is restarted, one node after the\n" +
		"  other, while KMS answers: the file is mounted by itself, and stays the old one when\n" +
		"  it is replaced. In a directory of its own, such as " + path.Dir(DefaultEncConfig) + ",\n" +
		"  a change is taken over without a restart\n"
}

func (o *Options) gateNote() string {
	if o.KMSv1 {
		return "- feature-gates: merge KMSv1=true with the gates that you have\n"
	}
	return ""
}

// apiServer is kubeadm's part of that name, in the form of v1beta4. Cluster
// API's v1beta2 has the same.
//
// https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/
func (o *Options) apiServer() *yaml.Node {
	var args, volumes []*yaml.Node
	for _, f := range o.flags() {
		args = append(args, object("name", f.name, "value", f.value))
	}
	for _, m := range o.apiServerMounts() {
		volumes = append(volumes, object("name", m.name, "hostPath", m.path, "mountPath", m.path, "readOnly", true, "pathType", m.kind))
	}
	return object("extraArgs", args, "extraVolumes", volumes)
}

func (o *Options) kubeadm() ([]File, error) {
	return []File{{Name: "kubeadm-config.yaml", Text: document(fmt.Sprintf(`Part of kubeadm's ClusterConfiguration. See docs/kubeadm.md.

A new cluster: merge it into the file of kubeadm init --config. One that exists:
merge it into ClusterConfiguration of the ConfigMap kubeadm-config in kube-system,
so that upgrades keep it, and into a file for
  kubeadm init phase control-plane apiserver --config FILE
on each control plane node, one after the other.

Check:
- before that, static pod and %s are on the node
%s`, o.PathAt, o.fileNote()+o.gateNote()), object(
		"apiVersion", "kubeadm.k8s.io/v1beta4",
		"kind", "ClusterConfiguration",
		"apiServer", o.apiServer(),
	))}}, nil
}

// kubeadmControlPlane is a pair as the EncryptionConfiguration is: Cluster API
// replaces machine after machine.
//
// https://github.com/kubernetes-sigs/cluster-api/tree/v1.14.2/api/controlplane/kubeadm/v1beta2
func (o *Options) kubeadmControlPlane() ([]File, error) {
	p, err := o.pair()
	if err != nil {
		return nil, err
	}
	var files []File
	for i, config := range []File{o.readersFile(p), o.writersFile(p)} {
		step := []string{"readers", "writers"}[i]
		files = append(files, File{Name: fmt.Sprintf("kubeadmcontrolplane-%d-%s.yaml", i+1, step), Text: document(fmt.Sprintf(`Part of Cluster API's KubeadmControlPlane, %d of 2: %s. See docs/kubeadm.md.

Merge it into yours. Every change rolls all control plane machines. A cluster that
is new takes the second one at once. One that exists takes the first, and the
second when the first is rolled out to all machines.

Check:
- nodes can pull the image before they have an API server
- the machines' instance profile may use the key
%s`, i+1, step, o.gateNote()), object(
			"apiVersion", "controlplane.cluster.x-k8s.io/v1beta2",
			"kind", "KubeadmControlPlane",
			"metadata", object("name", "my-cluster-control-plane"),
			"spec", object("kubeadmConfigSpec", object(
				"files", o.machineFiles(config),
				"clusterConfiguration", object("apiServer", o.apiServer()),
			)),
		)), Secret: false})
	}
	return files, nil
}

// machineFiles are what cloud-init writes. Local keys of the present file do not
// go into an object that many may read.
func (o *Options) machineFiles(encryptionConfig File) []*yaml.Node {
	file := func(at string, pairs ...any) *yaml.Node {
		mode := "0600"
		if at == o.FileAt {
			mode = o.fileMode()
		}
		return object(append([]any{"path", at, "owner", "root:root", "permissions", mode}, pairs...)...)
	}
	pod, _ := o.staticPod() // never fails
	files := []*yaml.Node{file("/etc/kubernetes/manifests/aws-encryption-provider.yaml", "content", pod[0].Text)}
	if o.File != nil {
		files = append(files, file(o.FileAt, "content", string(o.File)))
	}
	if o.hasLocalKeys() {
		return append(files, file(o.PathAt, noted{"contentFrom", fmt.Sprintf(`It has keys in it. Make the Secret of the files of generate encryption-config:
kubectl create secret generic encryption-config --from-file=%s --from-file=%s`, readersName, writersName)},
			object("secret", object("name", "encryption-config", "key", encryptionConfig.Name))))
	}
	return append(files, file(o.PathAt, "content", encryptionConfig.Text))
}

// fileMode lets the program read its own file, which has no secret in it.
func (o *Options) fileMode() string {
	if o.RunAsUser != 0 {
		return "0644"
	}
	return "0600"
}

func (o *Options) hasLocalKeys() bool {
	if o.Present == nil {
		return false
	}
	for _, r := range o.Present.Resources {
		for _, p := range r.Providers {
			if p.KMS == nil && p.Identity == nil {
				return true
			}
		}
	}
	return false
}

// kOps mounts this directory into kube-apiserver, and nothing can be added:
// nodeup/pkg/model/kube_apiserver.go, srvkapi. It has private keys of kube-apiserver
// in it, so that the socket lies in a directory below it.
//
// https://github.com/kubernetes/kops/blob/268927e26409f861634e18f3632c9dd483c350cf/nodeup/pkg/model/kube_apiserver.go
const kopsMounts = "/srv/kubernetes/kube-apiserver"

// kops has the fields of pkg/apis/kops/v1alpha2: cluster.go (encryptionConfig,
// fileAssets) and componentconfig.go (kubeAPIServer.featureGates).
func (o *Options) kops() ([]File, error) {
	asset := func(name, at, mode, content string) *yaml.Node {
		return object("name", name, "path", at, "mode", mode, "roles", []string{"ControlPlane", "APIServer"}, "content", content)
	}
	pod, _ := o.staticPod() // never fails
	assets := []*yaml.Node{asset("aws-encryption-provider", "/etc/kubernetes/manifests/aws-encryption-provider.manifest", "0600", pod[0].Text)}
	if o.File != nil {
		assets = append(assets, asset("aws-encryption-provider-config", o.FileAt, o.fileMode(), string(o.File)))
	}
	var gates any
	if o.KMSv1 {
		gates = object("featureGates", object("KMSv1", "true"))
	}
	return []File{{Name: "kops-cluster.yaml", Text: document(`Part of a Cluster of kOps: kops edit cluster. See docs/kops.md.

kOps writes the EncryptionConfiguration itself, of its secret encryptionconfig. It is
the pair of generate encryption-config with the same keys and the same socket:

`+o.kopsListens()+`

  kops create secret encryptionconfig -f `+readersName+` --force
  kops update cluster --yes && kops rolling-update cluster --instance-group-roles=control-plane --yes
  kops create secret encryptionconfig -f `+writersName+` --force
  kops update cluster --yes && kops rolling-update cluster --instance-group-roles=control-plane --yes

Check:
- nodes can pull the image before they have an API server
- the control plane's role may use the key: with encryptionConfig kOps 1.37 lets it,
  older ones may need spec.additionalPolicies
`, object(
		"apiVersion", "kops.k8s.io/v1alpha2",
		"kind", "Cluster",
		"spec", object("encryptionConfig", true, "kubeAPIServer", gates, "fileAssets", assets),
	))}}, nil
}

// kopsListens are the sockets as generate encryption-config is told of them.
func (o *Options) kopsListens() string {
	var all []string
	for _, p := range o.Config.Providers {
		all = append(all, p.Listen)
	}
	return "  --listen=" + strings.Join(all, ",")
}

// kubespray has the variables of roles/kubernetes/control-plane: defaults/main/
// main.yml, and templates/kubeadm-config.v1beta4.yaml.j2 that uses them.
//
// https://github.com/kubernetes-sigs/kubespray/blob/46dbdd3994b32640bcd806b0097f50e8fdf1d514/roles/kubernetes/control-plane/defaults/main/main.yml
func (o *Options) kubespray() ([]File, error) {
	var args []any
	for _, f := range o.flags() {
		args = append(args, f.name, f.value)
	}
	var volumes []*yaml.Node
	for _, m := range o.apiServerMounts() {
		volumes = append(volumes, object("name", m.name, "hostPath", m.path, "mountPath", m.path, "readOnly", true))
	}
	return []File{{Name: "aws-encryption-provider.yml", Text: document(fmt.Sprintf(`Variables of kubespray: inventory/NAME/group_vars/kube_control_plane/aws-encryption-provider.yml.
See docs/kubespray.md.

Check, before cluster.yml or upgrade-cluster.yml runs with it:
- static pod and %s are on all control plane nodes
- no other file of the inventory sets these variables: Ansible does not merge them
%s`, o.PathAt, o.fileNote()+o.gateNote()), object(
		noted{"kube_encrypt_secret_data", "Kubespray would write an EncryptionConfiguration of its own, with local keys."}, false,
		"kube_kubeadm_apiserver_extra_args", object(args...),
		"apiserver_extra_volumes", volumes,
	))}}, nil
}

// k3s has kube-apiserver in its own process: there is nothing to mount.
//
// https://docs.k3s.io/cli/server, https://docs.k3s.io/installation/configuration#multiple-config-files
func (o *Options) k3s() ([]File, error) {
	return []File{{Name: "aws-encryption-provider.yaml", Text: document(fmt.Sprintf(`Configuration of k3s: /etc/rancher/k3s/config.yaml.d/aws-encryption-provider.yaml
on every server, owner root, mode 0600. Then restart k3s, one server after the
other. See docs/k3s.md.

Check:
- the program runs by systemd, ordered before k3s: as a pod of k3s it waits for an
  API server that waits for it (k3s#10058)
- %s is on the node
- with "secrets-encryption: true" so far: the EncryptionConfiguration was made
  with --encryption-config=/var/lib/rancher/k3s/server/cred/encryption-config.json,
  so that Secrets stay readable. Leave the setting as it is, and never run "k3s secrets-encrypt" again
%s`, o.PathAt, o.gateNote()), object(
		noted{"kube-apiserver-arg+", "The + adds to the arguments of other files instead of replacing them."}, o.flagList(),
	))}}, nil
}

// rke2 takes k3s's flags and mounts into its pods: "kube-apiserver-extra-mount"
// of pkg/cli/cmds/root.go, read by addExtraMounts of pkg/podtemplate.
//
// https://github.com/rancher/rke2/blob/6ce1a8019e9d0b81eb7a715edbc2b8ac12d26da0/pkg/podtemplate/podtemplate.go
func (o *Options) rke2() ([]File, error) {
	var mounts []string
	for _, m := range o.apiServerMounts() {
		if m.path == o.PathAt {
			continue // RKE2 mounts the files that flags name
		}
		mounts = append(mounts, m.path+":"+m.path+":ro")
	}
	slices.Sort(mounts)
	return []File{{Name: "aws-encryption-provider.yaml", Text: document(fmt.Sprintf(`Configuration of RKE2: /etc/rancher/rke2/config.yaml.d/aws-encryption-provider.yaml
on every server, owner root, mode 0600. Then restart rke2-server, one server after
the other. See docs/k3s.md.

Check:
- the program runs, and %s is on the node
- the EncryptionConfiguration was made
  with --encryption-config=/var/lib/rancher/rke2/server/cred/encryption-config.json:
  RKE2 has encrypted Secrets from the first day, and they must stay readable
- nobody runs "rke2 secrets-encrypt" any more: it works on a file that
  kube-apiserver no longer reads
- rke2-server is restarted after every change of the EncryptionConfiguration, one
  server after the other: RKE2 mounts that file itself too, and a mounted file stays
  the old one
%s`, o.PathAt, o.gateNote()), object(
		noted{"kube-apiserver-arg+", "The + adds to the values of other files instead of replacing them."}, o.flagList(),
		"kube-apiserver-extra-mount+", mounts,
	))}}, nil
}

// kubeadmMounts are what kubeadm mounts into kube-apiserver by itself; the last
// ones where the node has them.
//
// https://github.com/kubernetes/kubernetes/blob/v1.37.2/cmd/kubeadm/app/phases/controlplane/volumes.go
func kubeadmMounts() []string {
	return []string{
		"/etc/kubernetes/pki", "/etc/ssl/certs", "/etc/pki/ca-trust", "/etc/pki/tls/certs", "/etc/ca-certificates",
		"/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
	}
}

// kubesprayMounts are kubeadm's and what kubespray's variables add.
//
// https://github.com/kubernetes-sigs/kubespray/blob/46dbdd3994b32640bcd806b0097f50e8fdf1d514/roles/kubernetes/control-plane/templates/kubeadm-config.v1beta4.yaml.j2
// (extraVolumes; etcd.external and certificatesDir for kubeadm), ssl_ca_dirs of roles/kubespray_defaults
func kubesprayMounts() []string {
	return append(kubeadmMounts(), "/etc/kubernetes", "/etc/kubernetes/ssl", "/etc/ssl/etcd/ssl", "/etc/kubernetes/tokens",
		"/etc/kubernetes/audit-policy", "/etc/kubernetes/tracing", "/var/log/audit", "/etc/pki/tls")
}

// rke2Mounts are RKE2's.
//
// https://github.com/rancher/rke2/blob/6ce1a8019e9d0b81eb7a715edbc2b8ac12d26da0/pkg/executor/staticpod/staticpod.go (APIServer),
// pkg/podtemplate/types.go (SSLDirs)
func rke2Mounts() []string {
	return []string{
		"/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/ca-certificates",
		"/var/lib/rancher/rke2/server", "/var/lib/rancher/rke2/server/logs",
	}
}
