// Package controlplane reads from the manifest of a kube-apiserver where it stores
// objects, and how: so on a kubeadm node nobody has to name etcd.
//
// [Read] is where to begin. It reads flags as kube-apiserver does, and paths as they
// are on this machine.
package controlplane

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// DefaultManifest is where kubeadm has it.
const DefaultManifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"

// An APIServer is what its flags say of storage. All paths are of this machine.
type APIServer struct {
	Servers   []string   // --etcd-servers
	Overrides []Override // --etcd-servers-overrides

	CAFile, CertFile, KeyFile string // --etcd-cafile, --etcd-certfile, --etcd-keyfile; empty: not given

	Prefix string // --etcd-prefix; /registry where it is not given

	EncryptionConfig string // --encryption-provider-config; empty: nothing is encrypted
}

// An Override is a resource that lies in an etcd of its own.
type Override struct {
	Group, Resource string // of the core group, Group is empty
	Servers         []string
}

// largest is more than a manifest can have.
const largest = 1 << 20

// Advice where a manifest does not help.
const adviceEndpoints = "Name etcd by --endpoints, --cacert, --cert and --key, or another manifest by --apiserver-manifest"

// Read reads the manifest of a static pod.
func Read(manifest string) (APIServer, error) {
	f, err := os.Open(manifest) //nolint:gosec // the operator names it
	if err != nil {
		return APIServer{}, explain(manifest, err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err != nil {
		return APIServer{}, explain(manifest, err)
	}
	if len(text) > largest {
		return APIServer{}, &store.Error{Place: manifest, Reason: "it is larger than any manifest (1 MiB)", Next: adviceEndpoints}
	}
	a, err := parse(text)
	if err != nil {
		return APIServer{}, &store.Error{Place: manifest, Reason: err.Error(), Next: adviceEndpoints, Err: err}
	}
	return a, nil
}

func explain(manifest string, err error) error {
	said := &store.Error{Place: manifest, Reason: err.Error(), Next: adviceEndpoints, Err: err}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		said.Reason = e.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		said.Next = "Become root: kubeadm's manifests belong to root"
	case errors.Is(err, fs.ErrNotExist):
		said.Reason = "there is no such manifest"
		said.Next = "Run this on a control-plane node. " + adviceEndpoints
	}
	return said
}

// A pod is what is needed of one.
type pod struct {
	Kind string `yaml:"kind"`
	Spec struct {
		Containers []container `yaml:"containers"`
		Volumes    []struct {
			Name     string `yaml:"name"`
			HostPath *struct {
				Path string `yaml:"path"`
			} `yaml:"hostPath"`
		} `yaml:"volumes"`
	} `yaml:"spec"`
}

type container struct {
	Name    string   `yaml:"name"`
	Command []string `yaml:"command"`
	Args    []string `yaml:"args"`
	Env     []struct {
		Name  string  `yaml:"name"`
		Value *string `yaml:"value"`
	} `yaml:"env"`
	VolumeMounts []struct {
		Name      string `yaml:"name"`
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
	} `yaml:"volumeMounts"`
}

func parse(text []byte) (APIServer, error) {
	var p pod
	if err := yaml.Unmarshal(text, &p); err != nil {
		return APIServer{}, fmt.Errorf("it is not YAML of a pod: %w", err)
	}
	if p.Kind != "Pod" {
		return APIServer{}, fmt.Errorf("its kind is %q, and not Pod", p.Kind)
	}
	c, ok := p.apiServer()
	if !ok {
		return APIServer{}, errors.New("no container of it runs kube-apiserver")
	}
	flags := parseFlags(c.words())
	a := APIServer{Prefix: "/registry"}
	var err error
	if a.Servers, err = c.list(flags["etcd-servers"]); err != nil {
		return APIServer{}, err
	}
	if len(a.Servers) == 0 {
		return APIServer{}, errors.New("its kube-apiserver has no flag --etcd-servers")
	}
	if a.Overrides, err = c.overrides(flags["etcd-servers-overrides"]); err != nil {
		return APIServer{}, err
	}
	if given := flags["etcd-prefix"]; len(given) > 0 {
		if a.Prefix, err = c.expand(given[len(given)-1]); err != nil {
			return APIServer{}, err
		}
	}
	for _, file := range []struct {
		flag string
		to   *string
	}{
		{"etcd-cafile", &a.CAFile},
		{"etcd-certfile", &a.CertFile},
		{"etcd-keyfile", &a.KeyFile},
		{"encryption-provider-config", &a.EncryptionConfig},
	} {
		if *file.to, err = p.file(c, file.flag, flags[file.flag]); err != nil {
			return APIServer{}, err
		}
	}
	return a, nil
}

const program = "kube-apiserver"

// apiServer finds the container.
func (p pod) apiServer() (container, bool) {
	for _, runs := range []func(container) bool{
		func(c container) bool { return c.Name == program },
		func(c container) bool {
			return slices.ContainsFunc(c.words(), func(word string) bool { return path.Base(word) == program })
		},
	} {
		if i := slices.IndexFunc(p.Spec.Containers, runs); i >= 0 {
			return p.Spec.Containers[i], true
		}
	}
	return container{}, false
}

// words are the command line. Some distributions give it to a shell as one text.
func (c container) words() (words []string) {
	for _, word := range slices.Concat(c.Command, c.Args) {
		if !strings.HasPrefix(word, "-") && strings.Contains(word, program) && strings.Contains(word, " --") {
			for part := range strings.FieldsSeq(word) {
				words = append(words, strings.NewReplacer(`"`, "", `'`, "").Replace(part))
			}
			continue
		}
		words = append(words, word)
	}
	return words
}

// valued are the flags that are looked at. All of them take a value.
func valued(flag string) bool {
	switch flag {
	case "etcd-servers", "etcd-servers-overrides", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "etcd-prefix", "encryption-provider-config":
		return true
	default:
		return false
	}
}

// parseFlags returns the values that each flag was given, in order. An underscore in a
// name is a dash, as in all of Kubernetes.
func parseFlags(words []string) map[string][]string {
	flags := map[string][]string{}
	for i := 0; i < len(words) && words[i] != "--"; i++ {
		word, dashed := strings.CutPrefix(words[i], "--")
		name, value, has := strings.Cut(word, "=")
		name = strings.ReplaceAll(name, "_", "-")
		if !dashed || !valued(name) {
			continue
		}
		if !has {
			if i++; i == len(words) {
				break
			}
			value = words[i]
		}
		flags[name] = append(flags[name], value)
	}
	return flags
}

// list is a flag that may be repeated, and has commas.
func (c container) list(values []string) (list []string, err error) {
	for _, value := range values {
		if value, err = c.expand(value); err != nil {
			return nil, err
		}
		for part := range strings.SplitSeq(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	}
	return list, nil
}

// overrides reads GROUP/RESOURCE#SERVER;SERVER.
func (c container) overrides(values []string) (all []Override, err error) {
	list, err := c.list(values)
	if err != nil {
		return nil, err
	}
	for _, text := range list {
		name, servers, ok := strings.Cut(text, "#")
		group, resource, both := strings.Cut(name, "/")
		if !ok || !both || resource == "" || servers == "" {
			return nil, fmt.Errorf("its --etcd-servers-overrides has %q: want GROUP/RESOURCE#SERVER;SERVER", text)
		}
		all = append(all, Override{group, resource, strings.Split(servers, ";")})
	}
	return all, nil
}

// variable is $(NAME), which the kubelet replaces, or $$(NAME), which is $(NAME).
var variable = regexp.MustCompile(`\$?\$\([A-Za-z_][A-Za-z0-9_.-]*\)`)

// expand replaces variables of the container. One whose value only the kubelet knows
// is an error.
func (c container) expand(text string) (string, error) {
	var unknown []string
	text = variable.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "$$") {
			return found[1:]
		}
		name := found[2 : len(found)-1]
		for _, env := range c.Env {
			if env.Name == name && env.Value != nil {
				return *env.Value
			}
			if env.Name == name {
				unknown = append(unknown, name)
			}
		}
		return found // as the kubelet leaves it
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("its flags have variables that only the kubelet knows: %s", strings.Join(unknown, ", "))
	}
	return text, nil
}

