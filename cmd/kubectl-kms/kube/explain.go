package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// Explain makes an error of a request one for people. place is the address that was
// asked, and what is the right that the request takes, such as "get on /metrics". An end
// of ctx is returned as it is.
func Explain(ctx context.Context, place, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if said, ok := errors.AsType[*store.Error](err); ok {
		return said
	}
	said := &store.Error{Place: place, Reason: report.Clip(err.Error(), 512), Err: err}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	certificate, isCertificate := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case apierrors.IsForbidden(err):
		said.Reason = "it does not allow " + what
		said.Next = "Let a ClusterRole allow it: docs/kubectl-kms.md has one that is enough"
	case apierrors.IsUnauthorized(err):
		said.Reason = "it does not know who asks (401)"
		said.Next = "Credentials of the kubeconfig may have ended: kubectl auth whoami tells"
	case apierrors.IsTooManyRequests(err):
		said.Reason = "it is overloaded (429)"
		said.Next = "Run this again later"
	case isCertificate:
		said.Reason, said.Next = explainCertificate(certificate)
	case isDNS:
		said.Reason = fmt.Sprintf("the name %s is not found: %s", dns.Name, dns.Err)
		said.Next = "Is it the kubeconfig's, and does this machine reach the cluster's network?"
	case errors.Is(err, syscall.ECONNREFUSED):
		said.Reason = "nothing listens there (connection refused)"
		said.Next = "Is this API server starting, or stopped? Run this again when it answers"
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		said.Reason = "it does not answer in time"
		said.Next = "Does this machine reach the cluster's network? On a control plane node it does"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		said.Reason = "it speaks HTTP, and API servers speak HTTPS"
		said.Next = "Is it an API server's address?"
	}
	return said
}

func explainCertificate(err *tls.CertificateVerificationError) (reason, next string) {
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("its certificate is not for %s", name.Host), "Give the name that it has by --tls-server-name"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the kubeconfig's certificate authority did not sign its certificate", "A load balancer with a certificate of its own may stand between: take a kubeconfig that trusts the API servers themselves, such as kubeadm's"
	}
	return "its certificate is not valid: " + err.Err.Error(), "Renew it, or correct this machine's clock"
}
