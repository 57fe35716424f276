package generate_test

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/generate"
)

// pathOptions give a path to each option that takes one, as a file in a directory or
// as the directory.
func pathOptions() map[string]func(o *generate.Options, dir string) {
	return map[string]func(o *generate.Options, dir string){
		"--listen":                 func(o *generate.Options, dir string) { o.Config.Providers[0].Listen = path.Join(dir, "socket.sock") },
		"--encryption-config-path": func(o *generate.Options, dir string) { o.PathAt = path.Join(dir, "encryption.yaml") },
		"--config-path":            func(o *generate.Options, dir string) { o.FileAt = path.Join(dir, "provider.yaml") },
		"--mount":                  func(o *generate.Options, dir string) { o.Mounts = []string{dir} },
		"--env: AWS_SHARED_CREDENTIALS_FILE": func(o *generate.Options, dir string) {
			o.Env = []string{"AWS_SHARED_CREDENTIALS_FILE=" + path.Join(dir, "credentials")}
		},
		"--env: AWS_WEB_IDENTITY_TOKEN_FILE": func(o *generate.Options, dir string) {
			o.Env = []string{"AWS_WEB_IDENTITY_TOKEN_FILE=" + path.Join(dir, "token")}
		},
		"--env: AWS_CONFIG_FILE": func(o *generate.Options, dir string) { o.Env = []string{"AWS_CONFIG_FILE=" + path.Join(dir, "config")} },
		"--env: AWS_CA_BUNDLE":   func(o *generate.Options, dir string) { o.Env = []string{"AWS_CA_BUNDLE=" + path.Join(dir, "ca.pem")} },
		"--env: SSL_CERT_FILE":   func(o *generate.Options, dir string) { o.Env = []string{"SSL_CERT_FILE=" + path.Join(dir, "ca.pem")} },
		"--env: SSL_CERT_DIR":    func(o *generate.Options, dir string) { o.Env = []string{"SSL_CERT_DIR=/etc/kms-cas:" + dir} },
		"--env: AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": func(o *generate.Options, dir string) {
			o.Env = []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path.Join(dir, "token")}
		},
	}
}

// made are options whose flags are written as a file, in places that no guard minds.
func made(kind string) generate.Options {
	o := options("/run/kmsplugin/socket.sock")
	if kind == "kops" {
		o.Config.Providers[0].Listen = "/srv/kubernetes/kube-apiserver/aws-encryption-provider/socket.sock"
	}
	o.Made = []byte("kind: ProviderConfiguration\n")
	return o
}

// mountedBy are the options whose directories a kind mounts, from the host.
func mountedBy() map[string][]string {
	program := slices.DeleteFunc(slices.Sorted(maps.Keys(pathOptions())), func(name string) bool { return name == "--encryption-config-path" })
	return map[string][]string{
		"static-pod": program, "kops": program,
		"kubeadmcontrolplane": append(slices.Clone(program), "--encryption-config-path"),
		"kubeadm":             {"--listen", "--encryption-config-path"},
		"kubespray":           {"--listen", "--encryption-config-path"},
		"rke2":                {"--listen", "--encryption-config-path"},
		"systemd":             {"--listen"}, // which the service may write to
	}
}

