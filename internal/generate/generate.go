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
	DefaultProgram   = "/usr/bin/aws-encryption-provider"
	DefaultResources = "secrets"
	DefaultName      = "aws-encryption-provider"
	DefaultEncConfig = "/etc/kubernetes/encryption/config.yaml"
	DefaultConfigAt  = "/etc/aws-encryption-provider/config.yaml"
	DefaultCacheSize = encryptionconfig.DefaultCacheSize
)

// Image is the name that `make image` gives the image of a version, such as v1.2.3, and
// with fips that of the build with FIPS 140-3. A version that no repository could say is
// "" or "(devel)". tools/release has the same rule, and its tests compare.
func Image(version string, fips bool) string {
	if version == "" || version == "(devel)" {
		version = "devel"
	}
	tag := strings.ReplaceAll(version, "+", "-") // a tag has no plus
	if fips {
		tag += "-fips140"
	}
	return "localhost/aws-encryption-provider:" + tag
}

// Options are what the output depends on. No field has a default of its own.
type Options struct {
	Config *config.Config
	Args   []string // the flags of serving that make Config
	File   []byte   // what the file of --config says; nil where the flags say all
	FileAt string   // absolute path of that file on a node
	Made   []byte   // what the flags say, as such a file, which is then generated too; nil: the flags stay flags
	Beside []string // the flags that Made leaves
	Out    string   // absolute path of the directory that the files go to; "": they are printed

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
	Common bool // other kinds write the same of the same flags
}

// A Kind is something that can be generated.
type Kind struct {
	Name, About string
	Socket      string // where the socket has to lie, by default; "": anywhere

	files     func(*Options) ([]File, error)
	starts    bool     // the program is started by it, with probes or a port to look at
	program   bool     // directories go into the program's container
	apiServer bool     // directories go into kube-apiserver
	quotes    bool     // paths may have blanks in them
	effect    string   // on such directories
	own       []string // what the distribution mounts into kube-apiserver by itself
}

// Kinds are all there are, in the order in which they are explained.
func Kinds() []Kind {
	return []Kind{
		{Name: "encryption-config", About: "EncryptionConfiguration, a pair: readers, then writers", files: (*Options).encryptionConfigs},
		{Name: "static-pod", About: "pod for the kubelet's manifest directory", files: (*Options).staticPod, starts: true, program: true, effect: mountsWhole},
		{Name: "sidecar", About: "container beside kube-apiserver in a hosted control plane", files: (*Options).sidecar, starts: true, program: true, apiServer: true, effect: hides},
		{Name: "systemd", About: "drop-ins for the service and the socket", files: (*Options).systemd, starts: true, quotes: true},
		{Name: "kubeadm", About: "ClusterConfiguration v1beta4", files: (*Options).kubeadm, apiServer: true, effect: mountsWhole, own: kubeadmMounts()},
		{
			Name: "kubeadmcontrolplane", About: "Cluster API's KubeadmControlPlane v1beta2, a pair", files: (*Options).kubeadmControlPlane,
			starts: true, program: true, apiServer: true, effect: mountsWhole, own: kubeadmMounts(),
		},
		{Name: "kops", About: "part of a Cluster of kOps", Socket: kopsSocket, files: (*Options).kops, starts: true, program: true, effect: mountsWhole},
		{Name: "kubespray", About: "group variables", files: (*Options).kubespray, apiServer: true, effect: mountsWhole, own: kubesprayMounts()},
		{Name: "k3s", About: "configuration of the server", files: (*Options).k3s},
		{Name: "rke2", About: "configuration of the server", files: (*Options).rke2, apiServer: true, effect: mountsWhole, own: rke2Mounts()},
	}
}

// Starts reports whether the program is started by what is generated.
func (k Kind) Starts() bool { return k.starts }

// Generate returns the files of a kind.
func (k Kind) Generate(o Options) ([]File, error) {
	made := o.Made != nil && k.starts
	if made {
		o.File = o.Made
		if k.effect != hides { // there it is in a ConfigMap, which has a head
			o.File = o.fileText()
		}
	}
	mistakes := o.mistakes(k)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	files, err := k.files(&o)
	if err != nil {
		return nil, err
	}
	if made && k.effect != hides {
		files = append(files, File{Name: "config.yaml", Text: string(o.File), Common: true})
		slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	}
	return files, nil
}

// fileText is the file that is made of flags, with a head that says where it goes.
func (o *Options) fileText() []byte {
	return []byte(comment(fmt.Sprintf(`Configuration of aws-encryption-provider, made of flags. It goes to
%s
on every control plane node, owner root, where the program's user can read it, and
before the program starts. See docs/configuration.md.

A change is taken over within seconds, and nothing is restarted. Write the new file
beside the old one and rename it: a directory that is mounted shows that.`, o.FileAt)) + "\n" + string(o.Made))
}

// mistakes are those that have nothing to do with one kind alone.
func (o *Options) mistakes(k Kind) config.Mistakes {
	m := o.pathMistakes(k)
	add := func(field, format string, args ...any) {
		m = append(m, config.Mistake{Field: field, Text: fmt.Sprintf(format, args...)})
	}
	seen := map[string]bool{}
	for _, env := range o.Env {
		name, value, ok := strings.Cut(env, "=")
		twice := seen[name]
		seen[name] = true
		switch {
		case !ok || !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(name):
			add("--env", "%.40q is no NAME=VALUE", name)
		case twice:
			add("--env", "%s is given twice", name)
		case slices.Contains([]string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}, name):
			add("--env", "%s would stand in the output for all to read: put it into a file, and give AWS_SHARED_CREDENTIALS_FILE", name)
		case name == "AWS_CONTAINER_AUTHORIZATION_TOKEN":
			add("--env", "%s would stand in the output for all to read: put it into a file, and give AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", name)
		case regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://[^/@]*:[^/@]*@`).MatchString(value):
			add("--env", "the password in %s would stand in the output for all to read: let the proxy know this node by something else", name)
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
	return m
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

// args are the flags on a node, where the file may lie elsewhere than here.
func (o *Options) args() []string {
	if o.Made != nil {
		return append([]string{"--config=" + o.FileAt}, o.Beside...)
	}
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
