package manifests_test

import (
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	kubeadmscheme "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/scheme"
	kubeadmv1beta4 "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/config/strict"
	controlplanev1beta2 "sigs.k8s.io/cluster-api/api/controlplane/kubeadm/v1beta2"
	"sigs.k8s.io/yaml"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// checks are what is done with the files of a kind: a folder of that name.
func checks() map[string]func(t *testing.T, file string, data []byte) {
	return map[string]func(t *testing.T, file string, data []byte){
		"encryption-config":   loadsEncryptionConfig,
		"static-pod":          decodesStaticPod,
		"sidecar":             decodesSidecar,
		"kubeadm":             decodesKubeadm,
		"kubeadmcontrolplane": decodesKubeadmControlPlane,
		"kops":                func(t *testing.T, _ string, data []byte) { t.Helper(); decodesKops(t, data) },
		"kubespray":           func(t *testing.T, _ string, data []byte) { t.Helper(); hasFields(t, data, kubesprayFields()) },
		"k3s":                 func(t *testing.T, _ string, data []byte) { t.Helper(); hasFields(t, data, k3sFields()) },
		"rke2":                func(t *testing.T, _ string, data []byte) { t.Helper(); decodesRKE2(t, data) },
		"systemd":             func(t *testing.T, _ string, data []byte) { t.Helper(); hasDirectives(t, data) },
	}
}

// TestGeneratedFilesAreDecoded takes every golden file there is. A kind without a
// check fails, and so does a check without a file.
func TestGeneratedFilesAreDecoded(t *testing.T) {
	golden := filepath.Join("..", "..", "internal", "cli", "testdata", "generate")
	seen := map[string]int{}
	root := os.DirFS(golden)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		parts := strings.Split(name, "/")
		if err != nil || entry.IsDir() || len(parts) < 3 {
			return err
		}
		check, ok := checks()[parts[1]]
		if !ok {
			t.Errorf("%s: nothing here checks the kind %s", name, parts[1])
			return nil
		}
		seen[parts[1]]++
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		switch path.Base(name) {
		case "config.yaml":
			check = loadsConfig
		case "hosted-control-plane-configmap.yaml":
			check = decodesConfigMap
		}
		t.Run(name, func(t *testing.T) { check(t, filepath.Join(golden, name), data) })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for kind := range checks() {
		if seen[kind] == 0 {
			t.Errorf("no file of kind %s in %s", kind, golden)
		}
	}
}

// TestManifestsAreDecoded takes those of deploy.
func TestManifestsAreDecoded(t *testing.T) {
	for name, check := range map[string]func(*testing.T, string, []byte){
		"static-pod.yaml":                     decodesStaticPod,
		"config.yaml":                         loadsConfig,
		"hosted-control-plane-sidecar.yaml":   decodesSidecar,
		"hosted-control-plane-configmap.yaml": decodesConfigMap,
	} {
		file := filepath.Join("..", "..", "deploy", "manifests", name)
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { check(t, file, data) })
	}
}

// loadsEncryptionConfig gives the file to kube-apiserver's own loader, with and
// without the reload that makes it stricter.
func loadsEncryptionConfig(t *testing.T, file string, data []byte) {
	t.Helper()
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.KMSv1, true)
	for _, reload := range []bool{false, true} {
		// It would wait ten seconds for plugins, which are not there.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, file, reload, "test")
		if err != nil {
			t.Errorf("kube-apiserver, reload %v: %v in\n%s", reload, err, data)
			return
		}
		if len(loaded.Transformers) == 0 || len(loaded.HealthChecks) == 0 {
			t.Errorf("reload %v: %d transformers, %d checks: want both", reload, len(loaded.Transformers), len(loaded.HealthChecks))
		}
	}
}

// loadsConfig gives the file to the program's own loader.
func loadsConfig(t *testing.T, file string, data []byte) {
	t.Helper()
	none := func(string) (string, bool) { return "", false }
	cfg, err := config.NewFlags(pflag.NewFlagSet("test", pflag.ContinueOnError)).Parse([]string{"--config=" + file}, none)
	if err != nil || len(cfg.Providers) == 0 {
		t.Errorf("the program takes %v of\n%s\n%v", cfg, data, err)
	}
}