// notOurs are directories that hold secrets, are somebody else's or are too wide,
// with a word of the reason.
func notOurs() map[string]string {
	return map[string]string{
		"/etc/cron.d": "run it as root", "/etc/pam.d": "run it as root", "/etc/apparmor.d/local": "run it as root", "/usr/libexec/kubernetes": "kubelet's plugins",
		"/usr/lib64": "libraries", "/opt/bin": "programs", "/etc/kubernetes/kops-controller": "private keys", "/var/lib/kubernetes": "by hand",
		"/run/kubeadm": "private keys", "/etc/docker": "is root", "/etc/letsencrypt/live": "private keys", "/etc/wireguard": "private keys",
		"/var/snap/microk8s/current": "MicroK8s", "/mnt/master-vol-0a": "whole file system",
		"/": "the whole node", "/etc": "whole configuration", "/etc/kubernetes": "admin.conf", "/etc/kubernetes/pki": "private keys of the cluster",
		"/etc/kubernetes/pki/etcd": "private keys of the cluster", "/etc/kubernetes/manifests": "the kubelet's", "/etc/kubernetes/ssl": "kubespray",
		"/etc/kubernetes/tmp": "backups", "/var": "etcd's included", "/var/lib": "etcd's included", "/var/lib/etcd": "the cluster's database",
		"/var/lib/etcd/member": "the cluster's database", "/var/lib/kubelet": "Secrets of all pods", "/var/lib/kubelet/pki": "Secrets of all pods",
		"/etc/srv": "has /etc/srv/kubernetes in it", "/srv": "kOps", "/srv/kubernetes": "kOps", "/srv/kubernetes/kube-apiserver": "private keys of kube-apiserver",
		"/srv/kubernetes/kube-controller-manager": "the cluster's CA", "/etc/ssl": "private keys", "/etc/ssl/certs": "CA certificates",
		"/etc/ssl/private": "private keys", "/etc/pki/ca-trust": "CA certificates", "/root": "root's files", path.Join("/root", ".aws"): "root's files",
		"/var/run": "sockets of everything", "/run": "sockets of everything", "/run/containerd": "container runtime's socket",
		"/var/run/docker": "container runtime", "/tmp": "everybody", "/tmp/kms": "everybody", "/var/tmp": "everybody", "/proc": "kernel",
		"/proc/self/cwd/etc": "kernel", "/sys": "kernel", "/dev": "devices", "/dev/shm": "devices", "/home": "people's files",
		"/home/ubuntu/.aws": "people's files", "/usr": "programs", "/usr/bin": "programs", "/opt": "programs", "/boot": "boots", "/lib": "libraries",
		"/etc/rancher": "kubeconfig", "/etc/rancher/rke2": "rke2.yaml", "/etc/rancher/k3s": "k3s.yaml", "/etc/rancher/rke2/config.yaml.d": "its own configuration",
		"/var/lib/rancher": "private keys", "/var/lib/rancher/rke2/server": "RKE2", "/var/lib/rancher/k3s/server/manifests": "k3s", "/etc/ssh": "private keys",
		"/var/log": "logs", "/usr/share/ca-certificates": "CA certificates", "/aws-encryption-provider": "the program", "/etc/systemd/system": "units",
	}
}

// TestNoDirectoryOfOthersIsMounted: every option, every kind that mounts what it
// names, every directory.
func TestNoDirectoryOfOthersIsMounted(t *testing.T) {
	for kindName, mounts := range mountedBy() {
		for option, set := range pathOptions() {
			for dir, reason := range notOurs() {
				o := made(kindName)
				set(&o, dir)
				_, err := kind(t, kindName).Generate(o)
				if err == nil && option == "--encryption-config-path" && dir == "/etc/kubernetes" {
					continue // the file by itself, see TestEncryptionConfigurationBesideOthers
				}
				switch mounted := slices.Contains(mounts, option); {
				case mounted && err == nil:
					t.Errorf("%s %s in %s is taken", kindName, option, dir)
				case mounted && !(strings.Contains(err.Error(), option+": ") && strings.Contains(err.Error(), reason) && strings.Contains(err.Error(), "such as /")):
					t.Errorf("%s %s in %s: want %q and what to give instead:\n%v", kindName, option, dir, reason, err)
				}
			}
		}
	}
}

// TestPlacesOfOursAreTaken: what the guides and their readers use.
func TestPlacesOfOursAreTaken(t *testing.T) {
	for kindName := range mountedBy() {
		for option, dirs := range map[string][]string{
			"--listen": {
				"/run/kmsplugin", "/var/run/kmsplugin", "/run/kms/a", "/var/lib/kmsplugin", "/opt/kms", "/srv/kms", "/etc/kms", "/kms",
				"/srv/kubernetes/kube-apiserver/aws-encryption-provider", "/etc/kubernetes/kms",
				"/srv/aws-encryption-provider", "/var/lib/kms-plugin", "/data/kms", "/data/platform/kms/run", "/mnt/disk1/kms", "/usr/local/lib/aws_encryption_provider", "/run/KMS",
			},
			"--encryption-config-path": {"/etc/kubernetes/encryption", "/etc/rancher/rke2/encryption", "/etc/kubernetes/kms", "/opt/kms", "/var/lib/kms", "/etc/kubernetes/enc", "/etc/kubernetes/secret-encryption", "/srv/aws-encryption-provider", "/data/kms", "/etc/kubernetes/encryption-providers"},
			"--config-path":            {"/etc/aws-encryption-provider", "/etc/kubernetes/aws-encryption-provider", "/opt/aws-encryption-provider"},
			"--mount":                  {"/usr/local/bin/print-credentials", "/usr/bin/aws_signing_helper", "/etc/hosts", "/usr/share/zoneinfo", "/etc/localtime", "/etc/aws", "/run/spire/agent", "/var/run/secrets-store"},
			"--env: AWS_CA_BUNDLE":     {"/etc/ssl/aws", "/etc/aws-encryption-provider", "/etc/aws-encryption-provider/aws", "/run/aws"},
		} {
			for _, dir := range dirs {
				if option == "--listen" && kindName == "kops" && !strings.HasPrefix(dir, "/srv/kubernetes/kube-apiserver/") {
					continue
				}
				o := made(kindName)
				pathOptions()[option](&o, dir)
				if _, err := kind(t, kindName).Generate(o); err != nil {
					t.Errorf("%s %s in %s: %v", kindName, option, dir, err)
				}
			}
		}
	}
}

