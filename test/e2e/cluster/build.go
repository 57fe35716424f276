package cluster

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Binaries are the programs of a cluster.
type Binaries struct {
	APIServer   string // kube-apiserver
	Etcd        string // etcd
	Plugin      string // aws-encryption-provider
	Predecessor string // the stand-in of the program that this one replaces
}

// A server is a program that is built from another project's modules.
type server struct {
	name    string // file name and the word in messages
	env     string // environment variable that names a ready one
	module  string // directory of our main, below the root
	of      string // module whose version is the server's
	main    string // package to build; "": the module's own
	typical string // how long it takes on 2 cores
	vars    func(version string) []string
}

// apiServer is kube-apiserver of a version such as 1.35.4, or of the one that CI
// tests where that is empty. There is a module for each minor version, in which the
// patch version stands.
func apiServer(root, version string) (server, error) {
	const module = "test/cluster/apiserver"
	s := server{
		name: "kube-apiserver", env: "KUBE_APISERVER", module: module,
		of: "k8s.io/kubernetes", typical: "4 to 6 minutes on 2 cores", vars: kubernetesVars,
	}
	if version == "" {
		return s, nil
	}
	known := map[string]string{} // version → module
	for _, pattern := range []string{"go.mod", "*/go.mod"} {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(module), filepath.FromSlash(pattern)))
		if err != nil {
			return server{}, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return server{}, err
			}
			if of := requiredVersion(data, s.of); of != "" {
				known[strings.TrimPrefix(of, "v")] = filepath.Dir(file)
			}
		}
	}
	dir, ok := known[version]
	if !ok {
		return server{}, fmt.Errorf("KUBERNETES=%s: there is a kube-apiserver of %s; another version is another module in %s",
			version, strings.Join(slices.Sorted(maps.Keys(known)), ", "), module)
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return server{}, err
	}
	if s.module = filepath.ToSlash(rel); s.module != module {
		s.main = "k8s.io/kubernetes/cmd/kube-apiserver"
	}
	return s, nil
}

// requiredVersion is the version of a module that a go.mod requires; "": none.
func requiredVersion(gomod []byte, module string) string {
	for line := range strings.Lines(string(gomod)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module {
			return fields[1]
		}
	}
	return ""
}

func servers(root string) ([]server, error) {
	kube, err := apiServer(root, os.Getenv("KUBERNETES"))
	if err != nil {
		return nil, err
	}
	return []server{kube, etcd()}, nil
}

func etcd() server {
	return server{
		name: "etcd", env: "ETCD", module: "test/cluster/etcd",
		of: "go.etcd.io/etcd/server/v3", typical: "half a minute on 2 cores",
	}
}

// oldEtcd is the minor before: it has no RangeStream.
func oldEtcd() server {
	return server{
		name: "etcd", env: "ETCD_3_6", module: "test/cluster/etcd-3.6",
		of: "go.etcd.io/etcd/server/v3", typical: "half a minute on 2 cores",
	}
}

// Clients are what one types commands of.
type Clients struct {
	Kubectl, Etcdctl, Etcdutl string
}

func clients() []server {
	return []server{
		{
			name: "kubectl", env: "KUBECTL", module: "test/cluster/kubectl",
			of: "k8s.io/kubectl", typical: "a minute on 2 cores after kube-apiserver",
			vars: func(version string) []string { // v0.37.2 is of v1.37.2
				return kubernetesVars("v1" + strings.TrimPrefix(version, "v0"))
			},
		},
		{
			name: "etcdctl", env: "ETCDCTL", module: "test/cluster/etcdctl",
			of: "go.etcd.io/etcd/etcdctl/v3", typical: "seconds after etcd",
		},
		{
			name: "etcdutl", env: "ETCDUTL", module: "test/cluster/etcdutl",
			of: "go.etcd.io/etcd/etcdutl/v3", typical: "seconds after etcd",
		},
	}
}

// kubernetesVars are the linker's settings that Kubernetes' own build makes. The
// API server reads its feature gates and API lifetimes off this version.
func kubernetesVars(version string) []string {
	const pkg = "k8s.io/component-base/version"
	number := strings.Split(strings.TrimPrefix(version, "v"), ".")
	return []string{
		"-X", pkg + ".gitVersion=" + version,
		"-X", pkg + ".gitMajor=" + number[0],
		"-X", pkg + ".gitMinor=" + number[1],
		"-X", pkg + ".gitTreeState=clean",
	}
}

// BuildServers returns kube-apiserver and etcd, from the environment
// (KUBE_APISERVER, ETCD), from the cache in the user's cache directory, or
// built. KUBERNETES in the environment is the version of kube-apiserver, such as
// 1.35.4. It tells progress what it builds and how far it is.
func BuildServers(ctx context.Context, progress io.Writer) (Binaries, error) {
	root, err := Root()
	if err != nil {
		return Binaries{}, err
	}
	wanted, err := servers(root)
	if err != nil {
		return Binaries{}, err
	}
	found, err := findAll(ctx, root, wanted, progress)
	if err != nil {
		return Binaries{}, err
	}
	return Binaries{APIServer: found[0], Etcd: found[1]}, nil
}

// BuildClients does the same for kubectl, etcdctl and etcdutl (KUBECTL, ETCDCTL,
// ETCDUTL), which share most of their packages with the servers.
func BuildClients(ctx context.Context, progress io.Writer) (Clients, error) {
	root, err := Root()
	if err != nil {
		return Clients{}, err
	}
	found, err := findAll(ctx, root, clients(), progress)
	if err != nil {
		return Clients{}, err
	}
	return Clients{Kubectl: found[0], Etcdctl: found[1], Etcdutl: found[2]}, nil
}