// file is where the last value of a flag lies on this machine.
func (p pod) file(c container, flag string, values []string) (string, error) {
	if len(values) == 0 || values[len(values)-1] == "" {
		return "", nil
	}
	inside, err := c.expand(values[len(values)-1])
	if err != nil {
		return "", err
	}
	host, ok := p.host(c, path.Clean(inside))
	if !ok {
		return "", fmt.Errorf("its --%s is %s, which is not mounted from this machine", flag, inside)
	}
	return host, nil
}

// host finds a path of the container on this machine, by the innermost mount.
func (p pod) host(c container, inside string) (string, bool) {
	best, host := -1, ""
	for _, mount := range c.VolumeMounts {
		rest, within := below(inside, path.Clean(mount.MountPath))
		if !within || len(path.Clean(mount.MountPath)) <= best {
			continue
		}
		best, host = len(path.Clean(mount.MountPath)), ""
		for _, volume := range p.Spec.Volumes {
			if volume.Name == mount.Name && volume.HostPath != nil {
				host = path.Join(volume.HostPath.Path, mount.SubPath, rest)
			}
		}
	}
	return host, host != ""
}

// below returns what follows the directory in a path that is it or lies in it.
func below(p, dir string) (rest string, within bool) {
	if p == dir {
		return "", true
	}
	return strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