// TestSpellingsOfPaths: each has words of its own, for every option.
func TestSpellingsOfPaths(t *testing.T) {
	for option, set := range map[string]func(o *generate.Options, at string){
		"--listen":                 func(o *generate.Options, at string) { o.Config.Providers[0].Listen = at },
		"--encryption-config-path": func(o *generate.Options, at string) { o.PathAt = at },
		"--config-path":            func(o *generate.Options, at string) { o.FileAt = at },
		"--mount":                  func(o *generate.Options, at string) { o.Mounts = []string{at} },
		"--env: AWS_CA_BUNDLE":     func(o *generate.Options, at string) { o.Env = []string{"AWS_CA_BUNDLE=" + at} },
	} {
		for at, want := range map[string]string{
			"":                              "is empty",
			"kms/a.sock":                    "is no absolute path",
			"~/kms/a":                       "is no absolute path",
			"/etc/kubernetes/x/../pki/a":    "private keys of the cluster",
			"/opt/kms/a/":                   "ends in a slash: write /opt/kms/a",
			"//opt/kms/a":                   "is not written in full and plainly: write /opt/kms/a",
			"/opt/./kms/a":                  "is not written in full and plainly: write /opt/kms/a",
			"/opt/my kms/a":                 "has a blank in it",
			"/opt/kms\n/a":                  "has a blank in it",
			"/opt/k:ms/a":                   "has a colon in it",
			"/opt/k,ms/a":                   "has a comma in it",
			`/opt/k"ms/a`:                   "has '\"' in it",
			"/opt/k$ms/a":                   "has \"$\" in it",
			"/opt/k%ims/a":                  "has \"%\" in it",
			"/opt/kms\x00/a":                "in it",
			"/opt/schl\u00fcssel/a":         "has \"\u00fc\" in it",
			"/etc//kubernetes/pki/a":        "private keys of the cluster",
			"/var/run/../../opt/kms/a":      `goes up by "..": write where that leads, /opt/kms/a`,
			"/" + strings.Repeat("a/", 99):  "ends in a slash",
			"/etc/kubernetes/pki/ca.key\t":  "private keys of the cluster",
			"/etc/kubernetes/../kms/a":      `goes up by "..": write where that leads, /etc/kms/a`,
			"/etc/kubernetes/manifests/..":  "and it has ",
			"/etc/kubernetes/./kms/a":       "is not written in full and plainly: write /etc/kubernetes/kms/a",
			"/proc/self/cwd/etc/kubernetes": "lies in /proc",
		} {
			o := made("kubeadmcontrolplane")
			set(&o, at)
			_, err := kind(t, "kubeadmcontrolplane").Generate(o)
			if err == nil || !strings.Contains(err.Error(), option+": ") {
				t.Errorf("%s=%q: %v", option, at, err)
				continue
			}
			if got := strings.ReplaceAll(err.Error(), `"\""`, `'"'`); !strings.Contains(got, want) {
				t.Errorf("%s=%q: want %q in\n%s", option, at, want, got)
			}
		}
	}
}

