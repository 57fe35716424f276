package manifests_test

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	kubeadmscheme "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/scheme"
	kubeadmv1beta4 "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/controlplane"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1internal "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	controlplanev1beta2 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	"sigs.k8s.io/yaml"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/generate"
)

// directories of a control plane node, in all spellings: those that are nobody's
// business to mount, those of distributions, and those that guides use.
func directories() []string {
	return []string{
		"/", "/etc", "/etc/", "/etc/kubernetes", "/etc/kubernetes/", "/etc/kubernetes/pki", "/etc/kubernetes/pki/etcd", "/etc/kubernetes/manifests",
		"/etc/kubernetes/ssl", "/etc/kubernetes/tokens", "/etc/kubernetes/audit-policy", "/etc/kubernetes/tracing", "/etc/kubernetes/admin.conf",
		"/etc/kubernetes/../kubernetes/pki", "//etc/kubernetes", "/etc/./kubernetes", "/etc/ssl", "/etc/ssl/certs", "/etc/ssl/private", "/etc/ssl/etcd/ssl",
		"/etc/pki", "/etc/pki/tls", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates", "/usr/share/ca-certificates",
		"/usr/local/share/ca-certificates", "/usr/share/ssl", "/usr/lib/ssl", "/usr/ssl", "/usr/local/openssl", "/var/ssl", "/etc/openssl",
		"/etc/rancher", "/etc/rancher/rke2", "/etc/rancher/k3s", "/etc/rancher/rke2/config.yaml.d", "/etc/etcd", "/etc/etcd/pki", "/etc/shadow", "/etc/ssh",
		"/srv", "/srv/kubernetes", "/srv/kubernetes/kube-apiserver", "/srv/kubernetes/kube-controller-manager", "/srv/sshproxy", "/srv/kubernetes/ca.crt",
		"/var", "/var/lib", "/var/lib/etcd", "/var/lib/kubelet", "/var/lib/kubelet/pods", "/var/lib/rancher", "/var/lib/rancher/rke2", "/var/lib/rancher/rke2/server",
		"/var/lib/rancher/rke2/server/cred", "/var/lib/rancher/k3s/server/manifests", "/var/lib/containerd", "/var/log", "/var/log/audit", "/var/log/kube-apiserver.log",
		"/var/run", "/run", "/run/containerd", "/var/run/docker", "/run/systemd", "/tmp", "/tmp/kms", "/var/tmp", "/proc", "/proc/self/cwd/etc", "/sys", "/dev", "/dev/shm",
		"/home", "/home/ubuntu", "/root", path.Join("/root", ".aws"), "/usr", "/usr/bin", "/usr/lib", "/opt", "/boot", "/lib", "/mnt", "/media",
		"relative", "./relative", "../etc", "", "/opt/my kms", "/opt/k:ms", "/opt/k,ms", "/opt/k\nms", "/opt/k$ms", "/opt/k%ms", "/opt/k\"ms", "/opt/schl\u00fcssel",
		// No list has these.
		"/etc/fstab", "/etc/nginx", "/etc/eks", "/etc/kubernetes.bak", "/etc/kubernetes/addons", "/etc/Kubernetes", "/ETC/kms", "/etc/origin/master", "/var/lib/vault", "/var/lib/calico",
		"/var/lib/kubelet/kms", "/var/lib/postgresql/kms", "/opt/kubernetes/ssl", "/opt/foo", "/backup", "/data/etcd", "/mnt/a/b", "/run/sshd", "/home/ubuntu/kms", "/etc/aws", "/etc/kubernetes/pki/kms",
		"/usr/share/kms", "/etc/kubernetes/encryption/", "/etc/kubernetes/kms/..", "/opt/kms\x1b[2J", "/opt/kms\x00", "/OPT/KMS", "/opt/kms ", " /opt/kms",
		// These are ours.
		"/srv/aws-encryption-provider", "/var/lib/kms-plugin", "/data/kms", "/etc/kubernetes/enc", "/etc/kubernetes/secret-encryption", "/usr/local/bin/print-credentials",
		"/run/kms", "/var/run/kms", "/run/kmsplugin", "/var/run/kmsplugin", "/etc/kubernetes/encryption", "/etc/aws-encryption-provider", "/opt/kms", "/etc/kms", "/etc/kubernetes/kms", "/etc/aws-encryption-provider/aws", "/var/lib/kms",
		"/srv/kubernetes/kube-apiserver/kms", "/etc/rancher/rke2/kms", "/usr/share/zoneinfo",
	}
}

