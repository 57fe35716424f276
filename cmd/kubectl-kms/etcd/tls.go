package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// What one does where a certificate is missing or wrong.
const (
	adviceCert = "Give --cert and --key of a client that etcd trusts; kubeadm has /etc/kubernetes/pki/apiserver-etcd-client.crt and .key"
	adviceCA   = "Give the authority that signed etcd's certificate by --cacert; kubeadm has it in /etc/kubernetes/pki/etcd/ca.crt"
)

// load reads the files that the options name. It returns nil where nothing asks for
// TLS.
func (o Options) load() (*tls.Config, error) {
	if !o.secure() {
		return nil, nil //nolint:nilnil // no TLS is an answer
	}
	config := o.bare()
	if o.CACert != "" {
		text, err := readFile("--cacert", o.CACert)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, &store.Error{Place: o.CACert, Reason: "the file of --cacert has no certificate in PEM form", Next: adviceCA}
		}
	}
	if o.Cert == "" && o.Key == "" {
		return config, nil
	}
	pair, err := o.pair()
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// bare is a configuration without files: this machine's authorities count.
func (o Options) bare() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         o.ServerName,
		InsecureSkipVerify: o.InsecureSkipVerify, //nolint:gosec // a flag of that name, and a caveat of the verdict
	}
}

// secure reports whether the options speak of TLS at all.
func (o Options) secure() bool {
	return o.CACert != "" || o.Cert != "" || o.Key != "" || o.ServerName != "" || o.InsecureSkipVerify
}

// pair reads the client's certificate and its key.
func (o Options) pair() (tls.Certificate, error) {
	if o.Cert == "" || o.Key == "" {
		return tls.Certificate{}, errors.New("--cert and --key belong together: give both or neither")
	}
	cert, err := readFile("--cert", o.Cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readFile("--key", o.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // its words never quote the key
		return tls.Certificate{}, &store.Error{
			Place: o.Cert, Reason: fmt.Sprintf("the certificate and the key in %s do not go together: %v", o.Key, err), Next: adviceCert, Err: err,
		}
	}
	if pair.Leaf != nil && time.Now().After(pair.Leaf.NotAfter) {
		return tls.Certificate{}, &store.Error{
			Place: o.Cert, Reason: "the certificate expired on " + pair.Leaf.NotAfter.UTC().Format(time.DateOnly),
			Next: "Renew it, with kubeadm by: kubeadm certs renew apiserver-etcd-client",
		}
	}
	return pair, nil
}

// readFile reads a small file that a flag names.
func readFile(flag, path string) ([]byte, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err == nil {
		return text, nil
	}
	e := &store.Error{Place: path, Reason: "the file of " + flag + " cannot be read: " + cause(err), Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Next = "Become root: kubeadm's certificates belong to root, and only root may read their keys"
	case errors.Is(err, fs.ErrNotExist):
		e.Next = "Run it on a control-plane node, or copy the file from one"
	}
	return nil, e
}

// cause is what an error of a file says beside the path.
func cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}