// TestOneDirectoryHasOneRole: nobody is given what is for the other side.
func TestOneDirectoryHasOneRole(t *testing.T) {
	for name, c := range map[string]struct {
		kinds []string
		with  func(o *generate.Options)
		want  string // "": taken
	}{
		"socket beside the EncryptionConfiguration": {
			[]string{"static-pod", "kubeadm", "kubeadmcontrolplane", "kubespray", "rke2"},
			func(o *generate.Options) { o.Config.Providers[0].Listen = "/etc/kubernetes/encryption/socket.sock" },
			"the program would be given the EncryptionConfiguration",
		},
		"EncryptionConfiguration below the socket's directory": {
			[]string{"static-pod", "kubeadm", "kubeadmcontrolplane", "kubespray", "rke2"},
			func(o *generate.Options) {
				o.Config.Providers[0].Listen, o.PathAt = "/opt/kms/socket.sock", "/opt/kms/encryption/config.yaml"
			},
			"the program would be given the EncryptionConfiguration",
		},
		"socket below the EncryptionConfiguration's directory": {
			[]string{"static-pod", "kubeadm", "kubeadmcontrolplane"},
			func(o *generate.Options) {
				o.Config.Providers[0].Listen, o.PathAt = "/opt/kms/sock/socket.sock", "/opt/kms/config.yaml"
			},
			"",
		},
		"one file beside the other": {
			[]string{"static-pod", "kubeadmcontrolplane"},
			func(o *generate.Options) {
				o.FileAt, o.PathAt = "/etc/kubernetes/encryption/provider.yaml", "/etc/kubernetes/encryption/config.yaml"
			},
			"the program would be given the EncryptionConfiguration",
		},
		"configuration beside the socket": {
			[]string{"static-pod", "kops", "kubeadmcontrolplane", "systemd"},
			func(o *generate.Options) {
				o.FileAt = path.Join(path.Dir(o.Config.Providers[0].Listen), "config.yaml")
				if o.FileAt == "/run/kmsplugin/config.yaml" { // where no file stays
					o.FileAt, o.Config.Providers[0].Listen = "/opt/kms/config.yaml", "/opt/kms/socket.sock"
				}
			},
			"kube-apiserver would be given what only the program needs",
		},
		"credentials beside the socket": {
			[]string{"static-pod", "kubeadmcontrolplane"},
			func(o *generate.Options) { o.Env = []string{"AWS_SHARED_CREDENTIALS_FILE=/run/kmsplugin/credentials"} },
			"kube-apiserver would be given what only the program needs",
		},
		"the same by another spelling": {
			[]string{"static-pod", "kubeadmcontrolplane"},
			func(o *generate.Options) {
				o.Env = []string{"AWS_SHARED_CREDENTIALS_FILE=/var/run/kmsplugin/credentials"}
			},
			"kube-apiserver would be given what only the program needs",
		},
		"two sockets, two names of a directory": {
			[]string{"static-pod", "kubeadm", "kubeadmcontrolplane", "kubespray", "rke2"},
			func(o *generate.Options) {
				o.Config.Providers = append(o.Config.Providers, o.Config.Providers[0])
				o.Config.Providers[0].Listen, o.Config.Providers[1].Listen = "/run/kms/a.sock", "/var/run/kms/b.sock"
			},
			"the same directory would be mounted twice, by two names",
		},
		"two sockets, one directory": {
			[]string{"static-pod", "kubeadm", "kubeadmcontrolplane", "kubespray", "rke2"},
			func(o *generate.Options) {
				o.Config.Providers = append(o.Config.Providers, o.Config.Providers[0])
				o.Config.Providers[0].Listen, o.Config.Providers[1].Listen = "/run/kms/a.sock", "/run/kms/b.sock"
			},
			"",
		},
		"two mounts, two names": {
			[]string{"static-pod", "kops", "kubeadmcontrolplane"},
			func(o *generate.Options) { o.Mounts = []string{"/run/aws", "/var/run/aws"} },
			"the same directory would be mounted twice, by two names",
		},
		"the file itself": {
			[]string{"static-pod", "kubeadmcontrolplane"},
			func(o *generate.Options) { o.Mounts = []string{generate.DefaultEncConfig} },
			"the program would be given the EncryptionConfiguration",
		},
		"credentials beside the configuration": {
			[]string{"static-pod", "kops", "kubeadmcontrolplane", "systemd"},
			func(o *generate.Options) {
				o.Env = []string{"AWS_SHARED_CREDENTIALS_FILE=/etc/aws-encryption-provider/credentials"}
			},
			"",
		},
		"a sidecar's volumes": {
			[]string{"sidecar"},
			func(o *generate.Options) { o.FileAt = "/run/kmsplugin/config.yaml" },
			"two volumes at one mount path",
		},
		"a sidecar's EncryptionConfiguration": {
			[]string{"sidecar"},
			func(o *generate.Options) { o.PathAt = "/run/kmsplugin/config.yaml" },
			"two volumes at one mount path",
		},
		"a sidecar's files, which are in two containers": {
			[]string{"sidecar"},
			func(o *generate.Options) { o.FileAt = "/etc/kubernetes/encryption/provider.yaml" },
			"",
		},
		"a sidecar's socket as HyperShift has it": {
			[]string{"sidecar"},
			func(o *generate.Options) { o.Config.Providers[0].Listen = "/var/run/awskmsactive.sock" },
			"",
		},
	} {
		for _, kindName := range c.kinds {
			o := made(kindName)
			c.with(&o)
			_, err := kind(t, kindName).Generate(o)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s, %s: want %q, got %v", kindName, name, c.want, err)
			}
		}
	}
}