// options give a directory, or a file in it, to each option that takes a path.
func options() map[string]func(o *generate.Options, dir string) {
	return map[string]func(o *generate.Options, dir string){
		"--listen":                 func(o *generate.Options, dir string) { o.Config.Providers[0].Listen = dir + "/socket.sock" },
		"--encryption-config-path": func(o *generate.Options, dir string) { o.PathAt = dir + "/encryption.yaml" },
		"--config-path":            func(o *generate.Options, dir string) { o.FileAt = dir + "/provider.yaml" },
		"--program":                func(o *generate.Options, dir string) { o.Program = dir + "/aws-encryption-provider" },
		"--mount":                  func(o *generate.Options, dir string) { o.Mounts = []string{dir} },
		"--out":                    func(o *generate.Options, dir string) { o.Out = path.Join("/", dir) },
		"--env: AWS_SHARED_CREDENTIALS_FILE": func(o *generate.Options, dir string) {
			o.Env = []string{"AWS_SHARED_CREDENTIALS_FILE=" + dir + "/credentials"}
		},
		"--env: AWS_CA_BUNDLE": func(o *generate.Options, dir string) { o.Env = []string{"AWS_CA_BUNDLE=" + dir + "/ca.pem"} },
		"--env: SSL_CERT_DIR": func(o *generate.Options, dir string) {
			o.Env = []string{"SSL_CERT_DIR=" + strings.ReplaceAll(dir, ":", "")}
		},
	}
}

// usual are options that every kind takes.
func usual(kind generate.Kind) generate.Options {
	listen := config.DefaultSocket
	if kind.Socket != "" {
		listen = kind.Socket
	}
	return generate.Options{
		Config: &config.Config{
			Providers: []config.Provider{{Name: "0", Listen: listen, Keys: []config.Key{{Key: "alias/a", Region: "us-west-2"}}}},
			Socket:    config.Socket{Group: -1, Mode: 0o600}, Health: config.Health{Address: ":8080", LivezPath: "/livez"}, KMSTimeout: 2500e6,
		},
		Args: []string{"--key=alias/a"}, Made: []byte("kind: ProviderConfiguration\n"), FileAt: generate.DefaultConfigAt, PathAt: generate.DefaultEncConfig,
		Image: generate.Image("v1.2.3", false), Program: generate.DefaultProgram, CacheSize: generate.DefaultCacheSize,
	}
}

// TestEveryPathIsRefusedOrAccepted: each path option, each kind, each directory.
// What is not refused is given to those who read it: kubeadm makes its own pod of it,
// which is validated as the API server and the kubelet do. Nobody is given a secret.
func TestEveryPathIsRefusedOrAccepted(t *testing.T) {
	kubeadm.SetActiveTimeouts(kubeadm.GetActiveTimeouts())
	if n := len(directories()); n < 30 {
		t.Fatalf("%d directories", n)
	}
	for _, kind := range generate.Kinds() {
		refused, accepted := 0, 0
		for option, set := range options() {
			for _, dir := range directories() {
				o := usual(kind)
				set(&o, dir)
				files, err := kind.Generate(o)
				name := fmt.Sprintf("%s %s in %q", kind.Name, option, dir)
				if err != nil {
					refused++
					told(t, name, option, err)
					continue
				}
				accepted++
				takes(t, name, kind.Name, files)
			}
		}
		t.Logf("%s: %d refused, %d accepted", kind.Name, refused, accepted)
		if refused == 0 || accepted == 0 {
			t.Errorf("%s: %d refused, %d accepted: want both", kind.Name, refused, accepted)
		}
	}
}

