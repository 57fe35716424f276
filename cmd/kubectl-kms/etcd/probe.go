package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// dialTimeout bounds each step of reaching a member: the connection, the handshake,
// its first words.
const dialTimeout = 5 * time.Second

// preface is what a client of HTTP/2 says first: its magic and empty SETTINGS. The
// server answers with its own SETTINGS. RFC 9113, 3.4.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// probe connects to the endpoint as etcd's client will, and says in words what keeps
// it from doing so: the client itself would say that time has run out.
func (o Options) probe(ctx context.Context, e endpoint, config *tls.Config) error {
	conn, err := dial(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	spoken := conn
	if e.tls {
		if spoken, err = o.handshake(ctx, e, conn, config); err != nil {
			return err
		}
	}
	return o.greet(ctx, e, spoken)
}

func dial(ctx context.Context, e endpoint) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, e.network, e.address)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	said := &store.Error{Place: e.url, Reason: "cannot connect: " + err.Error(), Err: err}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case isDNS:
		said.Reason = fmt.Sprintf("the name %s is not found: %s", dns.Name, dns.Err)
		said.Next = "Give etcd's address by --endpoints"
	case errors.Is(err, syscall.ECONNREFUSED):
		said.Reason = "nothing listens there (connection refused)"
		said.Next = "Is etcd running (crictl ps --name etcd), and is this its client address?"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		said.Reason = "this user may not connect: permission denied"
		said.Next = "Become root"
	case isNet && timeout.Timeout():
		said.Reason = fmt.Sprintf("no connection within %v", dialTimeout)
		said.Next = "Is the node up, and does a firewall let this machine reach it? etcd usually serves control-plane nodes alone"
	}
	return nil, said
}

// handshake makes the TLS connection.
func (o Options) handshake(ctx context.Context, e endpoint, conn net.Conn, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	if config.ServerName == "" {
		config.ServerName = e.host
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, o.explainTLS(ctx, e, err)
	}
	return secure, nil
}

// explainTLS says what a failed handshake means, or a failed read after one.
func (o Options) explainTLS(ctx context.Context, e endpoint, err error) error {
	said := &store.Error{Place: e.url, Reason: "the TLS handshake failed: " + err.Error(), Err: err}
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	host, isHost := errors.AsType[x509.HostnameError](err)
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isPlain := errors.AsType[tls.RecordHeaderError](err)
	alert := alertOf(err)
	switch {
	case strings.Contains(alert, "no application protocol"):
		return notEtcd(e)
	case isPlain, errors.Is(err, io.EOF) && speaksPlain(ctx, e):
		said.Reason, said.Next = "the server does not speak TLS", "Begin the endpoint with http:// if it is etcd's"
	case isUnknown && o.CACert != "":
		said.Reason, said.Next = "its certificate is not signed by the authority in "+o.CACert, adviceCA
	case isUnknown:
		said.Reason, said.Next = "this machine does not trust whoever signed its certificate", adviceCA
	case isHost:
		said.Reason = fmt.Sprintf("its certificate is not for %s, but for %s", host.Host, strings.Join(namesOf(host.Certificate), ", "))
		said.Next = "Name etcd in --endpoints as its certificate does"
	case isInvalid && invalid.Reason == x509.Expired:
		said.Reason = fmt.Sprintf("its certificate is valid from %s to %s, and this machine's clock says %s",
			day(invalid.Cert.NotBefore), day(invalid.Cert.NotAfter), day(time.Now()))
		said.Next = "Renew it, with kubeadm by: kubeadm certs renew etcd-server; or set the clock"
	case aboutCertificate(alert) && o.Cert == "":
		said.Reason, said.Next = fmt.Sprintf("it asks for a client certificate (%s)", alert), adviceCert
	case aboutCertificate(alert):
		said.Reason, said.Next = fmt.Sprintf("it does not accept the certificate in %s (%s)", o.Cert, alert), adviceCert
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		said.Reason = fmt.Sprintf("no TLS handshake within %v", dialTimeout)
		said.Next = "Is it etcd's client address?"
	}
	return said
}

// alertOf is what the other side of TLS said, in the words of crypto/tls, or empty.
func alertOf(err error) string {
	if remote, ok := errors.AsType[*net.OpError](err); ok && remote.Op == "remote error" {
		return remote.Err.Error()
	}
	return ""
}

// aboutCertificate reports whether an alert is of the client's certificate. TLS 1.2
// calls a missing one a handshake failure.
func aboutCertificate(alert string) bool {
	return strings.Contains(alert, "certificate") || strings.Contains(alert, "handshake failure") || strings.Contains(alert, "access denied")
}

func notEtcd(e endpoint) error {
	return &store.Error{Place: e.url, Reason: "the server does not speak gRPC", Next: "Is it etcd's client address?"}
}

// namesOf are the hosts that a certificate is for.
func namesOf(cert *x509.Certificate) []string {
	names := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return []string{"no host"}
	}
	return names
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// greet speaks HTTP/2 until the server has answered. In TLS 1.3 this is also where
// the server says that it does not like the client's certificate.
func (o Options) greet(ctx context.Context, e endpoint, conn net.Conn) error {
	settings, err := exchange(conn)
	switch {
	case settings:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return notEtcd(e)
	case e.tls:
		return o.explainTLS(ctx, e, err)
	}
	if speaksTLS(ctx, e) {
		return &store.Error{Place: e.url, Reason: "the server speaks TLS", Next: "Begin the endpoint with https://", Err: err}
	}
	return &store.Error{
		Place: e.url, Reason: fmt.Sprintf("the server does not answer as etcd does: %v", err), Next: "Is it etcd's client address?", Err: err,
	}
}

// exchange sends the preface and reads the head of the first frame. It reports whether
// that is one of SETTINGS.
func exchange(conn net.Conn) (settings bool, err error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return false, err
	}
	_, sent := io.WriteString(conn, preface)
	var head [9]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return false, errors.Join(err, sent)
	}
	const kind = 4
	return head[3] == kind, nil
}

// speaksPlain reports whether a server that does not answer a handshake answers plain
// HTTP/2.
func speaksPlain(ctx context.Context, e endpoint) bool {
	conn, err := dial(ctx, e)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	settings, _ := exchange(conn)
	return settings
}

// speaksTLS reports whether a server that does not answer plain words answers a
// handshake, even by refusing it.
func speaksTLS(ctx context.Context, e endpoint) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dial(ctx, e)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	// Nothing but its language is asked for, so its certificate does not matter.
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx) //nolint:gosec // as said
	return err == nil || alertOf(err) != ""
}
