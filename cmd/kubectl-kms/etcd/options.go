package etcd

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Options say where etcd is and as whom to read it. They are those of etcdctl.
type Options struct {
	// Endpoints are the clients' addresses of the members of one cluster, such as
	// https://10.0.0.1:2379. The first that answers is the one that is read. Without a
	// scheme it is https if a file is named below, and else http.
	Endpoints []string

	CACert string // file: who may sign etcd's certificate; empty: whom this machine trusts
	Cert   string // file: the client's certificate; empty: none is shown
	Key    string // file: the key of Cert

	ServerName         string // in etcd's certificate; empty: the host of the endpoint
	InsecureSkipVerify bool   // takes any certificate, which becomes a caveat

	User     string // of etcd's own users; empty: none
	Password secret.Bytes

	// Progress is called, from the goroutine of Read, after each answer of etcd. It may
	// be nil.
	Progress func(store.Progress)
}

// FromEnvironment returns the options that etcdctl would take from the environment:
// ETCDCTL_ENDPOINTS, ETCDCTL_CACERT and so on. Those that it does not set are empty.
// lookup is os.LookupEnv, or stands for it.
func FromEnvironment(lookup func(string) (string, bool)) (Options, error) {
	get := func(name string) string {
		value, _ := lookup("ETCDCTL_" + name)
		return value
	}
	o := Options{
		CACert: get("CACERT"),
		Cert:   get("CERT"),
		Key:    get("KEY"),
		User:   get("USER"),
	}
	if password := get("PASSWORD"); password != "" {
		o.Password = secret.Bytes(password)
	}
	if endpoints := get("ENDPOINTS"); endpoints != "" {
		o.Endpoints = strings.Split(endpoints, ",")
	}
	if user, password, both := strings.Cut(o.User, ":"); both && o.Password == nil {
		o.User, o.Password = user, secret.Bytes(password)
	}
	if text := get("INSECURE_SKIP_TLS_VERIFY"); text != "" {
		skip, err := strconv.ParseBool(text)
		if err != nil {
			return Options{}, fmt.Errorf("ETCDCTL_INSECURE_SKIP_TLS_VERIFY is %q: want true or false", text)
		}
		o.InsecureSkipVerify = skip
	}
	return o, nil
}

// An endpoint is one address, as it is dialled.
type endpoint struct {
	url              string // with its scheme: as etcd's client takes it, and as people are told
	network, address string
	host             string // in its certificate
	tls              bool
}

// parseEndpoint also refuses what etcd's client would take and never connect to.
func parseEndpoint(text string, secure bool) (endpoint, error) {
	text = strings.TrimSuffix(strings.TrimSpace(text), "/")
	if !strings.Contains(text, "://") {
		text = map[bool]string{true: "https://", false: "http://"}[secure] + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, fmt.Errorf("endpoint %q is not an address: want a form such as https://10.0.0.1:2379", text)
	}
	if u.User != nil {
		return endpoint{}, fmt.Errorf("endpoint %s has a user in it: name it by --user", u.Redacted())
	}
	e := endpoint{url: text, tls: u.Scheme == "https" || u.Scheme == "unixs"}
	switch u.Scheme {
	case "http", "https":
		if u.Hostname() == "" || u.Port() == "" || u.Path != "" {
			return endpoint{}, fmt.Errorf("endpoint %s: want a host and a port and no path, such as https://10.0.0.1:2379", text)
		}
		e.network, e.address, e.host = "tcp", u.Host, u.Hostname()
	case "unix", "unixs":
		_, e.address, _ = strings.Cut(text, "://")
		e.network, e.host = "unix", path.Base(e.address)
	default:
		return endpoint{}, fmt.Errorf("endpoint %s begins with %s: want https, http, unixs or unix", text, u.Scheme)
	}
	return e, nil
}
