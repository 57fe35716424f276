package generate

import (
	"path"
	"slices"
	"strings"
)

// A ground is a directory of a node that is not ours to mount.
type ground struct {
	path  string
	whole bool   // what lies below it is no place either
	read  bool   // somebody takes files for his own, or loses them: not even a file may lie there
	work  bool   // people keep files there, so generated ones may be put there
	why   string // what "it" is
}

// grounds are the directories of control plane nodes that hold secrets, are
// somebody else's, or are so wide that they hold such directories. The last that
// fits counts.
//
// https://refspecs.linuxfoundation.org/FHS_3.0/fhs/index.html,
// https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/#constants-and-well-known-values-and-paths,
// https://docs.k3s.io/cli/server (data-dir), https://docs.rke2.io/reference/server_config
func grounds() []ground {
	return []ground{
		{path: "/", why: "it is the whole node"},
		{path: "/aws-encryption-provider", whole: true, why: "it is where the image has the program, which a mount would hide"},
		{path: "/bin", whole: true, why: "it has the node's programs"},
		{path: "/boot", whole: true, why: "it has what the node boots"},
		{path: "/dev", whole: true, read: true, why: "it has devices, and no files that stay"},
		{path: "/etc", why: "it has the whole configuration of the node, password hashes and private keys included"},
		{path: "/etc/ca-certificates", whole: true, why: "it has the node's CA certificates, which distributions mount into kube-apiserver themselves"},
		{path: "/etc/cni", whole: true, why: "it is the container runtime's, which takes the files there for network configurations"},
		{path: "/etc/containerd", whole: true, why: "it has the container runtime's configuration, registry passwords included"},
		{path: "/etc/etcd", whole: true, why: "it has etcd's private keys"},
		{path: "/etc/gshadow", whole: true, why: "it has password hashes"},
		{path: "/etc/kubernetes", why: "it has admin.conf, the private keys of the cluster and the control plane's manifests in it"},
		{path: "/etc/kubernetes/admin.conf", whole: true, why: "it lets its reader do everything in the cluster"},
		{path: "/etc/kubernetes/super-admin.conf", whole: true, why: "it lets its reader do everything in the cluster"},
		{path: "/etc/kubernetes/controller-manager.conf", whole: true, why: "it has the controller manager's private key"},
		{path: "/etc/kubernetes/kubelet.conf", whole: true, why: "it has the kubelet's private key"},
		{path: "/etc/kubernetes/scheduler.conf", whole: true, why: "it has the scheduler's private key"},
		{path: "/etc/kubernetes/manifests", whole: true, read: true, why: "it is the kubelet's, which takes every file there for a pod: whoever writes there owns the node"},
		{path: "/etc/kubernetes/pki", whole: true, why: "it has the private keys of the cluster and of its ServiceAccounts"},
		{path: "/etc/kubernetes/ssl", whole: true, why: "it has the private keys of a cluster made by kubespray"},
		{path: "/etc/kubernetes/tmp", whole: true, why: "it has kubeadm's backups of etcd and of private keys"},
		{path: "/etc/kubernetes/tokens", whole: true, why: "it has tokens of a cluster made by kubespray"},
		{path: "/etc/openssl", whole: true, why: "it has TLS certificates of the node, which kOps mounts into kube-apiserver itself"},
		{path: "/etc/pki", why: "it has the node's private keys and CA certificates"},
		{path: "/etc/pki/ca-trust", whole: true, why: "it has the node's CA certificates, which distributions mount into kube-apiserver themselves"},
		{path: "/etc/pki/tls", whole: true, why: "it has the node's private keys and CA certificates"},
		{path: "/etc/rancher", why: "it has the administrator's kubeconfig in it"},
		{path: "/etc/rancher/k3s", why: "it has k3s.yaml, the administrator's kubeconfig, and the join token"},
		{path: "/etc/rancher/k3s/config.yaml.d", whole: true, read: true, why: "k3s takes every YAML file there for its own configuration"},
		{path: "/etc/rancher/node", whole: true, why: "it has the node's password"},
		{path: "/etc/rancher/rke2", why: "it has rke2.yaml, the administrator's kubeconfig, and the join token"},
		{path: "/etc/rancher/rke2/config.yaml.d", whole: true, read: true, why: "RKE2 takes every YAML file there for its own configuration"},
		{path: "/etc/shadow", whole: true, why: "it has password hashes"},
		{path: "/etc/srv/kubernetes", whole: true, why: "it has the private keys of the cluster"},
		{path: "/etc/ssh", whole: true, why: "it has the node's private keys"},
		{path: "/etc/ssl", why: "it has the node's private keys and CA certificates in it"},
		{path: "/etc/ssl/certs", whole: true, why: "it has the CA certificates of the node and of the image, and distributions mount it into kube-apiserver themselves"},
		{path: "/etc/ssl/etcd", whole: true, why: "it has the private keys of an etcd made by kubespray"},
		{path: "/etc/ssl/private", whole: true, why: "it has the node's private keys"},
		{path: "/etc/sudoers.d", whole: true, why: "it says who becomes root"},
		{path: "/etc/systemd", whole: true, why: "it has the node's units: whoever writes there owns the node"},
		{path: "/home", whole: true, work: true, why: "it has people's files, SSH keys and credentials included"},
		{path: "/lib", whole: true, why: "it has the node's libraries"},
		{path: "/lib32", whole: true, why: "it has the node's libraries"},
		{path: "/lib64", whole: true, why: "it has the node's libraries"},
		{path: "/lost+found", whole: true, why: "it is the file system's own"},
		{path: "/media", work: true, why: "it is for whole file systems"},
		{path: "/mnt", work: true, why: "it is for whole file systems"},
		{path: "/opt", work: true, why: "it has programs of the node"},
		{path: "/nix", whole: true, why: "it has the node's programs"},
		{path: "/opt/bin", whole: true, why: "it has programs of the node"},
		{path: "/opt/cni", whole: true, why: "it has programs that the container runtime runs as root"},
		{path: "/proc", whole: true, read: true, why: "it is the kernel's view of processes, and shows the node's root by other names"},
		{path: "/root", whole: true, work: true, why: "it has root's files, SSH keys and credentials included"},
		{path: "/run", why: "it has the sockets of everything that runs on the node"},
		{path: "/run/containerd", whole: true, why: "it has the container runtime's socket: whoever reaches it is root"},
		{path: "/run/credentials", whole: true, why: "it has credentials of systemd's services"},
		{path: "/run/crio", whole: true, why: "it has the container runtime's socket: whoever reaches it is root"},
		{path: "/run/dbus", whole: true, why: "it has the system bus, by which units are started"},
		{path: "/run/docker", whole: true, why: "it has the container runtime's state"},
		{path: "/run/docker.sock", whole: true, why: "it is the container runtime's socket: whoever reaches it is root"},
		{path: "/run/k3s", whole: true, why: "it has the container runtime's socket: whoever reaches it is root"},
		{path: "/run/lock", whole: true, why: "it has the locks of everything that runs on the node"},
		{path: "/run/systemd", whole: true, why: "it has systemd's own sockets"},
		{path: "/run/udev", whole: true, why: "it is the device manager's"},
		{path: "/run/user", whole: true, work: true, why: "it has the sockets of people who are logged in, and is removed with their session"},
		{path: "/sbin", whole: true, why: "it has the node's programs"},
		{path: "/srv", work: true, why: "it has the private keys of a cluster made by kOps in it"},
		{path: "/srv/kubernetes", why: "it has the private keys of a cluster made by kOps in it"},
		{path: "/srv/kubernetes/ca.crt", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/srv/kubernetes/kube-apiserver", why: "it has the private keys of kube-apiserver: of ServiceAccounts and for etcd"},
		{path: "/srv/kubernetes/kube-controller-manager", whole: true, why: "it has the private key of the cluster's CA"},
		{path: "/srv/kubernetes/kube-scheduler", whole: true, why: "it has the scheduler's private keys"},
		{path: "/srv/sshproxy", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/sys", whole: true, read: true, why: "it is the kernel's view of devices"},
		{path: "/tmp", whole: true, read: true, work: true, why: "everybody may write there, it is emptied, and a unit sees one of its own"},
		{path: "/usr", why: "it has the node's programs"},
		{path: "/usr/bin", whole: true, why: "it has the node's programs"},
		{path: "/usr/include", whole: true, why: "it has the node's header files"},
		{path: "/usr/lib", whole: true, why: "it has the node's libraries"},
		{path: "/usr/lib32", whole: true, why: "it has the node's libraries"},
		{path: "/usr/lib64", whole: true, why: "it has the node's libraries"},
		{path: "/usr/libexec", whole: true, why: "it has programs that run as root, the kubelet's plugins among them"},
		{path: "/usr/lib/ssl", whole: true, why: "it leads to the node's private keys, and kOps mounts it into kube-apiserver itself"},
		{path: "/usr/lib/systemd", whole: true, why: "it has the node's units: whoever writes there owns the node"},
		{path: "/usr/local", work: true, why: "it has programs of the node"},
		{path: "/usr/local/bin", whole: true, why: "it has programs of the node"},
		{path: "/usr/local/openssl", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/usr/local/sbin", whole: true, why: "it has programs of the node"},
		{path: "/usr/local/share/ca-certificates", whole: true, why: "it has the node's CA certificates, which distributions mount into kube-apiserver themselves"},
		{path: "/usr/sbin", whole: true, why: "it has the node's programs"},
		{path: "/usr/share", why: "it has data of all the node's programs"},
		{path: "/usr/src", whole: true, why: "it has the node's source code"},
		{path: "/usr/share/ca-certificates", whole: true, why: "it has the node's CA certificates, which distributions mount into kube-apiserver themselves"},
		{path: "/usr/share/ssl", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/usr/ssl", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/var", why: "it has the data of everything that runs on the node, etcd's included"},
		{path: "/var/backups", whole: true, why: "it has copies of the node's password hashes"},
		{path: "/var/cache", why: "it is emptied by whoever needs room"},
		{path: "/var/lib", why: "it has the data of everything that runs on the node, etcd's included"},
		{path: "/var/lib/cloud", whole: true, why: "it has the machine's user data, tokens included"},
		{path: "/var/lib/cni", whole: true, why: "it is the network plugins'"},
		{path: "/var/lib/containerd", whole: true, why: "it has the file systems of all containers"},
		{path: "/var/lib/containers", whole: true, why: "it has the file systems of all containers"},
		{path: "/var/lib/docker", whole: true, why: "it has the file systems of all containers"},
		{path: "/var/lib/etcd", whole: true, why: "it is the cluster's database"},
		{path: "/var/lib/k0s", whole: true, why: "it has the private keys of a cluster made by k0s"},
		{path: "/var/lib/kubelet", whole: true, why: "it has the Secrets of all pods of the node, and the kubelet's private key"},
		{path: "/var/lib/kubernetes", whole: true, why: "it has the private keys of a cluster that was set up by hand, and the keys of its EncryptionConfiguration"},
		{path: "/var/lib/minikube", whole: true, why: "it has the private keys of a cluster made by minikube"},
		{path: "/var/lib/rancher", why: "it has the private keys and the database of the cluster in it"},
		{path: "/var/lib/rancher/k3s", whole: true, read: true, why: "it has k3s's private keys and database, and manifests that k3s applies"},
		{path: "/var/lib/rancher/rke2", whole: true, read: true, why: "it has RKE2's private keys and database, manifests that RKE2 applies, and is mounted into kube-apiserver by RKE2 itself"},
		{path: "/var/log", why: "it has the logs of everything that runs on the node"},
		{path: "/var/log/audit", whole: true, why: "it has audit logs, which kubespray mounts into kube-apiserver itself"},
		{path: "/var/log/containers", whole: true, why: "it has the logs of all pods"},
		{path: "/var/log/kube-apiserver.log", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/var/log/pods", whole: true, why: "it has the logs of all pods"},
		{path: "/var/mail", whole: true, why: "it has people's mail"},
		{path: "/var/snap", whole: true, why: "it has the private keys of a cluster made by MicroK8s"},
		{path: "/snap", whole: true, why: "it has programs of the node"},
		{path: "/var/spool", whole: true, why: "it has the jobs that the node runs as root"},
		{path: "/var/ssl", whole: true, why: "kOps mounts it into kube-apiserver itself"},
		{path: "/var/tmp", whole: true, read: true, work: true, why: "everybody may write there, it is emptied, and a unit sees one of its own"},
	}
}

// canonical is a path as the usual links of a node lead. Nobody looks at this
// machine, which may be another one.
func canonical(at string) string {
	for _, link := range [][2]string{{"/var/run", "/run"}, {"/var/lock", "/run/lock"}, {"/usr/tmp", "/var/tmp"}} {
		if within(at, link[0]) {
			return path.Join(link[1], strings.TrimPrefix(at, link[0]))
		}
	}
	return at
}

// within reports whether a path is a directory or lies below it.
func within(at, dir string) bool {
	return at == dir || strings.HasPrefix(at, strings.TrimSuffix(dir, "/")+"/")
}

// groundOf is the nearest ground that a path is, or lies in where that counts.
func groundOf(at string) (ground, bool) {
	at = canonical(at)
	var found ground
	for _, g := range grounds() {
		if (at == g.path || g.whole && within(at, g.path)) && len(g.path) > len(found.path) {
			found = g
		}
	}
	if found.path == "" {
		return byName(at)
	}
	return found, true
}

// byName is a ground that the list need not have, since its name tells what it is for.
// Below a directory of ours no name counts.
func byName(at string) (ground, bool) {
	so, parts := "", strings.Split(strings.TrimPrefix(at, "/"), "/")
	for i, name := range parts {
		so += "/" + name
		switch {
		case strings.Contains(name, "kms") || strings.Contains(name, "encryption"):
			return ground{}, false
		case strings.HasSuffix(name, ".d"):
			return ground{path: so, whole: true, why: "programs of the node read what is there, or run it as root"}, true
		case slices.Contains([]string{"pki", "private", "letsencrypt", "wireguard", "ipsec", "gnupg", ".gnupg", ".ssh", ".aws", ".kube", "kops-controller", "kubeadm", "etcd", "vault"}, name):
			return ground{path: so, whole: true, why: "a directory of that name has private keys"}, true
		case slices.Contains([]string{"docker", "podman", "containerd", "crio", "cri-dockerd", "microk8s", "k0s"}, name):
			return ground{path: so, whole: true, why: "it is the container runtime's or the distribution's: whoever writes there is root"}, true
		case i == 1 && (parts[0] == "mnt" || parts[0] == "media") && len(parts) == 2:
			return ground{path: so, why: "it is a whole file system, such as that of etcd"}, true
		}
	}
	return ground{}, false
}

// groundIn is one that a directory has in it.
func groundIn(dir string) (ground, bool) {
	dir = canonical(dir)
	all := grounds()
	i := slices.IndexFunc(all, func(g ground) bool { return within(g.path, dir) })
	if i < 0 {
		return ground{}, false
	}
	return all[i], true
}
