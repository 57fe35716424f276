package kmsemulator

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

// Policies are what IAM, keys, roles and an endpoint allow, as JSON documents.
type Policies struct {
	// Identity has the policies of users and roles, by their ARNs. Who is not
	// here may do what a key or role allows to them by name.
	Identity map[string][]string
	// Keys has the policies of keys that are there, by their ARNs, as PutKeyPolicy
	// would set them. One that is not here has its own, or KMS's default, which
	// leaves the decision to the key's account.
	Keys map[string]string
	// Trust has who may assume a role, by its ARN. Others can be assumed by nobody.
	Trust map[string]string
	// KMSEndpoint and STSEndpoint are the policies of the VPC endpoints that
	// every call comes by; "" is none.
	KMSEndpoint, STSEndpoint string
	// ServiceControl and ResourceControl are the policies of the organization, which
	// limit every principal and every key and role; "" is none.
	ServiceControl, ResourceControl string
	// Boundary and Session limit users and roles, by their ARNs: the permissions
	// boundary, and the policy with which the credentials were issued.
	Boundary, Session map[string]string
}

// enforced are Policies that were read.
type enforced struct {
	identity map[string][]*iam.Policy
	trust    map[string]*iam.Policy
	kms, sts *iam.Policy

	serviceControl, resourceControl *iam.Policy
	boundary, session               map[string]*iam.Policy
}

// by are the policies that bear on a principal, besides those of what it asks for.
func (in *enforced) by(principal string) iam.Policies {
	return iam.Policies{
		Identity: in.identity[principal], ServiceControl: in.serviceControl, ResourceControl: in.resourceControl,
		Boundary: in.boundary[principal], Session: in.session[principal],
	}
}

// Enforce makes policies decide every call from now on, besides Deny and Allow.
// It takes back what an earlier Enforce gave keys, and makes every change visible
// at once, as Settle does. It fails on a key that is not there, and on a document
// that IAM would refuse, or whose language the emulator does not know.
func (e *Emulator) Enforce(p Policies) error {
	in := &enforced{
		identity: map[string][]*iam.Policy{}, trust: map[string]*iam.Policy{},
		boundary: map[string]*iam.Policy{}, session: map[string]*iam.Policy{},
	}
	keys := map[keyRef]keyPolicy{}
	var err error
	read := func(kind iam.Kind, of, text string) *iam.Policy {
		policy, e := iam.Parse(kind, text)
		if e != nil && err == nil {
			err = fmt.Errorf("kmsemulator: %s: %w", of, e)
		}
		return policy
	}
	for of, all := range p.Identity {
		for _, text := range all {
			in.identity[of] = append(in.identity[of], read(iam.Identity, of, text))
		}
	}
	for of, text := range p.Keys {
		ref, e := e.refOf(of)
		if e != nil && err == nil {
			err = e
		}
		keys[ref] = keyPolicy{text: text, read: read(iam.Key, of, text), lent: true}
	}
	for of, text := range p.Trust {
		in.trust[of] = read(iam.Trust, of, text)
	}
	for of, text := range p.Boundary {
		in.boundary[of] = read(iam.Identity, of, text)
	}
	for of, text := range p.Session {
		in.session[of] = read(iam.Identity, of, text)
	}
	if p.ServiceControl != "" {
		in.serviceControl = read(iam.Identity, "service control policy", p.ServiceControl)
	}
	if p.ResourceControl != "" {
		in.resourceControl = read(iam.Endpoint, "resource control policy", p.ResourceControl)
	}
	if p.KMSEndpoint != "" {
		in.kms = read(iam.Endpoint, "KMS endpoint", p.KMSEndpoint)
	}
	if p.STSEndpoint != "" {
		in.sts = read(iam.Endpoint, "STS endpoint", p.STSEndpoint)
	}
	if err != nil {
		return err
	}
	if err := e.store.change(e.clock(), func(w *world) error { return w.lend(keys) }); err != nil {
		return err
	}
	e.store.settle()
	e.enforced.Store(in)
	return nil
}

// lend gives keys policies, and takes back those of the time before.
func (w *world) lend(policies map[keyRef]keyPolicy) error {
	for ref := range policies {
		if w.keys[ref] == nil {
			return fmt.Errorf("kmsemulator: there is no key %s in %s to give a policy", ref.id, ref.region)
		}
	}
	for ref, k := range w.keys {
		if p, ok := policies[ref]; ok || k.policy.lent {
			w.editKey(ref).policy = p
		}
	}
	return nil
}

// everything is the policy of somebody who needs no permission.
func everything() *iam.Policy {
	return own(iam.Identity, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)
}

