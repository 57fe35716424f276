package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// encryption checks kube-apiserver's file against this configuration. What
// kube-apiserver refuses is as its validation has it:
// k8s.io/apiserver/pkg/apis/apiserver/validation/validation_encryption.go.
func (x *examination) encryption(_ context.Context, g *Group) {
	if x.EncryptionConfig == nil {
		return
	}
	c, err := encryptionconfig.Parse(x.EncryptionConfig)
	if err != nil {
		g.found(EncryptionFile, x.EncryptionFile+" can be read", err.Error())
		return
	}
	used, others := map[string]bool{}, []string{}
	names := map[string]*encryptionconfig.KMS{}
	for i, r := range c.Resources {
		where := fmt.Sprintf("resources[%d] (%s)", i, strings.Join(r.Resources, ", "))
		for _, p := range r.Providers {
			if p.KMS == nil {
				continue
			}
			checkName(g, where, p.KMS, names)
			ours := x.provider(p.KMS)
			if ours == nil {
				others = append(others, p.KMS.Endpoint)
				continue
			}
			used[ours.Listen] = true
			x.entry(g, where, p.KMS, ours)
		}
		x.order(g, where, r)
	}
	for _, p := range x.Config.Providers {
		if !used[p.Listen] {
			g.found(ProviderMissing, fmt.Sprintf("an entry uses %s", encryptionconfig.Endpoint(p.Listen)), othersText(others))
		}
	}
	if len(g.Checks) == 0 {
		g.ok(x.EncryptionFile + " agrees with this configuration")
	}
}

// provider is whose socket an entry names, nil for another program's.
func (x *examination) provider(k *encryptionconfig.KMS) *config.Provider {
	for i, p := range x.Config.Providers {
		if daemon.SameSocket(p.Listen, k.Socket()) {
			return &x.Config.Providers[i]
		}
	}
	return nil
}

func othersText(others []string) string {
	if len(others) == 0 {
		return "there is no other kms entry"
	}
	return "there are " + strings.Join(others, ", ")
}

// checkName checks what has to be unique in the file: kube-apiserver demands it of
// every v2 entry, and of v1 where it reloads the file.
func checkName(g *Group, where string, k *encryptionconfig.KMS, names map[string]*encryptionconfig.KMS) {
	before := names[k.Name]
	names[k.Name] = k
	switch {
	case k.Version() == "v2" && strings.Contains(k.Name, ":"):
		g.found(NameRefused, fmt.Sprintf("%s: the name %q is one for v2", where, k.Name), "")
	case before != nil && (k.Version() == "v2" || before.Version() == "v2" || k.Endpoint != before.Endpoint):
		g.found(NameTwice, fmt.Sprintf("%s: no other entry is called %q", where, k.Name), before.Endpoint+" and "+k.Endpoint)
	}
}

// entry checks the settings of an entry that leads to this program.
func (x *examination) entry(g *Group, where string, k *encryptionconfig.KMS, ours *config.Provider) {
	at := fmt.Sprintf("%s: kms %q: ", where, k.Name)
	if k.Version() == "v1" {
		g.found(OldAPI, at+"uses KMS v2", "")
	}
	x.cacheSize(g, at, k)
	timeout := encryptionconfig.DefaultTimeout
	if k.Timeout != nil {
		timeout = *k.Timeout
	}
	need := x.slowest[ours.Listen] + awskms.Reply
	switch {
	case timeout <= 0:
		g.found(TimeoutRefused, at+"its timeout is one", timeout.String())
	case timeout < need:
		g.found(TimeoutShort, at+"its timeout leaves KMS enough time", fmt.Sprintf("timeout %s, needed %s", timeout, rounded(need)))
	}
}

func (x *examination) cacheSize(g *Group, at string, k *encryptionconfig.KMS) {
	size := encryptionconfig.DefaultCacheSize
	if k.CacheSize != nil {
		size = int(*k.CacheSize)
	}
	switch {
	case k.Version() == "v2" && k.CacheSize != nil:
		g.found(CacheRefused, at+"has no cachesize", fmt.Sprintf("cachesize %d with v2", size))
	case k.Version() == "v2":
	case size == 0:
		g.found(CacheRefused, at+"its cachesize is one", "cachesize 0")
	case size > 0 && size < x.Secrets: // below 0 there is no cache, on purpose
		g.found(CacheSmall, at+"its cachesize is large enough", fmt.Sprintf("cachesize %d, objects %d", size, x.Secrets))
	}
}

// order says who writes, where this program is in the list at all.
func (x *examination) order(g *Group, where string, r encryptionconfig.Resource) {
	isOurs := func(p encryptionconfig.Provider) bool { return p.KMS != nil && x.provider(p.KMS) != nil }
	if slices.ContainsFunc(r.Providers, isOurs) && !isOurs(r.Providers[0]) {
		g.found(NotFirst, where+": this program writes", "first is "+r.Providers[0].String())
	}
}
