// Package kube finds a cluster's API servers as kubectl does, and says in words what
// keeps a request from being answered.
//
// [Flags] are kubectl's own flags. [Flags.Cluster] reads the kubeconfig that they, the
// environment and the home directory name, or kubeadm's on a control plane node. A
// [Cluster] makes clients, and clients of one address each: one API server behind a load
// balancer is not another.
//
// Every request is bounded in time.
package kube

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// AdminConf is the kubeconfig that kubeadm writes on each control plane node, for root.
const AdminConf = "/etc/kubernetes/admin.conf"

// Bounds of time.
const (
	dialTimeout    = 5 * time.Second  // for a connection
	requestTimeout = 30 * time.Second // for an answer, where --request-timeout is not given
)

// Flags are kubectl's own flags that say where API servers are, and as whom to ask them.
type Flags struct {
	config *genericclioptions.ConfigFlags
}

// NewFlags returns flags that are not given.
func NewFlags() *Flags {
	c := genericclioptions.NewConfigFlags(false)
	c.Namespace, c.CacheDir = nil, nil // nothing here is of one namespace, or kept
	return &Flags{c}
}

// Define adds the flags to a command. Help shows those that most people use.
func (f *Flags) Define(set *pflag.FlagSet) {
	own := pflag.NewFlagSet("kubectl", pflag.ContinueOnError)
	own.SortFlags = false
	f.config.AddFlags(own)
	own.VisitAll(func(flag *pflag.Flag) {
		switch flag.Name {
		case "kubeconfig":
			flag.Usage = "`FILE` that says where API servers are ($KUBECONFIG; default ~/.kube/config, then kubeadm's " + AdminConf + ")"
		case "context":
			flag.Usage = "`NAME` of the kubeconfig's context"
		case "server":
			flag.Usage = "`URL` of an API server, in place of the kubeconfig's; kubectl's other flags for connections work too"
		default:
			flag.Hidden = true
		}
		set.AddFlag(flag)
	})
}

// Options are what [Flags.Cluster] needs of its surroundings.
type Options struct {
	LookupEnv func(string) (string, bool) // os.LookupEnv
	UserAgent string
	AdminConf string // empty: [AdminConf]
}

// A Cluster is where a cluster's API servers are, and as whom to ask them.
type Cluster struct {
	From   string // the file or flag that says so, as people are told
	config *rest.Config
}

// Named reports whether a flag, the environment, the home directory or kubeadm names a
// cluster. It reads nothing.
func (f *Flags) Named(o Options) bool {
	_, ok := f.from(o)
	return ok
}

// Cluster reads the kubeconfig.
func (f *Flags) Cluster(o Options) (*Cluster, error) {
	from, ok := f.from(o)
	if !ok {
		return nil, &store.Error{
			Place:  "kubeconfig",
			Reason: "there is none: neither --kubeconfig nor KUBECONFIG is set, and neither ~/.kube/config nor " + cmp.Or(o.AdminConf, AdminConf) + " is here",
			Next:   "Name one by --kubeconfig, or run this on a control plane node as root",
		}
	}
	if from == cmp.Or(o.AdminConf, AdminConf) {
		*f.config.KubeConfig = from
	}
	config, err := f.config.ToRESTConfig()
	if err != nil {
		return nil, explainConfig(from, err)
	}
	// Of a file without clusters, kubectl makes http://localhost:8080.
	if config.Host == clientcmd.ClusterDefaults.Server && *f.config.APIServer == "" {
		return nil, explainConfig(from, clientcmd.ErrEmptyConfig)
	}
	if given := strings.TrimSpace(*f.config.Timeout); given == "" || given == "0" {
		config.Timeout = requestTimeout
	}
	config.UserAgent = o.UserAgent
	config.WarningHandler = rest.NoWarnings{} // kube-apiserver's, on deprecated APIs: nobody here can follow them
	config.QPS = -1                           // API servers have limits of their own, and callers theirs
	config.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	return &Cluster{From: from, config: config}, nil
}

// from says which kubeconfig counts, and whether there is any.
func (f *Flags) from(o Options) (from string, ok bool) {
	if file := *f.config.KubeConfig; file != "" {
		return file, true
	}
	if list, _ := o.LookupEnv(clientcmd.RecommendedConfigPathEnvVar); list != "" {
		return list, true
	}
	if home, _ := o.LookupEnv("HOME"); home != "" {
		if file := filepath.Join(home, clientcmd.RecommendedHomeDir, clientcmd.RecommendedFileName); exists(file) {
			return file, true
		}
	}
	if server := *f.config.APIServer; server != "" {
		return "--server", true
	}
	if admin := cmp.Or(o.AdminConf, AdminConf); exists(admin) {
		return admin, true
	}
	host, _ := o.LookupEnv("KUBERNETES_SERVICE_HOST")
	return "the service account of this pod", host != ""
}

// exists is true also of a file that may not be read: then that is what to say.
func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

func explainConfig(from string, err error) error {
	said := &store.Error{Place: from, Reason: err.Error(), Err: err, Next: "kubectl reads the same file: try kubectl config view"}
	switch {
	case errors.Is(err, fs.ErrPermission):
		said.Reason, said.Next = "permission denied", "Become root where it is kubeadm's, or name another by --kubeconfig"
	case errors.Is(err, fs.ErrNotExist):
		said.Reason, said.Next = "a file is not there: "+err.Error(), "Name another by --kubeconfig"
	case clientcmd.IsEmptyConfig(err):
		said.Reason, said.Next = "it names no cluster", "Name another by --kubeconfig, or a context of it by --context"
	}
	return said
}

// Server is the address of the kubeconfig, or of --server.
func (c *Cluster) Server() string { return c.config.Host }

// Config returns what a client is made of. The caller may change it.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// At returns what a client of one address is made of, an https:// URL. serverName is
// the name in its certificate; empty: the kubeconfig's word, or the URL's host.
func (c *Cluster) At(address, serverName string) *rest.Config {
	config := c.Config()
	config.Host, config.APIPath = address, ""
	if serverName != "" {
		config.TLSClientConfig.ServerName = serverName
	}
	return config
}

// CheckURL returns what is wrong with the address of an API server, and "" where nothing is.
func CheckURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Hostname() == "":
		return fmt.Sprintf("%.64q is no URL: want https://HOST:PORT", text)
	case u.Scheme != "https":
		return fmt.Sprintf("%.64q is not https: API servers take nothing else", text)
	case u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return "an API server's address has more than scheme, host and port"
	}
	return ""
}
