package kube_test

import (
	"crypto/x509"
	"encoding/pem"

	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func unversioned(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	return c
}