// decodesConfigMap: each key is a file that the program loads.
func decodesConfigMap(t *testing.T, _ string, data []byte) {
	t.Helper()
	var m corev1.ConfigMap
	strictly(t, data, &m)
	if m.APIVersion != "v1" || m.Kind != "ConfigMap" || m.Name != "aws-encryption-provider" || len(m.Data) != 1 || m.Immutable != nil {
		t.Errorf("is no ConfigMap of one file that can be changed:\n%s", data)
	}
	for name, text := range m.Data {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		loadsConfig(t, file, []byte(text))
	}
}

func strictly(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(data, into, yaml.DisallowUnknownFields); err != nil {
		t.Fatalf("decoding into %T: %v in\n%s", into, err, data)
	}
}

func decodesStaticPod(t *testing.T, _ string, data []byte) {
	t.Helper()
	var pod corev1.Pod
	strictly(t, data, &pod)
	if pod.APIVersion != "v1" || pod.Kind != "Pod" || len(pod.Spec.Containers) != 1 {
		t.Fatalf("is no pod of one container: %s", data)
	}
	if !pod.Spec.HostNetwork || pod.Spec.PriorityClassName != "system-node-critical" {
		t.Errorf("host network %v, priority class %q", pod.Spec.HostNetwork, pod.Spec.PriorityClassName)
	}
	for _, v := range pod.Spec.Volumes { // a static pod can refer to nothing that the API server has
		if v.HostPath == nil {
			t.Errorf("volume %s is no hostPath", v.Name)
		}
	}
	for _, p := range []*corev1.Probe{pod.Spec.Containers[0].LivenessProbe, pod.Spec.Containers[0].ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Port.IntValue() == 0 {
			t.Errorf("a probe asks nothing: %v", p)
		}
	}
	hardened(t, pod.Spec, pod.Spec.Containers[0])
	mounted(t, pod.Spec, pod.Spec.Containers[0])
}

// hardened is what every pod of ours is.
func hardened(t *testing.T, pod corev1.PodSpec, c corev1.Container) {
	t.Helper()
	yes := func(b *bool) bool { return b != nil && *b }
	s := c.SecurityContext
	if s == nil || !yes(s.ReadOnlyRootFilesystem) || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.Capabilities == nil || len(s.Capabilities.Add) > 0 || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
		t.Errorf("security context: %v", s)
	}
	if p := pod.SecurityContext; p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context of the pod: %v", p)
	}
	if r := c.Resources; r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() || r.Limits.Memory().IsZero() || !r.Limits.Cpu().IsZero() {
		t.Errorf("resources: %v", r)
	}
}

// mounted reports whether each mount has its volume, and each path that the flags
// name has its directory mounted, as a directory: a file that is renamed into it is
// seen.
func mounted(t *testing.T, pod corev1.PodSpec, c corev1.Container) {
	t.Helper()
	volumes := map[string]corev1.Volume{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = v
	}
	mounts := map[string]bool{}
	for _, m := range c.VolumeMounts {
		v, ok := volumes[m.Name]
		if !ok {
			t.Errorf("mount %s has no volume", m.Name)
		}
		if host := v.HostPath; m.SubPath != "" || host != nil && (host.Path != m.MountPath || host.Type != nil && strings.HasPrefix(string(*host.Type), "File")) {
			t.Errorf("%s is mounted as a file, or as another one: %v", m.MountPath, v)
		}
		mounts[m.MountPath] = true
	}
	for _, arg := range append(c.Command, c.Args...) {
		name, value, _ := strings.Cut(arg, "=")
		if (name == "--listen" || name == "--config") && !strings.HasPrefix(value, "@") && !mounts[path.Dir(value)] {
			t.Errorf("%s is in no mount: %v", arg, mounts)
		}
	}
}

func decodesSidecar(t *testing.T, _ string, data []byte) {
	t.Helper()
	var deployment appsv1.Deployment
	strictly(t, data, &deployment)
	pod := deployment.Spec.Template.Spec
	if deployment.APIVersion != "apps/v1" || len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("is no patch of a Deployment: %s", data)
	}
	sidecar := pod.InitContainers[0]
	if sidecar.ReadinessProbe != nil {
		t.Error("a readiness probe of the sidecar is one of kube-apiserver's pod: an outage of KMS would empty its Service")
	}
	if p := sidecar.RestartPolicy; p == nil || *p != corev1.ContainerRestartPolicyAlways || sidecar.StartupProbe == nil || len(sidecar.Command) > 0 {
		t.Errorf("is no sidecar by args: restart policy %v, startup probe %v, command %q", p, sidecar.StartupProbe, sidecar.Command)
	}
	hardened(t, pod, sidecar)
	mounted(t, pod, sidecar)
	mounted(t, pod, pod.Containers[0])
}