// TestEndpointsMayLieAnywhere: an EncryptionConfiguration alone mounts nothing, and
// whoever tries the program at a desk has its socket where he may write.
func TestEndpointsMayLieAnywhere(t *testing.T) {
	for _, dir := range []string{"/tmp/x", "/home/me", "/run", "/etc/kubernetes"} {
		o := made("encryption-config")
		pathOptions()["--listen"](&o, dir)
		if _, err := kind(t, "encryption-config").Generate(o); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestEndpointsAreNoFilesOfOthers, where nothing is mounted either.
func TestEndpointsAreNoFilesOfOthers(t *testing.T) {
	t.Parallel()
	for _, kindName := range []string{"encryption-config", "k3s"} {
		for at, taken := range map[string]bool{
			"/etc/shadow": false, "/etc/fstab": false, "/etc/kubernetes/admin.conf": false, "/run/docker.sock": false, "/etc/kubernetes/pki/a.sock": false, "/proc/1/a.sock": false, "/usr/bin/kubelet": false,
			"/opt/kms\x1b[2J": false, "/opt/kms\n": false, "/var/lib/etcd/member/snap/db": false, "/run/kms": true, "/run/a": true, "/opt/a": true, "/opt/my kms/a": true, "/home/me/x": true, "/etc/kubernetes/kms.sock": true,
		} {
			o := made(kindName)
			o.Config.Providers[0].Listen = at
			_, err := kind(t, kindName).Generate(o)
			if taken != (err == nil) || err != nil && (!strings.Contains(err.Error(), "--listen: ") || !strings.Contains(err.Error(), "such as /")) {
				t.Errorf("%s --listen=%q: %v", kindName, at, err)
			}
		}
	}
}

// TestAProgramOutlivesABoot: and it does not lie where sockets are shared.
func TestAProgramOutlivesABoot(t *testing.T) {
	for _, dir := range []string{"/var/run/kmsplugin", "/run/kms/bin"} {
		o := made("systemd")
		o.Program = dir + "/aws-encryption-provider"
		if _, err := kind(t, "systemd").Generate(o); err == nil || !strings.Contains(err.Error(), "is gone after each boot") {
			t.Errorf("--program in %s: %v, want it refused", dir, err)
		}
	}
}

// TestFilesOutliveABoot, whoever mounts them.
func TestFilesOutliveABoot(t *testing.T) {
	for kindName, option := range map[string]string{
		"k3s": "--encryption-config-path", "rke2": "--encryption-config-path", "systemd": "--config-path", "static-pod": "--config-path", "kubeadm": "--encryption-config-path",
	} {
		for dir, want := range map[string]string{
			"/run/kms": "is gone after each boot", "/var/run/kms": "is gone after each boot", "/tmp/kms": "lies in /tmp", "/dev/shm": "lies in /dev",
			"/etc/kubernetes/manifests": "the kubelet's", "/var/lib/rancher/k3s/server/manifests": "k3s applies", "/etc/rancher/k3s/config.yaml.d": "its own configuration",
		} {
			o := made(kindName)
			pathOptions()[option](&o, dir)
			if _, err := kind(t, kindName).Generate(o); err == nil || !strings.Contains(err.Error(), option+": ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s in %s: want %q, got %v", kindName, option, dir, want, err)
			}
		}
	}
}

// TestOutIsNoDirectoryOfOthers: what is put there would be taken, or mixed up.
func TestOutIsNoDirectoryOfOthers(t *testing.T) {
	for dir, want := range map[string]string{
		"/": "the whole node", "/etc": "whole configuration", "/etc/kubernetes": "admin.conf", "/etc/kubernetes/manifests": "takes every file there for a pod",
		"/etc/kubernetes/manifests/x": "takes every file there for a pod", "/var/lib/rancher/k3s/server/manifests": "k3s applies",
		"/var/lib/rancher/rke2/agent/pod-manifests": "RKE2", "/proc/1": "kernel", "/var/lib/etcd": "database", "/etc/kubernetes/pki": "private keys",
		"/tmp": "", "/tmp/x": "", "/root": "", "/home/ubuntu/generated": "", "/etc/aws-encryption-provider": "", "/work": "", "/opt/x": "", "/mnt": "", "/srv/x": "", "/run/user/1000/x": "",
	} {
		for _, k := range generate.Kinds() {
			o := made(k.Name)
			o.Out = dir
			_, err := k.Generate(o)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "--out: "+dir) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s --out=%s: want %q, got %v", k.Name, dir, want, err)
			}
		}
	}
}