// told: every refusal names the option, the path's fault and what to give instead.
func told(t *testing.T, name, option string, err error) {
	t.Helper()
	mistakes, ok := errors.AsType[config.Mistakes](err)
	if !ok || len(mistakes) != 1 {
		t.Errorf("%s: %v, want one mistake", name, err)
		return
	}
	m := mistakes[0]
	if m.Field == "encryption-config" && option == "--listen" { // kube-apiserver's own rules of endpoints
		return
	}
	if m.Field != option || len(m.Text) < 20 || !strings.Contains(m.Text, "such as ") && !strings.Contains(m.Text, "write ") && !strings.Contains(m.Text, "put the socket") {
		t.Errorf("%s: %q says too little", name, m)
	}
}

// takes gives what was generated to its readers.
func takes(t *testing.T, name, kind string, files []generate.File) {
	t.Helper()
	for _, file := range files {
		data := []byte(file.Text)
		switch {
		case file.Name == "config.yaml", kind == "encryption-config", strings.HasSuffix(file.Name, "configmap.yaml"):
		case kind == "static-pod":
			takesPod(t, name, data)
		case kind == "kubeadm":
			var c kubeadmv1beta4.ClusterConfiguration
			strictly(t, data, &c)
			valid(t, name, kubeadmPod(t, &c))
		case kind == "kubeadmcontrolplane":
			var kcp controlplanev1beta2.KubeadmControlPlane
			strictly(t, data, &kcp)
			valid(t, name, kubeadmPod(t, upstream(t, &kcp)))
			for _, f := range kcp.Spec.KubeadmConfigSpec.Files {
				if strings.HasPrefix(f.Path, "/etc/kubernetes/manifests/") {
					takesPod(t, name, []byte(f.Content))
				}
			}
		case kind == "kops":
			takesKops(t, name, data)
		case kind == "kubespray":
			takesKubespray(t, name, data)
		case kind == "rke2":
			takesRKE2(t, name, data)
		case kind == "k3s":
			var file struct {
				Args []string `json:"kube-apiserver-arg+"`
			}
			strictly(t, data, &file)
			for _, arg := range file.Args {
				if flag, value, _ := strings.Cut(arg, "="); flag == "encryption-provider-config" && !keeps(path.Dir(value)) {
					t.Errorf("%s: %s does not stay, or is read by others", name, value)
				}
			}
		case kind == "systemd":
			takesUnit(t, name, file)
		case kind == "sidecar":
			takesSidecar(t, name, data)
		default:
			t.Errorf("%s: nobody reads %s", name, file.Name)
		}
	}
}

// keeps reports whether a file in a directory is there after a boot, and its reader's
// alone.
func keeps(dir string) bool {
	for _, bad := range []string{
		"/run", "/var/run", "/tmp", "/var/tmp", "/proc", "/sys", "/dev", "/etc/kubernetes/manifests", "/etc/rancher/k3s/config.yaml.d", "/var/lib/rancher/k3s/server",
	} {
		if dir == bad || strings.HasPrefix(dir, bad+"/") {
			return false
		}
	}
	return true
}

// secrets are files that nobody may be given, apart from kube-apiserver, by its own
// distribution, those that are its own.
func secrets() []string {
	return []string{
		"/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssl/private/ssl-cert-snakeoil.key", "/etc/pki/tls/private/localhost.key", "/etc/etcd/pki/etcd.key",
		"/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf", "/etc/kubernetes/pki/ca.key", "/etc/kubernetes/pki/etcd/ca.key", "/etc/kubernetes/ssl/ca.key",
		"/etc/kubernetes/manifests/etcd.yaml", "/etc/kubernetes/tokens/known_tokens.csv", "/etc/ssl/etcd/ssl/ca-key.pem", "/etc/rancher/rke2/rke2.yaml", "/etc/rancher/k3s/k3s.yaml",
		"/srv/kubernetes/ca.key", "/srv/kubernetes/kube-apiserver/service-account.key", "/srv/kubernetes/kube-controller-manager/ca.key", "/var/lib/etcd/member/snap/db",
		"/var/lib/kubelet/pki/kubelet.key", "/var/lib/kubelet/pods/x/volumes/secret", "/var/lib/rancher/rke2/server/tls/server-ca.key", "/var/lib/rancher/k3s/server/cred/encryption-config.json",
		path.Join("/root", ".ssh", "id_ed25519"), "/home/ubuntu/.ssh/id_ed25519", "/run/containerd/containerd.sock", "/var/run/docker.sock", "/run/docker.sock", "/run/systemd/private",
		"/proc/1/environ", "/sys/kernel/security", "/dev/mem", "/var/run/containerd/containerd.sock",
	}
}

