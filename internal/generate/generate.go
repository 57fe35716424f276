// Package generate writes what goes with a configuration of this program: the
// EncryptionConfiguration of its API servers, what starts it on a node, and the
// flags and mounts of kube-apiserver in the words of each distribution.
//
// Output is text with comments for the operator who installs it. It depends on
// the options alone: the same ones give the same bytes. Nothing is asked of the
// network, of AWS or of a cluster. What is wrong with the options is told as
// [config.Mistakes], all of it.
//
// Forms of other projects are taken from their sources: each file of this
// package names them, and the module test/manifests compares with the real types
// or, where there are none to import, with lists of fields.
package generate

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// Defaults of [Options].
const (
	DefaultImage     = "localhost/aws-encryption-provider:latest"
	DefaultProgram   = "/usr/bin/aws-encryption-provider"
	DefaultResources = "secrets"
	DefaultName      = "aws-encryption-provider"
	DefaultEncConfig = "/etc/kubernetes/encryption/config.yaml"
	DefaultConfigAt  = "/etc/aws-encryption-provider/config.yaml"
	DefaultCacheSize = encryptionconfig.DefaultCacheSize
)

// Options are what the output depends on. No field has a default of its own.
type Options struct {
	Config *config.Config
	Args   []string // the flags of serving that make Config
	File   []byte   // what the file of --config says; nil where the flags say all
	FileAt string   // absolute path of that file on a node

	// Of the EncryptionConfiguration.
	Present   *encryptionconfig.Configuration // what the API servers have; nil: no file
	Resources []string                        // to encrypt; empty: what Present encrypts, else secrets
	Names     []string                        // of the providers in the file, by position; empty: kept or made up
	KMSv1     bool                            // write entries of KMS v1
	CacheSize int32                           // of entries of KMS v1
	PathAt    string                          // absolute path of the file on a node

	// Of what starts the program.
	Image     string
	Program   string   // absolute path of the program on a node, for systemd
	Env       []string // NAME=VALUE
	Mounts    []string // absolute paths that the program reads
	RunAsUser int64    // 0: root
}

// A File is a generated one.
type File struct {
	Name   string // a relative path
	Text   string
	Secret bool // only for the eyes of root
}

// A Kind is something that can be generated.
type Kind struct {
	Name, About string

	files  func(*Options) ([]File, error)
	mounts bool // sockets' directories are mounted from the host
	starts bool // the program is started by it, with probes or a port to look at
}

// Kinds are all there are, in the order in which they are explained.
func Kinds() []Kind {
	return []Kind{
		{"encryption-config", "EncryptionConfiguration, a pair: readers, then writers", (*Options).encryptionConfigs, false, false},
		{"static-pod", "pod for the kubelet's manifest directory", (*Options).staticPod, true, true},
		{"sidecar", "container beside kube-apiserver in a hosted control plane", (*Options).sidecar, false, true},
		{"systemd", "drop-ins for the service and the socket", (*Options).systemd, false, true},
		{"kubeadm", "ClusterConfiguration v1beta4", (*Options).kubeadm, true, false},
		{"kubeadmcontrolplane", "Cluster API's KubeadmControlPlane v1beta2, a pair", (*Options).kubeadmControlPlane, true, true},
		{"kops", "part of a Cluster of kOps", (*Options).kops, true, true},
		{"kubespray", "group variables", (*Options).kubespray, true, false},
		{"k3s", "configuration of the server", (*Options).k3s, false, false},
		{"rke2", "configuration of the server", (*Options).rke2, true, false},
	}
}

// Generate returns the files of a kind.
func (k Kind) Generate(o Options) ([]File, error) {
	mistakes := o.mistakes(k)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	files, err := k.files(&o)
	if err != nil {
		return nil, err
	}
	return files, nil
}

// mistakes are those that have nothing to do with one kind alone.
func (o *Options) mistakes(k Kind) config.Mistakes {
	var m config.Mistakes
	add := func(field, format string, args ...any) {
		m = append(m, config.Mistake{Field: field, Text: fmt.Sprintf(format, args...)})
	}
	for _, one := range []struct{ flag, path string }{
		{"--config-path", o.FileAt}, {"--encryption-config-path", o.PathAt}, {"--program", o.Program},
	} {
		if !isPath(one.path) {
			add(one.flag, "%.120q is no absolute path", one.path)
		}
	}
	for _, mount := range o.Mounts {
		if !isPath(mount) {
			add("--mount", "%.120q is no absolute path", mount)
		}
	}
	for _, env := range o.Env {
		name, _, ok := strings.Cut(env, "=")
		switch {
		case !ok || !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(name):
			add("--env", "%.40q is no NAME=VALUE", name)
		case slices.Contains([]string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}, name):
			add("--env", "%s would stand in the output for all to read: put it into a file, and give AWS_SHARED_CREDENTIALS_FILE", name)
		}
	}
	if o.Image == "" || strings.ContainsAny(o.Image, " \t\n") {
		add("--image", "%.120q names no image", o.Image)
	}
	if o.RunAsUser < 0 {
		add("--run-as-user", "must not be negative")
	}
	if k.starts && strings.HasSuffix(o.Config.Health.Address, ":0") {
		add("--health-port", "port 0 is another one at each start: probes need one that stays")
	}
	if k.mounts {
		for _, dir := range o.socketDirs() {
			if slices.Contains([]string{"/", "/run", "/var/run", "/tmp", "/var", "/etc", "/var/tmp"}, dir) {
				add("--listen", "%s lies right in %s, which would be mounted as a whole: give the socket a directory of its own", o.socketIn(dir), dir)
			}
		}
	}
	return m
}

func isPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsAny(p, "\n\r\t:")
}

// socketDirs are the directories of the sockets. Abstract ones have none.
func (o *Options) socketDirs() []string {
	var dirs []string
	for _, p := range o.Config.Providers {
		if dir := path.Dir(p.Listen); !strings.HasPrefix(p.Listen, "@") && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (o *Options) socketIn(dir string) string {
	i := slices.IndexFunc(o.Config.Providers, func(p config.Provider) bool { return path.Dir(p.Listen) == dir })
	return o.Config.Providers[i].Listen
}

// args are the flags on a node, where the file may lie elsewhere than here.
func (o *Options) args() []string {
	args := slices.Clone(o.Args)
	for i, arg := range args {
		if strings.HasPrefix(arg, "--config=") {
			args[i] = "--config=" + o.FileAt
		}
	}
	return args
}

func (o *Options) given(flag string) bool {
	return slices.ContainsFunc(o.Args, func(arg string) bool { return strings.HasPrefix(arg, "--"+flag+"=") })
}
