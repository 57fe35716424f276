package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/controlplane"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/etcd"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/snapshot"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// etcdFlags say where stored objects are.
type etcdFlags struct {
	snapshots, endpoints, prefixes []string
	caCert, cert, key              string
	stripPrefix, manifest          string
}

func (f *etcdFlags) define(set *pflag.FlagSet) {
	set.StringArrayVar(&f.snapshots, "snapshot", nil, "`FILE` that etcdctl snapshot save wrote, or a copied member/snap/db, to read instead of an etcd; repeats")
	f.defineAddress(set)
	f.defineManifest(set)
	f.definePrefixes(set)
}

// defineEtcd is for a command that reads an etcd and no file.
func (f *etcdFlags) defineEtcd(set *pflag.FlagSet) {
	f.defineAddress(set)
	f.definePrefixes(set)
}

func (f *etcdFlags) defineAddress(set *pflag.FlagSet) {
	set.StringSliceVar(&f.endpoints, "endpoints", nil, "`ADDRESSES` of an etcd, separated by commas ($ETCDCTL_ENDPOINTS)")
	set.StringVar(&f.caCert, "cacert", "", "`FILE` with the CA of etcd's certificate ($ETCDCTL_CACERT)")
	set.StringVar(&f.cert, "cert", "", "`FILE` with the client certificate for etcd ($ETCDCTL_CERT)")
	set.StringVar(&f.key, "key", "", "`FILE` with that certificate's private key ($ETCDCTL_KEY)")
}

func (f *etcdFlags) defineManifest(set *pflag.FlagSet) {
	set.StringVar(&f.manifest, "apiserver-manifest", "", "`FILE` with the static pod of kube-apiserver, whose flags say where etcd is, its prefix, and what encrypts (default kubeadm's, where neither --snapshot nor --endpoints is given)")
}

func (f *etcdFlags) definePrefixes(set *pflag.FlagSet) {
	set.StringArrayVar(&f.prefixes, "prefix", nil, "`PREFIX` of keys to read, an API server's --etcd-prefix (default "+audit.DefaultPrefix+"); repeats")
	set.StringVar(&f.stripPrefix, "strip-prefix", "", "`PREFIX` that a proxy before etcd puts before every key")
}

func (f *etcdFlags) checkPrefixes() (mistakes []string) {
	for _, prefix := range f.prefixes {
		if strings.Trim(prefix, "/") == "" {
			mistakes = append(mistakes, fmt.Sprintf("--prefix: %.64q names no prefix: kube-apiserver's is %s unless --etcd-prefix says otherwise", prefix, audit.DefaultPrefix))
		}
	}
	if f.stripPrefix != "" && !strings.HasPrefix(f.stripPrefix, "/") {
		mistakes = append(mistakes, fmt.Sprintf("--strip-prefix: %.64q does not begin with a slash, as keys do", f.stripPrefix))
	}
	return mistakes
}

// A target is what is read.
type target struct {
	apiServer *controlplane.APIServer // of the manifest; nil: not asked
	etcd      *etcd.Options           // nil: none
	snapshots []string
}

// target decides what is read: snapshots and the etcd that are named, or else the etcd
// that the API server of this machine uses.
func (f *etcdFlags) target(s Streams) (*target, error) {
	t := &target{snapshots: f.snapshots}
	env, err := etcd.FromEnvironment(s.LookupEnv)
	if err != nil {
		return nil, &usageError{mistakes: []string{err.Error()}}
	}
	endpoints := f.endpoints
	if len(endpoints) == 0 && len(f.snapshots) == 0 && f.manifest == "" {
		endpoints = env.Endpoints
	}
	var running controlplane.APIServer
	if f.manifest != "" || len(endpoints) == 0 && len(f.snapshots) == 0 {
		if running, err = f.readManifest(); err != nil {
			return nil, err
		}
		t.apiServer = &running
	}
	if len(endpoints) == 0 && len(f.snapshots) > 0 {
		return t, nil
	}
	if t.etcd = &env; len(endpoints) == 0 {
		endpoints = running.Servers
	}
	t.etcd.Endpoints = endpoints
	t.etcd.CACert = cmp.Or(f.caCert, env.CACert, running.CAFile)
	t.etcd.Cert = cmp.Or(f.cert, env.Cert, running.CertFile)
	t.etcd.Key = cmp.Or(f.key, env.Key, running.KeyFile)
	return t, nil
}

// readManifest reads the one that is named, or kubeadm's: without it, and without another
// word of where etcd is, the command line says too little.
func (f *etcdFlags) readManifest() (controlplane.APIServer, error) {
	a, err := controlplane.Read(cmp.Or(f.manifest, controlplane.DefaultManifest))
	if errors.Is(err, fs.ErrNotExist) && f.manifest == "" {
		return a, &usageError{mistakes: []string{
			"there is nothing to read: " + controlplane.DefaultManifest + " is not here. Run this on a control plane node, say where etcd is with --endpoints, or give --snapshot",
		}}
	}
	return a, err
}

// manifestIfThere reads the manifest that is named, or kubeadm's where it is here and
// this user may read it.
func (f *etcdFlags) manifestIfThere() (*controlplane.APIServer, error) {
	a, err := controlplane.Read(cmp.Or(f.manifest, controlplane.DefaultManifest))
	switch {
	case err == nil:
		return &a, nil
	case f.manifest == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		return nil, nil
	}
	return nil, err
}

// A place that is read, and what people call it.
type place struct {
	audit.Place

	name string
}

// open makes the readers of what is read.
func (t *target) open(s Streams, p *audit.Progress) (places []place, err error) {
	progress := func(of store.Progress) { p.Part(of.Done, of.Total) }
	if t.etcd != nil {
		t.etcd.Progress = progress
		reader, err := s.Stores.Etcd(*t.etcd)
		if err != nil {
			return nil, rootsAdvice(err)
		}
		places = append(places, place{audit.Place{Reader: reader, Live: true}, strings.Join(t.etcd.Endpoints, ",")})
	}
	for _, file := range t.snapshots {
		reader := s.Stores.Snapshot(file, snapshot.Options{Progress: progress})
		places = append(places, place{audit.Place{Reader: reader}, file})
	}
	return places, nil
}

// rootsAdvice says as whom to run this, where a file of etcd may not be read.
func rootsAdvice(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: etcd's certificates are root's on most machines, so run this as root", err)
	}
	return err
}