// decodesKubeadm uses what kubeadm itself warns and fails by.
func decodesKubeadm(t *testing.T, _ string, data []byte) {
	t.Helper()
	gvk := kubeadmv1beta4.SchemeGroupVersion.WithKind("ClusterConfiguration")
	if err := strict.VerifyUnmarshalStrict([]*runtime.Scheme{kubeadmscheme.Scheme}, gvk, data); err != nil {
		t.Fatalf("kubeadm: %v in\n%s", err, data)
	}
	var c kubeadmv1beta4.ClusterConfiguration
	strictly(t, data, &c)
	if c.APIVersion != gvk.GroupVersion().String() || c.Kind != gvk.Kind {
		t.Errorf("is %s %s, want %v", c.APIVersion, c.Kind, gvk)
	}
	args := map[string]string{}
	for _, arg := range c.APIServer.ExtraArgs {
		args[arg.Name] = arg.Value
	}
	mounts := map[string]string{}
	for _, v := range c.APIServer.ExtraVolumes {
		mounts[v.MountPath] = v.HostPath
	}
	seesEncryptionConfig(t, args, mounts)
}

// seesEncryptionConfig: the path in the flag is the same on the host and below a
// mount, or one itself.
func seesEncryptionConfig(t *testing.T, args, mounts map[string]string) {
	t.Helper()
	at := args["encryption-provider-config"]
	if at == "" || mounts[path.Dir(at)] != path.Dir(at) && mounts[at] != at {
		t.Errorf("the EncryptionConfiguration %q is in no mount: %v", at, mounts)
	}
	for inside, outside := range mounts {
		if inside != outside {
			t.Errorf("%s is mounted at %s: the endpoint would be another one than on the host", outside, inside)
		}
	}
}

func decodesKubeadmControlPlane(t *testing.T, _ string, data []byte) {
	t.Helper()
	var kcp controlplanev1beta2.KubeadmControlPlane
	strictly(t, data, &kcp)
	if kcp.APIVersion != controlplanev1beta2.GroupVersion.String() || kcp.Kind != "KubeadmControlPlane" {
		t.Errorf("is %s %s", kcp.APIVersion, kcp.Kind)
	}
	args, mounts := map[string]string{}, map[string]string{}
	for _, arg := range kcp.Spec.KubeadmConfigSpec.ClusterConfiguration.APIServer.ExtraArgs {
		args[arg.Name] = *arg.Value
	}
	for _, v := range kcp.Spec.KubeadmConfigSpec.ClusterConfiguration.APIServer.ExtraVolumes {
		mounts[v.MountPath] = v.HostPath
	}
	seesEncryptionConfig(t, args, mounts)
	found := map[string]bool{}
	for _, f := range kcp.Spec.KubeadmConfigSpec.Files {
		found[f.Path] = true
		switch {
		case f.Path == "/etc/kubernetes/manifests/aws-encryption-provider.yaml":
			decodesStaticPod(t, f.Path, []byte(f.Content))
		case f.Path == args["encryption-provider-config"] && f.Content != "":
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(f.Content), 0o600); err != nil {
				t.Fatal(err)
			}
			loadsEncryptionConfig(t, file, []byte(f.Content))
		case f.Content == "" && f.ContentFrom.Secret.Key == "":
			t.Errorf("%s is empty", f.Path)
		}
	}
	if !found[args["encryption-provider-config"]] || !found["/etc/kubernetes/manifests/aws-encryption-provider.yaml"] {
		t.Errorf("files are %v: want static pod and EncryptionConfiguration among them", found)
	}
}

// TestKubeAPIServerRefuses shows that its loader is really asked.
func TestKubeAPIServerRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	const text = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: one, endpoint: "unix:///run/a.sock"}
  - kms: {apiVersion: v2, name: one, endpoint: "unix:///run/b.sock"}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := encryptionconfig.LoadEncryptionConfig(ctx, file, true, "test")
	if err == nil || !strings.Contains(err.Error(), "names must be unique") {
		t.Errorf("two providers of one name: %v", err)
	}
}