// gives says which secret a mount of a directory shows.
func gives(dir string) string {
	i := slices.IndexFunc(secrets(), func(secret string) bool {
		return dir == "/" || secret == dir || strings.HasPrefix(secret, dir+"/")
	})
	if i < 0 {
		return ""
	}
	return secrets()[i]
}

// takesPod: the kubelet takes the static pod, and it shows the program no secret.
func takesPod(t *testing.T, name string, data []byte) {
	t.Helper()
	var pod corev1.Pod
	strictly(t, data, &pod)
	valid(t, name, pod)
	for _, v := range pod.Spec.Volumes {
		if secret := gives(v.HostPath.Path); secret != "" {
			t.Errorf("%s: the program is given %s by %s", name, secret, v.HostPath.Path)
		}
	}
	mounted(t, pod.Spec, pod.Spec.Containers[0])
}

// valid: as the API server and the kubelet validate a pod, after their defaults.
func valid(t *testing.T, name string, pod corev1.Pod) {
	t.Helper()
	if pod.Name == "" {
		pod.ObjectMeta = metav1.ObjectMeta{Name: "kube-apiserver", Namespace: "kube-system"}
	}
	corev1internal.SetObjectDefaults_Pod(&pod)
	var internal core.Pod
	if err := corev1internal.Convert_v1_Pod_To_core_Pod(&pod, &internal, nil); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if errs := validation.ValidatePodCreate(&internal, validation.PodValidationOptions{}); len(errs) > 0 {
		t.Errorf("%s: the API server refuses it: %v", name, errs.ToAggregate())
	}
}

// kubeadmPod is kube-apiserver as kubeadm makes it.
func kubeadmPod(t *testing.T, c *kubeadmv1beta4.ClusterConfiguration) corev1.Pod {
	t.Helper()
	c.KubernetesVersion = "v1.37.2"
	kubeadmscheme.Scheme.Default(c)
	var internal kubeadm.ClusterConfiguration
	if err := kubeadmscheme.Scheme.Convert(c, &internal, nil); err != nil {
		t.Fatal(err)
	}
	for _, v := range c.APIServer.ExtraVolumes {
		if secret := gives(v.HostPath); secret != "" {
			t.Errorf("kube-apiserver is given %s by %s", secret, v.HostPath)
		}
	}
	pods := controlplane.GetStaticPodSpecs(&internal, &kubeadm.APIEndpoint{AdvertiseAddress: "192.0.2.1", BindPort: 6443}, []kubeadm.EnvVar{})
	return pods["kube-apiserver"]
}

// upstream is what Cluster API writes for kubeadm.
func upstream(t *testing.T, kcp *controlplanev1beta2.KubeadmControlPlane) *kubeadmv1beta4.ClusterConfiguration {
	t.Helper()
	data, err := yaml.Marshal(map[string]any{"apiServer": kcp.Spec.KubeadmConfigSpec.ClusterConfiguration.APIServer})
	if err != nil {
		t.Fatal(err)
	}
	c := new(kubeadmv1beta4.ClusterConfiguration)
	strictly(t, data, c)
	return c
}

// apiServerWith is a kube-apiserver with a distribution's mounts, in the order of
// its manifest, for those whose code cannot be called.
func apiServerWith(mounts []string) corev1.Pod {
	c := corev1.Container{Name: "kube-apiserver", Image: "kube-apiserver"}
	pod := corev1.Pod{}
	for i, at := range mounts {
		name := fmt.Sprintf("own-%d", i)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: at}}})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: at})
	}
	pod.Spec.Containers = []corev1.Container{c}
	return pod
}

// with adds a mount that was generated.
func with(t *testing.T, name string, pod *corev1.Pod, volume, host, at string) {
	t.Helper()
	if secret := gives(host); secret != "" {
		t.Errorf("%s: kube-apiserver is given %s by %s", name, secret, host)
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}})
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: at, ReadOnly: true})
}