// BuildOldEtcd does the same for etcd 3.6 (ETCD_3_6).
func BuildOldEtcd(ctx context.Context, progress io.Writer) (path string, err error) {
	return findOne(ctx, oldEtcd(), progress)
}

// BuildEtcd does the same for etcd alone (ETCD).
func BuildEtcd(ctx context.Context, progress io.Writer) (path string, err error) {
	return findOne(ctx, etcd(), progress)
}

func findOne(ctx context.Context, s server, progress io.Writer) (path string, err error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	return s.find(ctx, root, progress)
}

func findAll(ctx context.Context, root string, all []server, progress io.Writer) (found []string, err error) {
	for _, s := range all {
		path, err := s.find(ctx, root, progress)
		if err != nil {
			return nil, err
		}
		found = append(found, path)
	}
	return found, nil
}

// Build returns all programs of a cluster. PLUGIN in the environment names a
// ready plugin; otherwise it is built from this checkout into dir, as is the
// predecessor's stand-in.
func Build(ctx context.Context, dir string, progress io.Writer) (Binaries, error) {
	bin, err := BuildServers(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	root, err := Root()
	if err != nil {
		return Binaries{}, err
	}
	if bin.Plugin, err = BuildPlugin(ctx, dir); err != nil {
		return Binaries{}, err
	}
	bin.Predecessor = filepath.Join(dir, "predecessor")
	if err := goBuild(ctx, filepath.Join(root, "test/e2e"), bin.Predecessor, "./predecessor"); err != nil {
		return Binaries{}, err
	}
	return bin, nil
}

// BuildPlugin returns the plugin alone: what PLUGIN in the environment names, or
// else built from this checkout into dir.
func BuildPlugin(ctx context.Context, dir string) (string, error) {
	if path := os.Getenv("PLUGIN"); path != "" {
		return path, executable("PLUGIN", path)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "aws-encryption-provider")
	return path, goBuild(ctx, root, path, "./cmd/aws-encryption-provider")
}

func goBuild(ctx context.Context, dir, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s in %s: %w\n%s", pkg, dir, err, text)
	}
	return nil
}

// Root finds the checkout's top directory from the working directory up.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		mod, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module sigs.k8s.io/aws-encryption-provider\n")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no checkout of aws-encryption-provider above %s: run this inside one", dir)
		}
	}
}

func executable(env, path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", env, err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %s is no executable file", env, path)
	}
	return nil
}

// find returns the server's binary and builds it where there is none yet. Two
// processes that look at once build it once: the second waits at the lock.
func (s server) find(ctx context.Context, root string, progress io.Writer) (string, error) {
	if path := os.Getenv(s.env); path != "" {
		return path, executable(s.env, path)
	}
	dir := filepath.Join(root, filepath.FromSlash(s.module))
	version, err := goOutput(ctx, dir, "list", "-m", "-f", "{{.Version}}", s.of)
	if err != nil {
		return "", err
	}
	hash, err := s.fingerprint(ctx, dir)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place to keep %s: %w (or name a ready one in %s)", s.name, err, s.env)
	}
	cache = filepath.Join(cache, "aws-encryption-provider", "servers")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(cache, fmt.Sprintf("%s-%s-%s", s.name, version, hash))
	if executable(s.name, path) == nil {
		return path, nil
	}
	unlock, err := lock(ctx, path+".lock", func() {
		fmt.Fprintf(progress, "waiting for another process that builds %s %s\n", s.name, version)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	if executable(s.name, path) == nil {
		return path, nil
	}
	return path, s.build(ctx, dir, version, path, progress)
}

// fingerprint stands for everything that the binary is made of.
func (s server) fingerprint(ctx context.Context, dir string) (string, error) {
	goVersion, err := goOutput(ctx, dir, "env", "GOVERSION", "GOOS", "GOARCH", "CGO_ENABLED")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", goVersion)
	files := []string{"go.mod", "go.sum"}
	if s.main == "" {
		files = append(files, "main.go")
	}
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// build compiles the server beside its final path and renames it when done, so
// that an interrupted build leaves nothing that looks ready.
func (s server) build(ctx context.Context, dir, version, path string, progress io.Writer) error {
	what := fmt.Sprintf("building %s %s (%s the first time)", s.name, version, s.typical)
	fmt.Fprintln(progress, what)
	pkg := cmp.Or(s.main, ".")
	all, err := goOutput(ctx, dir, "list", "-deps", pkg) // also downloads the modules
	if err != nil {
		return err
	}
	total := strings.Count(all, "\n") + 1

	partial := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer func() { _ = os.Remove(partial) }()
	ldflags := []string{"-s", "-w"}
	if s.vars != nil {
		ldflags = append(ldflags, s.vars(version)...)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-trimpath", "-ldflags", strings.Join(ldflags, " "), "-o", partial, pkg)
	cmd.Dir = dir
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	var compiled atomic.Int64
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with the build
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				fmt.Fprintf(progress, "%s ... %v, %d of %d packages\n",
					what, time.Since(start).Round(time.Second), compiled.Load(), total)
			}
		}
	}()
	var last []string // what the compiler said at the end
	for lines := bufio.NewScanner(out); lines.Scan(); {
		compiled.Add(1)
		if last = append(last, lines.Text()); len(last) > 40 {
			last = last[1:]
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("build %s %s in %s: %w\n%s", s.name, version, dir, err, strings.Join(last, "\n"))
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	fmt.Fprintf(progress, "built %s %s in %v\n", s.name, version, time.Since(start).Round(time.Second))
	return nil
}

func goOutput(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var text []byte
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			text = exit.Stderr
		}
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, text)
	}
	return strings.TrimSpace(string(out)), nil
}

// lock takes the lock file at path, calling waiting once where somebody else
// has it. The kernel drops the lock of a process that dies.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !said {
			waiting()
			said = true
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