func TestFilesOfOthersAreNotMounted(t *testing.T) {
	t.Parallel()
	for file, word := range map[string]string{
		"/etc/rancher/k3s/k3s.yaml":                      "kubeconfig",
		"/etc/kubernetes/bootstrap-kubelet.conf":         "kubeconfig",
		"/srv/kubernetes/kube-apiserver/etcd-client.key": "has a key in it",
		"/etc/shadow-":              "the node's own",
		"/etc/sudoers":              "the node's own",
		"/etc/krb5.keytab":          "the node's own",
		"/run/cri-dockerd.sock":     "is a socket",
		"/run/podman/podman.sock":   "is root",
		"/var/run/cri-dockerd.sock": "is a socket",
		"/etc/aws-encryption-provider/aws/credentials.conf": "",
		"/etc/kubernetes/encryption/some.key":               "",
	} {
		o := made("static-pod")
		o.Mounts = []string{file}
		text := ""
		if _, err := kind(t, "static-pod").Generate(o); err != nil {
			text = err.Error()
		}
		if word == "" && text != "" || !strings.Contains(text, word) || word != "" && !strings.Contains(text, "such as") {
			t.Errorf("--mount=%s: %q, want %q and what to give instead", file, text, word)
		}
	}
}

// TestNothingOfOthersIsMounted: what no list has, by its name, in every kind.
func TestNothingOfOthersIsMounted(t *testing.T) {
	t.Parallel()
	for kindName, mounts := range mountedBy() {
		for option, set := range pathOptions() {
			if !slices.Contains(mounts, option) {
				continue
			}
			for _, dir := range []string{
				"/etc/fstab", "/etc/nginx", "/etc/kubernetes/addons", "/etc/kubernetes.bak", "/etc/Kubernetes", "/Etc/kms", "/ETC/kubernetes/kms", "/etc/origin/master", "/etc/eks",
				"/var/lib/calico", "/var/lib/vault", "/var/lib/postgresql/kms", "/var/lib/kubelet.old", "/var/lib/kubelet/kms", "/var/db", "/opt/kubernetes/ssl", "/opt/foo", "/srv/data",
				"/backup", "/data", "/data/etcd", "/mnt/foo/bar", "/run/sshd", "/run/foo", "/home/ubuntu/kms", "/usr/bin/kms", "/usr/share/kms", "/lib/modules/kms", "/nix/store/kms", "/x/y",
				"/etc/kubernetes/pki/kms", "/etc/kubernetes/manifests/kms", path.Join("/proc/1/root", "opt/kms"), "/tmp/kms", "/dev/kms", "/var/cache/kms", "/etc/systemd/kms", "/boot/kms", path.Join("/root", "kms"), "/lost+found/kms",
			} {
				if option == "--mount" && dir == "/usr/bin/kms" { // one program
					continue
				}
				o := made(kindName)
				set(&o, dir)
				_, err := kind(t, kindName).Generate(o)
				if err == nil || !strings.Contains(err.Error(), option+": ") || !strings.Contains(err.Error(), "such as /") && !strings.Contains(err.Error(), "put the socket") {
					t.Errorf("%s %s in %s: %v", kindName, option, dir, err)
				}
			}
		}
	}
}

