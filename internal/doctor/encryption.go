package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// encryption checks kube-apiserver's file: first whether kube-apiserver takes it at
// all, by the rules of package encryptionconfig, and then against this
// configuration.
func (x *examination) encryption(_ context.Context, g *Group) {
	if x.EncryptionConfig == nil {
		return
	}
	c, refused, warnings := encryptionconfig.Examine(x.EncryptionConfig)
	if unread := x.mistakes(g, refused); unread || c == nil {
		return
	}
	x.mistakes(g, warnings)
	used, others := map[string]bool{}, []string{}
	for i, r := range c.Resources {
		where := fmt.Sprintf("resources[%d] (%s)", i, r)
		for _, p := range r.Providers {
			if p.KMS == nil {
				continue
			}
			ours := x.provider(p.KMS)
			if ours == nil {
				others = append(others, encryptionconfig.Shown(p.KMS.Endpoint))
				continue
			}
			for _, o := range x.Config.Providers { // of two on one socket neither lacks an entry
				used[o.Listen] = used[o.Listen] || sameSocket(o.Listen, p.KMS.Socket())
			}
			x.entry(g, where, p.KMS, ours)
		}
		x.order(g, where, r)
	}
	strayed := slices.ContainsFunc(warnings, func(m encryptionconfig.Mistake) bool { return m.Rule == encryptionconfig.Strayed })
	for _, p := range x.Config.Providers {
		if !used[p.Listen] && !strayed { // else it is the strayed one that is missing
			g.found(ProviderMissing, "no entry uses "+encryptionconfig.Endpoint(p.Listen), othersText(others))
		}
	}
	if len(g.Checks) == 0 {
		g.ok(x.EncryptionFile + " agrees with this configuration")
	}
}

// mistakes adds what is wrong with the file by itself. It reports whether there is
// something that makes further checks guesses.
func (x *examination) mistakes(g *Group, all encryptionconfig.Mistakes) (unread bool) {
	for _, m := range all {
		code := codeOf(m.Rule)
		where, what := title(code)+" "+x.EncryptionFile, m.Text
		if m.Path != "" {
			where += ": " + m.Path
		}
		if m.Line > 0 {
			what = fmt.Sprintf("line %d: %s", m.Line, what)
		}
		g.found(code, where, what)
		unread = unread || code == EncryptionFile
	}
	return unread
}

// title says of a code of kube-apiserver's file what was found, up to the file.
func title(c Code) string {
	switch c { //nolint:exhaustive // the others are refusals
	case NameOnReload:
		return "kube-apiserver refuses with automatic reload"
	case SecretsPlain:
		return "Secrets are not encrypted by"
	case Ineffective:
		return "a setting has no effect in"
	case EndpointStrays:
		return "an endpoint leads elsewhere in"
	}
	return "kube-apiserver refuses"
}

func codeOf(r encryptionconfig.Rule) Code {
	switch r {
	case encryptionconfig.Name:
		return NameRefused
	case encryptionconfig.NameTwice:
		return NameTwice
	case encryptionconfig.NameOnReload:
		return NameOnReload
	case encryptionconfig.CacheSize:
		return CacheRefused
	case encryptionconfig.Timeout:
		return TimeoutRefused
	case encryptionconfig.Plain:
		return SecretsPlain
	case encryptionconfig.Unread:
		return Ineffective
	case encryptionconfig.Strayed:
		return EndpointStrays
	case encryptionconfig.Form:
	}
	return EncryptionFile
}

// provider is whose socket an entry names, nil for another program's.
func (x *examination) provider(k *encryptionconfig.KMS) *config.Provider {
	for i, p := range x.Config.Providers {
		if sameSocket(p.Listen, k.Socket()) {
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

// entry checks the settings of an entry that leads to this program.
func (x *examination) entry(g *Group, where string, k *encryptionconfig.KMS, ours *config.Provider) {
	at := fmt.Sprintf("%s: kms %s: ", where, encryptionconfig.Quote(k.Name))
	if k.Version() == "v1" {
		g.found(OldAPI, at+"uses KMS v1", "")
	}
	x.cacheSize(g, at, k)
	x.timeout(g, at, k, ours)
}

// timeoutSeen says what an entry's timeout was compared with.
func (x *examination) timeoutSeen(timeout time.Duration, ours *config.Provider) string {
	slowest := x.slowest[ours.Listen]
	if slowest == 0 {
		return fmt.Sprintf("timeout %s, and no call was measured", timeout)
	}
	return fmt.Sprintf("timeout %s, the slowest call took %s, and the program keeps %s", timeout, rounded(slowest), awskms.Reply)
}

// farAbove is how many times the program's own limit is far above it.
const farAbove = 4

// timeout compares an entry's with what calls take, and with the program's own
// limit.
func (x *examination) timeout(g *Group, at string, k *encryptionconfig.KMS, ours *config.Provider) {
	timeout := encryptionconfig.DefaultTimeout
	if k.Timeout != nil {
		timeout = *k.Timeout
	}
	need := x.slowest[ours.Listen] + awskms.Reply
	text := fmt.Sprintf("%sits timeout of %s is ", at, timeout)
	switch {
	case timeout <= 0: // kube-apiserver refuses it
	case timeout < need:
		g.found(TimeoutShort, text+"shorter than KMS takes", fmt.Sprintf("timeout %s, needed %s", timeout, rounded(need)))
	case timeout < encryptionconfig.DefaultTimeout:
		// Calls fit, as long as none has to be repeated.
		g.tell(TimeoutShort, Warning, text+"short", x.timeoutSeen(timeout, ours), TimeoutShort.Info().Next)
	case timeout > farAbove*x.Config.KMSTimeout && timeout > encryptionconfig.DefaultTimeout:
		g.found(TimeoutLong, text+"long", fmt.Sprintf("timeout %s, --kms-timeout %s", timeout, x.Config.KMSTimeout))
	}
}

// cacheSize compares the cache of KMS v1 with the number of objects. Below 0 there
// is none, on purpose.
func (x *examination) cacheSize(g *Group, at string, k *encryptionconfig.KMS) {
	size := encryptionconfig.DefaultCacheSize
	if k.CacheSize != nil {
		size = int(*k.CacheSize)
	}
	if k.Version() == "v1" && size > 0 && size < x.Secrets {
		g.found(CacheSmall, at+"its cachesize is too small", fmt.Sprintf("cachesize %d, objects %d", size, x.Secrets))
	}
}

// order says who writes, where this program is in the list at all.
func (x *examination) order(g *Group, where string, r encryptionconfig.Resource) {
	isOurs := func(p encryptionconfig.Provider) bool { return p.KMS != nil && x.provider(p.KMS) != nil }
	if slices.ContainsFunc(r.Providers, isOurs) && !isOurs(r.Providers[0]) {
		g.found(NotFirst, where+": another provider than this program writes", "first is "+r.Providers[0].String())
	}
}
