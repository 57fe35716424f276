package manifests_test

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A fields says which fields a file may have, as paths with [] for elements and
// * for names that are the operator's, and where that stands.
type fields struct {
	source string
	paths  []string
}

// kopsFields: Cluster.spec of kOps, API v1alpha2. Its module is not imported: it
// requires the clients of ten clouds.
func kopsFields() fields {
	return fields{
		source: "https://github.com/kubernetes/kops/blob/268927e26409f861634e18f3632c9dd483c350cf/pkg/apis/kops/v1alpha2/cluster.go " +
			"(ClusterSpec.EncryptionConfig, FileAssets, FileAssetSpec), componentconfig.go (KubeAPIServerConfig.FeatureGates), instancegroup.go (roles)",
		paths: []string{
			"apiVersion", "kind", "spec.encryptionConfig", "spec.kubeAPIServer.featureGates.*",
			"spec.fileAssets[].name", "spec.fileAssets[].path", "spec.fileAssets[].mode", "spec.fileAssets[].roles[]", "spec.fileAssets[].content",
		},
	}
}

func kubesprayFields() fields {
	return fields{
		source: "https://github.com/kubernetes-sigs/kubespray/blob/46dbdd3994b32640bcd806b0097f50e8fdf1d514/roles/kubernetes/control-plane/defaults/main/main.yml " +
			"and templates/kubeadm-config.v1beta4.yaml.j2 beside it, which uses name, hostPath, mountPath and readOnly",
		paths: []string{
			"kube_encrypt_secret_data", "kube_kubeadm_apiserver_extra_args.*",
			"apiserver_extra_volumes[].name", "apiserver_extra_volumes[].hostPath", "apiserver_extra_volumes[].mountPath", "apiserver_extra_volumes[].readOnly",
		},
	}
}

func k3sFields() fields {
	return fields{
		source: "https://docs.k3s.io/cli/server (--kube-apiserver-arg), https://docs.k3s.io/installation/configuration#multiple-config-files (+)",
		paths:  []string{"kube-apiserver-arg+[]"},
	}
}

func rke2Fields() fields {
	return fields{
		source: "https://github.com/rancher/rke2/blob/6ce1a8019e9d0b81eb7a715edbc2b8ac12d26da0/pkg/cli/cmds/root.go (kube-apiserver-extra-mount), " +
			"pkg/podtemplate/podtemplate.go (addExtraMounts: source:destination:ro), https://docs.rke2.io/reference/server_config (kube-apiserver-arg)",
		paths: []string{"kube-apiserver-arg+[]", "kube-apiserver-extra-mount+[]"},
	}
}

func hasFields(t *testing.T, data []byte, want fields) {
	t.Helper()
	var decoded map[string]any
	if err := yaml.UnmarshalStrict(data, &decoded); err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	got := map[string]bool{}
	paths(decoded, "", got)
	if len(got) == 0 {
		t.Fatalf("says nothing:\n%s", data)
	}
	for _, one := range slices.Sorted(maps.Keys(got)) {
		if !slices.Contains(want.paths, one) && !slices.Contains(want.paths, parent(one)+".*") {
			t.Errorf("%s is no field of %s", one, want.source)
		}
	}
}

func parent(field string) string { return field[:max(0, strings.LastIndexByte(field, '.'))] }

// paths collects those of all leaves.
func paths(value any, at string, into map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, one := range v {
			paths(one, strings.TrimPrefix(at+"."+name, "."), into)
		}
	case []any:
		for _, one := range v {
			paths(one, at+"[]", into)
		}
	default:
		into[at] = true
	}
}

func TestUnknownFieldIsFound(t *testing.T) {
	got := map[string]bool{}
	paths(map[string]any{"spec": map[string]any{"fileAssets": []any{map[string]any{"nmae": "x"}}}}, "", got)
	if !got["spec.fileAssets[].nmae"] || slices.Contains(kopsFields().paths, "spec.fileAssets[].nmae") {
		t.Errorf("got %v", got)
	}
}

func decodesKops(t *testing.T, data []byte) {
	t.Helper()
	hasFields(t, data, kopsFields())
	var cluster struct {
		APIVersion, Kind string
		Spec             struct {
			FileAssets []struct {
				Path, Content string
				Roles         []string
			}
		}
	}
	if err := yaml.Unmarshal(data, &cluster); err != nil {
		t.Fatal(err)
	}
	if cluster.APIVersion != "kops.k8s.io/v1alpha2" || cluster.Kind != "Cluster" || len(cluster.Spec.FileAssets) == 0 {
		t.Fatalf("is %s %s with %d files", cluster.APIVersion, cluster.Kind, len(cluster.Spec.FileAssets))
	}
	for _, asset := range cluster.Spec.FileAssets {
		for _, role := range asset.Roles {
			if !slices.Contains([]string{"ControlPlane", "APIServer", "Node", "Bastion"}, role) {
				t.Errorf("%s: there is no role %s", asset.Path, role)
			}
		}
		if path.Dir(asset.Path) == "/etc/kubernetes/manifests" {
			decodesStaticPod(t, asset.Path, []byte(asset.Content))
		}
	}
}

// decodesRKE2 reads mounts as addExtraMounts of RKE2 does.
func decodesRKE2(t *testing.T, data []byte) {
	t.Helper()
	hasFields(t, data, rke2Fields())
	var file struct {
		Args   []string `json:"kube-apiserver-arg+"`
		Mounts []string `json:"kube-apiserver-extra-mount+"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	args, mounts := map[string]string{}, map[string]string{}
	for _, arg := range file.Args {
		name, value, _ := strings.Cut(arg, "=")
		args[name] = value
	}
	for _, m := range file.Mounts {
		parts := strings.Split(m, ":")
		if len(parts) != 3 || parts[2] != "ro" {
			t.Errorf("mount %q is no source:destination:ro", m)
			continue
		}
		mounts[parts[1]] = parts[0]
	}
	for _, at := range rke2Files(file.Args) {
		if path.Dir(at) == "/etc/kubernetes" { // no directory of ours: RKE2's own mount is all there is
			mounts[at] = at
		}
	}
	seesEncryptionConfig(t, args, mounts)
}

// hasDirectives: systemd.service(5), systemd.socket(5), systemd.exec(5).
func hasDirectives(t *testing.T, data []byte) {
	t.Helper()
	known := map[string][]string{
		"[Service]": {"ExecStart", "Environment", "ReadWritePaths", "SupplementaryGroups", "SystemCallFilter"},
		"[Socket]":  {"ListenStream", "SocketMode", "SocketGroup", "DirectoryMode"},
	}
	section, continued := "", false
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		name, _, assigns := strings.Cut(line, "=")
		switch {
		case continued, strings.HasPrefix(line, "#"):
		case known[line] != nil:
			section = line
		case !assigns || !slices.Contains(known[section], name):
			t.Errorf("%s", fmt.Sprintf("line %d, %q, is nothing that %s has", i+1, line, section))
		}
		continued = strings.HasSuffix(line, `\`)
	}
	if section == "" {
		t.Errorf("no section in\n%s", data)
	}
}