// kopsMounts of kube-apiserver on a control plane node of the default distribution,
// with an audit log.
//
// https://github.com/kubernetes/kops/blob/268927e26409f861634e18f3632c9dd483c350cf/nodeup/pkg/model/kube_apiserver.go (buildPod),
// nodeup/pkg/model/context.go (SSLHostPaths, PathSrvKubernetes, PathSrvSshproxy), and the same as a whole in
// nodeup/pkg/model/tests/golden/minimal/tasks-kube-apiserver.yaml
func kopsMounts() []string {
	return []string{
		"/var/log/kube-apiserver.log", "/etc/ssl", "/etc/pki/tls", "/etc/pki/ca-trust", "/usr/share/ssl", "/usr/ssl", "/usr/lib/ssl", "/usr/local/openssl",
		"/var/ssl", "/etc/openssl", "/srv/kubernetes/ca.crt", "/srv/kubernetes/kube-apiserver", "/srv/sshproxy", "/etc/kubernetes/authn.config",
	}
}

// takesKops: kOps adds no mount, so that the socket has to be below one of its own;
// the program's pod has none of them.
func takesKops(t *testing.T, name string, data []byte) {
	t.Helper()
	valid(t, name, apiServerWith(kopsMounts()))
	var cluster struct {
		Spec struct {
			FileAssets []struct{ Path, Content string }
		}
	}
	if err := yaml.Unmarshal(data, &cluster); err != nil {
		t.Fatal(err)
	}
	for _, asset := range cluster.Spec.FileAssets {
		if path.Dir(asset.Path) != "/etc/kubernetes/manifests" {
			if !keeps(path.Dir(asset.Path)) || gives(path.Dir(asset.Path)) != "" {
				t.Errorf("%s: a file of ours at %s", name, asset.Path)
			}
			continue
		}
		takesPod(t, name, []byte(asset.Content))
		var pod corev1.Pod
		strictly(t, []byte(asset.Content), &pod)
		seen := false
		for _, m := range pod.Spec.Containers[0].VolumeMounts {
			if slices.Contains(kopsMounts(), m.MountPath) {
				t.Errorf("%s: %s is kube-apiserver's own", name, m.MountPath)
			}
			seen = seen || !m.ReadOnly && strings.HasPrefix(m.MountPath, "/srv/kubernetes/kube-apiserver/")
		}
		if !seen {
			t.Errorf("%s: kube-apiserver does not see the socket: %v", name, pod.Spec.Containers[0].VolumeMounts)
		}
	}
}

// kubesprayMounts of kube-apiserver with every variable that adds one set, on either
// family of distributions: what its template writes, and what kubeadm adds to it.
//
// https://github.com/kubernetes-sigs/kubespray/blob/46dbdd3994b32640bcd806b0097f50e8fdf1d514/roles/kubernetes/control-plane/templates/kubeadm-config.v1beta4.yaml.j2
// (extraVolumes of apiServer), roles/kubespray_defaults/defaults/main/main.yml (ssl_ca_dirs, kube_config_dir, kube_cert_dir, kube_token_dir),
// roles/kubernetes/control-plane/defaults/main/main.yml (audit_log_path, audit_policy_file)
func kubesprayMounts() []string {
	return []string{
		"/etc/kubernetes/ssl", "/etc/ssl/certs", "/etc/ssl/etcd/ssl", // by kubeadm: certificatesDir, ca-certs, etcd.external
		"/etc/kubernetes/tokens", "/etc/kubernetes/webhook-token-auth-config.yaml", "/etc/kubernetes/webhook-authorization-config.yaml",
		"/etc/kubernetes/apiserver-authorization-config-v1.yaml", "/etc/kubernetes/apiserver-authentication-config-v1.yaml",
		"/etc/kubernetes/audit-policy", "/var/log/audit", "/etc/kubernetes", "/etc/kubernetes/tracing",
		"/usr/share/ca-certificates", "/etc/pki/tls", "/etc/pki/ca-trust",
	}
}

