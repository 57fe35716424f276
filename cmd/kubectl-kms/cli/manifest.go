package cli

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/internal/report"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
)

// defaultManifest is where kubeadm has the static pod of the API server.
const defaultManifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"

// A manifest is what the static pod of an API server says of its etcd. Files are those
// of this machine.
type manifest struct {
	etcd             etcd.Options
	prefix           string
	encryptionConfig string
	elsewhere        []string // resources in an etcd of their own
}

// A pod is what is read of one.
type pod struct {
	Kind string `yaml:"kind"`
	Spec struct {
		Containers []container `yaml:"containers"`
		Volumes    []struct {
			Name     string `yaml:"name"`
			HostPath struct {
				Path string `yaml:"path"`
			} `yaml:"hostPath"`
		} `yaml:"volumes"`
	} `yaml:"spec"`
}

type container struct {
	Command      []string `yaml:"command"`
	Args         []string `yaml:"args"`
	VolumeMounts []struct {
		Name      string `yaml:"name"`
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
	} `yaml:"volumeMounts"`
}

func readManifest(file string) (*manifest, error) {
	data, err := os.ReadFile(file) //nolint:gosec // whoever runs this says which file
	if err != nil {
		return nil, fmt.Errorf("reading the API server's flags: %w", err)
	}
	var p pod
	if err := yaml.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("%s is not a manifest of a pod: its YAML does not parse; give the one of kube-apiserver with --apiserver-manifest", report.Plain(file))
	}
	for _, c := range p.Spec.Containers {
		if flags, ok := c.flags(); ok {
			return p.manifest(c, flags), nil
		}
	}
	return nil, fmt.Errorf("%s has no container that runs kube-apiserver with --etcd-servers: give the manifest of kube-apiserver with --apiserver-manifest, or say where etcd is with --endpoints", report.Plain(file))
}

// flags returns those of kube-apiserver: name → value, the last of which counts. ok is
// false where the container runs something else.
func (c container) flags() (flags map[string]string, ok bool) {
	flags = map[string]string{}
	words := append(append([]string{}, c.Command...), c.Args...)
	for i, word := range words {
		name, value, found := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if !strings.HasPrefix(word, "--") {
			continue
		}
		if !found && i+1 < len(words) {
			value = words[i+1]
		}
		flags[name] = value
	}
	return flags, flags["etcd-servers"] != ""
}

func (p pod) manifest(c container, flags map[string]string) *manifest {
	m := &manifest{
		etcd: etcd.Options{
			Endpoints: split(flags["etcd-servers"], ","),
			CACert:    p.onHost(c, flags["etcd-cafile"]), Cert: p.onHost(c, flags["etcd-certfile"]), Key: p.onHost(c, flags["etcd-keyfile"]),
		},
		prefix: flags["etcd-prefix"], encryptionConfig: p.onHost(c, flags["encryption-provider-config"]),
	}
	// GROUP/RESOURCE#SERVER;SERVER, GROUP/RESOURCE#...: the core group is empty.
	for _, override := range split(flags["etcd-servers-overrides"], ",") {
		at, _, _ := strings.Cut(override, "#")
		group, resource, ok := strings.Cut(at, "/")
		switch {
		case !ok || resource == "":
		case group == "":
			m.elsewhere = append(m.elsewhere, resource)
		default:
			m.elsewhere = append(m.elsewhere, resource+"."+group)
		}
	}
	return m
}

func split(list, separator string) []string {
	var out []string
	for _, one := range strings.Split(list, separator) {
		if one = strings.TrimSpace(one); one != "" {
			out = append(out, one)
		}
	}
	return out
}

// onHost returns where a file of the container is on the machine: below the innermost
// mount that has it. One that is mounted from elsewhere than the machine keeps its path.
func (p pod) onHost(c container, file string) string {
	if file == "" {
		return ""
	}
	file = path.Clean(file)
	best, host := -1, file
	for _, mount := range c.VolumeMounts {
		at := path.Clean(mount.MountPath)
		rest, below := strings.CutPrefix(file, strings.TrimSuffix(at, "/")+"/")
		if file == at {
			rest, below = "", true
		}
		if !below || len(at) <= best {
			continue
		}
		for _, volume := range p.Spec.Volumes {
			if volume.Name == mount.Name && volume.HostPath.Path != "" {
				best, host = len(at), filepath.Join(volume.HostPath.Path, mount.SubPath, rest)
			}
		}
	}
	return host
}
