package verify

import (
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// open opens an object, and forgets it.
func (c *collector) open(v audit.Value, s *source) {
	if v.Record.Format == stored.Plaintext {
		return
	}
	n := c.in.usages[usage{base{v.Resource, v.Record.Format, v.Record.Provider}, s}]
	keys := c.keysFor(v, s)
	if len(keys) == 0 {
		if s == nil {
			n.keyless++
		}
		return // else the report says of its DEK why that is not open
	}
	if s == nil {
		defer func() {
			for _, key := range keys {
				key.Clear()
			}
		}()
	}
	path := strings.TrimPrefix(string(v.Path), c.o.Audit.StripPrefix) // as the API server knows it
	for _, key := range keys {
		opened, ok := openWith(v.Record, key, path)
		if !ok {
			continue
		}
		opened.Object.Clear()
		n.opened++
		if !opened.Authenticated {
			n.padding++
		}
		if v.Record.Cipher() == stored.GCMOrCBC {
			n.decide(opened.Cipher)
		}
		return
	}
	n.failed++
	n.failedPath = string(v.Path)
}

func (n *count) decide(c stored.Cipher) {
	if c == stored.CBC {
		n.cbc++
	} else {
		n.gcm++
	}
}

// openWith opens an object by one key. path is what AES-GCM is bound to, and nothing is
// made of names: a value that was moved does not open.
func openWith(r stored.Record, key secret.Bytes, path string) (stored.Opened, bool) {
	nonce, box, boxed := r.Box()
	if !boxed {
		opened, err := r.Open(key, path)
		return opened, err == nil
	}
	if len(key) != keySize {
		return stored.Opened{}, false
	}
	object, ok := secretbox.Open(nil, box, &nonce, (*[keySize]byte)(key))
	return stored.Opened{Object: object, Cipher: stored.XSalsa20Box, Authenticated: true}, ok
}

// keysFor returns what may open an object: its DEK or seed, or the local keys of its name.
func (c *collector) keysFor(v audit.Value, s *source) []secret.Bytes {
	switch {
	case s != nil && s.plain != nil:
		return []secret.Bytes{s.plain}
	case s != nil, c.o.Audit.Config == nil:
		return nil
	}
	name, group, _ := strings.Cut(v.Resource, ".")
	entry, _ := c.o.Audit.Config.For(name, group)
	keys := localKeys(entry.Providers, v.Record)
	if len(keys) > 0 {
		return keys
	}
	for _, r := range c.o.Audit.Config.Resources { // another resource's, which may have been this one's
		keys = append(keys, localKeys(r.Providers, v.Record)...)
	}
	return keys
}

func localKeys(providers []encryptionconfig.Provider, r stored.Record) (keys []secret.Bytes) {
	for _, p := range providers {
		if formatOf(p) != r.Format {
			continue
		}
		for _, k := range p.LocalKeys() {
			raw, err := base64.StdEncoding.DecodeString(k.Secret)
			if err == nil && k.Name == r.Provider {
				keys = append(keys, raw)
			}
		}
	}
	return keys
}

func formatOf(p encryptionconfig.Provider) stored.Format {
	switch {
	case p.AESCBC != nil:
		return stored.AESCBC
	case p.AESGCM != nil:
		return stored.AESGCM
	case p.Secretbox != nil:
		return stored.Secretbox
	}
	return stored.Plaintext
}