func takesKubespray(t *testing.T, name string, data []byte) {
	t.Helper()
	hasFields(t, data, kubesprayFields())
	var file struct {
		Volumes []struct {
			Name, HostPath, MountPath string
		} `json:"apiserver_extra_volumes"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	pod := apiServerWith(kubesprayMounts())
	for _, v := range file.Volumes {
		with(t, name, &pod, v.Name, v.HostPath, v.MountPath)
	}
	valid(t, name, pod)
}

// rke2Mounts of kube-apiserver.
//
// https://github.com/rancher/rke2/blob/6ce1a8019e9d0b81eb7a715edbc2b8ac12d26da0/pkg/executor/staticpod/staticpod.go (APIServer),
// pkg/podtemplate/types.go (SSLDirs)
func rke2Mounts() []string {
	return []string{
		"/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/ca-certificates", "/usr/local/share/ca-certificates", "/usr/share/ca-certificates",
		"/var/lib/rancher/rke2/server/logs", "/var/lib/rancher/rke2/server", "/var/lib/rancher/rke2/server/db/etcd/name",
	}
}

// rke2Files are those that flags name: RKE2 mounts each by itself.
//
// https://github.com/rancher/rke2/blob/6ce1a8019e9d0b81eb7a715edbc2b8ac12d26da0/pkg/podtemplate/podtemplate.go (ReadFiles)
func rke2Files(args []string) []string {
	var files []string
	for _, arg := range args {
		if _, at, _ := strings.Cut(arg, "="); strings.HasPrefix(at, "/") {
			files = append(files, at)
		}
	}
	return files
}

func takesRKE2(t *testing.T, name string, data []byte) {
	t.Helper()
	decodesRKE2(t, data)
	var file struct {
		Args   []string `json:"kube-apiserver-arg+"`
		Mounts []string `json:"kube-apiserver-extra-mount+"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	pod := apiServerWith(append(rke2Mounts(), rke2Files(file.Args)...))
	for i, m := range file.Mounts {
		parts := strings.Split(m, ":")
		with(t, name, &pod, fmt.Sprintf("extra-mount-%d", i), parts[0], parts[1])
	}
	valid(t, name, pod)
}

// takesUnit: the unit's own file system has what the drop-in names, and the service
// may write to no directory of others.
func takesUnit(t *testing.T, name string, file generate.File) {
	t.Helper()
	hasDirectives(t, []byte(file.Text))
	for line := range strings.Lines(file.Text) {
		line = strings.Trim(strings.TrimSpace(line), `\ `)
		if at, ok := strings.CutPrefix(line, "ReadWritePaths=-"); ok && gives(at) != "" {
			t.Errorf("%s: the service may write to %s, %s included", name, at, gives(at))
		}
		if at, ok := strings.CutPrefix(line, "--config="); ok && !keeps(path.Dir(at)) {
			t.Errorf("%s: %s does not stay", name, at)
		}
	}
}

// takesSidecar: in each container every mount path is there once, and hides nothing.
func takesSidecar(t *testing.T, name string, data []byte) {
	t.Helper()
	decodesSidecar(t, name, data)
	var deployment struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	if err := yaml.Unmarshal(data, &deployment); err != nil {
		t.Fatal(err)
	}
	spec := deployment.Spec.Template.Spec
	spec.Containers[0].Image = "kube-apiserver"
	valid(t, name, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "hosted", Namespace: "one"}, Spec: spec})
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		for _, m := range c.VolumeMounts {
			if slices.Contains([]string{"/", "/etc", "/etc/kubernetes", "/etc/kubernetes/pki", "/etc/ssl", "/etc/ssl/certs", "/usr", "/usr/bin", "/tmp", "/proc", "/sys", "/dev"}, m.MountPath) {
				t.Errorf("%s: %s of %s is hidden", name, m.MountPath, c.Name)
			}
		}
	}
}

// TestDuplicateMountIsFound: kubeadm makes the pod all the same, and only the API
// server, or the kubelet, refuses it.
func TestDuplicateMountIsFound(t *testing.T) {
	pod := apiServerWith([]string{"/etc/kubernetes/pki", "/etc/kubernetes/pki"})
	corev1internal.SetObjectDefaults_Pod(&pod)
	pod.ObjectMeta = metav1.ObjectMeta{Name: "a", Namespace: "b"}
	var internal core.Pod
	if err := corev1internal.Convert_v1_Pod_To_core_Pod(&pod, &internal, nil); err != nil {
		t.Fatal(err)
	}
	if errs := validation.ValidatePodCreate(&internal, validation.PodValidationOptions{}); len(errs) == 0 {
		t.Error("two mounts at one path are taken: nothing here finds them")
	}
}