// TestNamesHaveRoles: a directory that is named for one side is not given to the other.
func TestNamesHaveRoles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		option, dir string
		taken       bool
	}{
		"socket beside keys":             {"--listen", "/etc/kubernetes/secret-encryption", false},
		"socket beside the config":       {"--listen", "/opt/encryption-config", false},
		"socket beside the config, long": {"--listen", "/opt/kms-encryption-config", false},
		"socket beside credentials":      {"--listen", "/etc/aws", false},
		"credentials":                    {"--env: AWS_SHARED_CREDENTIALS_FILE", "/etc/aws", true},
		"credentials beside keys":        {"--env: AWS_SHARED_CREDENTIALS_FILE", "/opt/encryption", false},
		"a mount with keys":              {"--mount", "/opt/encryption", false},
		"a mount of what is beside them": {"--mount", "/opt/encryption/x.pem", true},
		"the config beside credentials":  {"--encryption-config-path", "/etc/aws", false},
		"the config":                     {"--encryption-config-path", "/opt/encryption", true},
	} {
		o := made("kubeadmcontrolplane")
		pathOptions()[c.option](&o, c.dir)
		if _, err := kind(t, "kubeadmcontrolplane").Generate(o); (err == nil) != c.taken {
			t.Errorf("%s: %s in %s: %v", name, c.option, c.dir, err)
		}
	}
}

// TestEncryptionConfigurationIsLookedAt in kinds that mount nothing too.
func TestEncryptionConfigurationIsLookedAt(t *testing.T) {
	t.Parallel()
	for _, k := range generate.Kinds() {
		for _, at := range []string{
			"/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf", "/etc/fstab", "/etc/passwd", "/etc/shadow", "/etc/kubernetes/manifests/encryption.yaml", "/etc/kubernetes/pki/ca.key",
			"/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/pki/encryption.yaml", "/usr/bin/kubelet", "/var/lib/rancher/k3s/server/cred/encryption-config.json", "/etc/rancher/k3s/k3s.yaml",
			"/etc/rancher/k3s/config.yaml", "/encryption.yaml", "/etc/encryption.yaml", "/tmp/encryption.yaml", "/run/kms/encryption.yaml", "/home/me/encryption/config.yaml", "/etc/kubernetes", "/",
			"/etc/kubernetes/audit.yaml", "/etc/kubernetes/../kubernetes/admin.conf", "encryption.yaml", "", "/opt/kms/a\x1b[2J", "/etc/kubernetes/encryption-config", "/etc/kubernetes/encryption/", "/etc/kubernetes//encryption/a",
		} {
			o := made(k.Name)
			o.PathAt = at
			_, err := k.Generate(o)
			if k.Name == "sidecar" && at == "/run/kms/encryption.yaml" { // a volume of the pod
				continue
			}
			if err == nil || !strings.Contains(err.Error(), "--encryption-config-path: ") || !strings.Contains(err.Error(), "such as ") && !strings.Contains(err.Error(), "write /") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%s --encryption-config-path=%q: %v", k.Name, at, err)
			}
		}
	}
}