func own(kind iam.Kind, text string) *iam.Policy {
	p, err := iam.Parse(kind, text)
	if err != nil {
		panic(err) // it stands in this file
	}
	return p
}

// request is what every decision about a caller starts with.
func (who caller) request() iam.Request {
	r := iam.Request{Principal: who.role, Session: who.principal, Keys: map[string][]string{}}
	if r.Principal == "" {
		r.Principal, r.Session = who.principal, ""
	}
	return r
}

// refusal says why the policies refuse an operation on a key, nil for none; ""
// where they allow it. Before Enforce the caller's account allows it everything,
// and only policies that keys were given decide.
func (c *call) refusal(k *key, operation string) string {
	if c.enforced.Load() == nil && !c.foreign() && (k == nil || k.policy.read == nil) {
		return ""
	}
	return iam.Refusal(c.question(k, operation))
}

// question is what the policies have to decide about an operation on a key, nil
// for none.
func (c *call) question(k *key, operation string) (iam.Request, iam.Policies) {
	p := iam.Policies{Identity: []*iam.Policy{c.everything}}
	r := c.caller.request()
	if in := c.enforced.Load(); in != nil {
		p = in.by(r.Principal)
		p.Endpoint = in.kms
	}
	r.Action, r.Resource = "kms:"+operation, "*"
	if k != nil {
		r.Resource, r.ResourceAccount = k.arn, c.account
		if p.Resource = k.policy.read; p.Resource == nil {
			p.Resource = c.defaults
		}
		c.describe(r.Keys, k, operation)
	}
	c.describeTags(r.Keys, k)
	return r, p
}

// describe fills in KMS's own condition keys.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
func (c *call) describe(keys map[string][]string, k *key, operation string) {
	for ref, a := range c.view.aliases {
		if ref.region == k.ref.region && a.target == k.ref.id {
			keys["kms:ResourceAliases"] = append(keys["kms:ResourceAliases"], ref.name)
		}
	}
	var in struct {
		KeyId, SourceKeyId, DestinationKeyId                                     *string
		EncryptionContext, SourceEncryptionContext, DestinationEncryptionContext map[string]string
	}
	if err := c.params.decode(&in); err != nil {
		return // the operation has refused it
	}
	name, context := in.KeyId, in.EncryptionContext
	switch operation {
	case "ReEncryptFrom":
		name, context = in.SourceKeyId, in.SourceEncryptionContext
	case "ReEncryptTo":
		name, context = in.DestinationKeyId, in.DestinationEncryptionContext
	}
	if name != nil {
		if i := strings.Index(*name, "alias/"); i >= 0 {
			keys["kms:RequestAlias"] = []string{(*name)[i:]}
		}
	}
	for _, pair := range slices.Sorted(maps.Keys(context)) {
		keys["kms:EncryptionContext:"+pair] = []string{context[pair]}
		keys["kms:EncryptionContextKeys"] = append(keys["kms:EncryptionContextKeys"], pair)
	}
}

// mayEnter reports whether the policies let a caller assume a role.
func (e *Emulator) mayEnter(who caller, role string, form url.Values) error {
	in := e.enforced.Load()
	if in == nil {
		return nil
	}
	r := who.request()
	r.Action, r.Resource, r.ResourceAccount = "sts:AssumeRole", role, iam.AccountOf(role)
	if id := form.Get("ExternalId"); id != "" {
		r.Keys["sts:ExternalId"] = []string{id}
	}
	p := in.by(r.Principal)
	p.Resource, p.Endpoint = in.trust[role], in.sts
	return decided(who, r, p)
}

// mayAsk reports whether an endpoint's policy lets a caller ask who it is.
func (e *Emulator) mayAsk(who caller) error {
	in := e.enforced.Load()
	if in == nil {
		return nil
	}
	r := who.request()
	r.Action, r.Resource = "sts:GetCallerIdentity", "*"
	return decided(who, r, iam.Policies{Identity: []*iam.Policy{e.everything}, Endpoint: in.sts})
}

func decided(who caller, r iam.Request, p iam.Policies) error {
	if because := iam.Refusal(r, p); because != "" {
		return deniedSTS(who.principal, r.Action, r.Resource, because)
	}
	return nil
}

// roleOf returns the ARN of a session's role, as far as the session tells it: a
// role's path is not part of it. "" is no session.
func roleOf(principal string) string {
	before, rest, ok := strings.Cut(principal, ":assumed-role/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return strings.Replace(before, ":sts:", ":iam:", 1) + ":role/" + name
}