// TestEncryptionConfigurationBesideOthers: right in /etc/kubernetes, as many have it,
// the file is mounted and not the directory. RKE2 mounts it itself.
func TestEncryptionConfigurationBesideOthers(t *testing.T) {
	t.Parallel()
	const at = "/etc/kubernetes/encryption-config.yaml"
	for _, k := range generate.Kinds() {
		o := made(k.Name)
		o.PathAt = at
		files, err := k.Generate(o)
		if k.Name == "sidecar" {
			if err == nil || !strings.Contains(err.Error(), "its directory /etc/kubernetes would be hidden by a volume") {
				t.Errorf("%s: %v", k.Name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
			continue
		}
		var text strings.Builder
		for _, f := range files {
			text.WriteString(f.Text)
		}
		wants := map[string][]string{
			"kubeadm":             {"hostPath: " + at, "mountPath: " + at, "pathType: File", "after every change of that file kube-apiserver is restarted"},
			"kubeadmcontrolplane": {"hostPath: " + at, "mountPath: " + at, "pathType: File"},
			"kubespray":           {"hostPath: " + at, "mountPath: " + at, "after every change of that file kube-apiserver is restarted"},
			"rke2":                {"encryption-provider-config=" + at, "restarted after every change of the EncryptionConfiguration"},
		}
		for _, want := range wants[k.Name] {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: no %q in\n%s", k.Name, want, text.String())
			}
		}
		for _, mount := range []string{"hostPath: /etc/kubernetes\n", "- /etc/kubernetes:", "- " + at + ":"} {
			if strings.Contains(text.String(), mount) {
				t.Errorf("%s: %q in\n%s", k.Name, mount, text.String())
			}
		}
	}
}

// TestUnitsQuoteBlanks, which everything else refuses, and which a unit loses at an end.
func TestUnitsQuoteBlanks(t *testing.T) {
	t.Parallel()
	o := made("systemd")
	o.Config.Providers[0].Listen, o.FileAt, o.Program = "/opt/my kms/a.sock", "/etc/my kms/config.yaml", "/opt/my kms/bin/provider"
	o.Env = []string{"AWS_CA_BUNDLE=/etc/my kms/ca.pem"}
	files, err := kind(t, "systemd").Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	for i, wants := range [][]string{
		{"ExecStart=\"/opt/my kms/bin/provider\" \\\n  \"--config=/etc/my kms/config.yaml\"", "Environment=\"AWS_CA_BUNDLE=/etc/my kms/ca.pem\"\n", "ReadWritePaths=\"-/opt/my kms\"\n"},
		{"ListenStream=/opt/my kms/a.sock\n"},
	} {
		for _, want := range wants {
			if !strings.Contains(files[i].Text, want) {
				t.Errorf("no %s in\n%s", want, files[i].Text)
			}
		}
	}
	for _, at := range []string{"/opt/kms/a.sock ", "/opt/kms/a\tb", "/opt/kms/a\nb", "/opt/kms/a\"b", "/opt/kms/a'b", `/opt/kms/a\b`, "/opt/kms/a%b", "/opt/kms/a$b"} {
		o := made("systemd")
		o.Config.Providers[0].Listen = at
		if _, err := kind(t, "systemd").Generate(o); err == nil || !strings.Contains(err.Error(), "--listen: ") {
			t.Errorf("--listen=%q: %v", at, err)
		}
	}
}

// TestRefusalsSuggestAPathThatIsTaken, near the one that was given where that can be.
func TestRefusalsSuggestAPathThatIsTaken(t *testing.T) {
	t.Parallel()
	suggested := regexp.MustCompile(`such as (/\S+)$`)
	for option, dirs := range map[string]map[string]string{
		"--listen":                 {"/opt/foo": "/opt/foo/aws-encryption-provider/socket.sock", "/etc/nginx": "/run/kmsplugin/socket.sock"},
		"--encryption-config-path": {"/opt/foo": "/opt/foo/encryption/encryption.yaml", "/etc/kubernetes/audit": generate.DefaultEncConfig, "/etc/nginx": generate.DefaultEncConfig},
		"--config-path":            {"/opt/foo": "/opt/foo/aws-encryption-provider/provider.yaml", "/etc/nginx": generate.DefaultConfigAt},
		"--mount":                  {"/opt/foo": "/opt/aws-encryption-provider/foo"},
	} {
		for dir, want := range dirs {
			o := made("kubeadmcontrolplane")
			pathOptions()[option](&o, dir)
			_, err := kind(t, "kubeadmcontrolplane").Generate(o)
			if err == nil || suggested.FindStringSubmatch(err.Error()) == nil {
				t.Errorf("%s in %s: %v", option, dir, err)
				continue
			}
			at := suggested.FindStringSubmatch(err.Error())[1]
			if strings.Replace(at, "/var/run/", "/run/", 1) != want {
				t.Errorf("%s in %s: suggests %s, want %s", option, dir, at, want)
			}
			o = made("kubeadmcontrolplane")
			switch option {
			case "--listen":
				o.Config.Providers[0].Listen = at
			case "--encryption-config-path":
				o.PathAt = at
			case "--config-path":
				o.FileAt = at
			default:
				o.Mounts = []string{at}
			}
			if _, err := kind(t, "kubeadmcontrolplane").Generate(o); err != nil {
				t.Errorf("%s: %s is suggested, and refused: %v", option, at, err)
			}
		}
	}
}
