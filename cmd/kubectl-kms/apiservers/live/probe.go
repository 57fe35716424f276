package live

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// ProbePrefix begins the name of every object that a probe creates.
const ProbePrefix = "kubectl-kms-probe-"

// probeNamespace is one that every cluster has.
const probeNamespace = "default"

// cleanup bounds the deletion of an object, which is tried also after an interruption.
const cleanup = 20 * time.Second

// An Etcd gives what is stored under one key.
type Etcd interface {
	Get(ctx context.Context, key string) (kv store.KeyValue, found bool, err error)
}

// ProbeOptions say what to write, and where it is stored.
type ProbeOptions struct {
	Config              *encryptionconfig.Configuration
	Prefix, StripPrefix string // as in package audit
}

// Probe creates an object of each encrypted resource through each address, reads in etcd
// what it is stored under, lets every other API server read it, and deletes it. It deletes
// also when it is interrupted; an object that it could not delete is named in the error.
func (c *Cluster) Probe(ctx context.Context, etcd Etcd, o ProbeOptions, addresses []string) (*apiservers.Probe, error) {
	if err := c.sameCluster(ctx, etcd, o); err != nil {
		return nil, err
	}
	p := &prober{cluster: c, etcd: etcd, o: o, addresses: addresses, out: &apiservers.Probe{}}
	for _, entry := range o.Config.Resources {
		if !entry.Encrypts() {
			continue
		}
		for _, name := range entry.Resources {
			if err := p.resource(ctx, name); err != nil {
				return nil, err
			}
		}
	}
	return p.out, nil
}

// sameCluster refuses an etcd that is certainly not the API servers', before anything is
// written by them and looked for in vain.
func (c *Cluster) sameCluster(ctx context.Context, etcd Etcd, o ProbeOptions) error {
	want, err := c.kubeSystem(ctx)
	if err != nil {
		return err
	}
	key := o.key("namespaces", "kube-system")
	kv, found, err := etcd.Get(ctx, key)
	switch {
	case err != nil:
		return err
	case !found:
		return &store.Error{Place: "etcd", Reason: "it has no " + report.Plain(key), Next: "Is it the etcd of these API servers, and --prefix their --etcd-prefix?"}
	case kv.ModRevision != want:
		return &store.Error{
			Place: "etcd", Reason: fmt.Sprintf("its namespace kube-system is of revision %d, and that of %s of %d: they are of different clusters", kv.ModRevision, c.kube.Server(), want),
			Next: "Name the etcd of these API servers, or their kubeconfig",
		}
	}
	return nil
}

func (o ProbeOptions) key(parts ...string) string {
	return o.StripPrefix + path.Join(append([]string{"/", o.Prefix}, parts...)...)
}

type prober struct {
	cluster   *Cluster
	etcd      Etcd
	o         ProbeOptions
	addresses []string
	out       *apiservers.Probe
}

// A target is a resource as the API has it.
type target struct {
	configured string // as the EncryptionConfiguration names it
	name       string
	group      string
	path       string // of the collection
	apiVersion string
	kind       string
	namespace  string // empty: of the cluster
	fields     map[string]any
}

func (t target) String() string {
	if t.group == "" {
		return t.name
	}
	return t.name + "." + t.group
}

func (p *prober) not(resource, format string, args ...any) {
	p.out.NotProbed = append(p.out.NotProbed, apiservers.NotProbed{Resource: resource, Reason: fmt.Sprintf(format, args...)})
}

func (p *prober) resource(ctx context.Context, configured string) error {
	t, err := p.target(ctx, configured)
	if err != nil || t == nil {
		return err
	}
	for _, address := range p.addresses {
		if err := p.write(ctx, *t, address); err != nil {
			return err
		}
	}
	return nil
}

// write writes an object through an address.
func (p *prober) write(ctx context.Context, t target, address string) (err error) {
	suffix := make([]byte, 6)
	_, _ = rand.Read(suffix) // never fails
	name := ProbePrefix + hex.EncodeToString(suffix)
	object := map[string]any{
		"apiVersion": t.apiVersion, "kind": t.kind,
		"metadata": map[string]any{"name": name, "labels": map[string]string{"app.kubernetes.io/managed-by": "kubectl-kms"}},
	}
	maps.Copy(object, t.fields)
	// Once the request is on its way, the object may be there, unless it was refused.
	there, refused := false, false
	defer func() {
		if refused {
			return
		}
		if left := p.remove(ctx, t, address, name, there); left != nil {
			err = left
		}
	}()
	err = p.cluster.send(ctx, http.MethodPost, address, t.path, object)
	status, _ := errors.AsType[*apierrors.StatusError](err)
	switch {
	case err == nil:
		there = true
		return p.look(ctx, t, address, name)
	case status != nil && status.ErrStatus.Code/100 == 4:
		refused = true
	}
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || ctx.Err() != nil {
		return kube.Explain(ctx, address, "create on "+t.String()+t.in(), err)
	}
	p.not(t.configured, "the API server at %s did not take one: %s", address, report.Clip(err.Error(), 256))
	return nil
}

func (t target) in() string {
	if t.namespace == "" {
		return ""
	}
	return " in " + t.namespace
}

// look reads what is stored, and lets the other API servers read it.
func (p *prober) look(ctx context.Context, t target, address, name string) error {
	for _, key := range p.keys(t, name) {
		kv, found, err := p.etcd.Get(ctx, key)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		record, wrong := stored.Parse(kv.Value, p.o.Config.Names())
		if wrong != nil {
			p.not(t.configured, "what the API server at %s has stored is of no format that is known", address)
			return nil
		}
		s := apiservers.Stored{Address: address, Resource: t.configured, Format: string(record.Format), Provider: record.Provider, KeyID: record.KeyID}
		for _, other := range p.addresses {
			if other == address {
				continue
			}
			err := p.cluster.send(ctx, http.MethodGet, other, t.path+"/"+name, nil)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case apierrors.IsForbidden(err):
				return kube.Explain(ctx, other, "get on "+t.String()+t.in(), err)
			case apierrors.IsInternalError(err), apierrors.IsNotFound(err): // another key, or another etcd
				s.Unreadable = append(s.Unreadable, other)
			}
		}
		p.out.Stored = append(p.out.Stored, s)
		return nil
	}
	p.not(t.configured, "it is not in this etcd: --etcd-servers-overrides may keep it in another")
	return nil
}

// keys are where an object may be: built-in resources have no group in their path.
func (p *prober) keys(t target, name string) []string {
	keys := []string{p.o.key(t.name, t.namespace, name), p.o.key(t.group, t.name, t.namespace, name)}
	if t.name == "endpoints" {
		keys = append(keys, p.o.key("services/endpoints", t.namespace, name))
	}
	return keys
}

// remove deletes an object, and waits for that also after an interruption. Where
// nobody said that it was created, it may still be on its way.
func (p *prober) remove(ctx context.Context, t target, address, name string, there bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	var err error
	for range 4 {
		err = p.cluster.send(ctx, http.MethodDelete, address, t.path+"/"+name, map[string]any{
			"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
		})
		if err == nil || apierrors.IsNotFound(err) && there || apierrors.IsForbidden(err) {
			break
		}
		pause(ctx, time.Second)
	}
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	where := ""
	if t.namespace != "" {
		where = " -n " + t.namespace
	}
	return fmt.Errorf("%w; a probe is left behind: kubectl delete %s%s %s", kube.Explain(ctx, address, "delete on "+t.String()+t.in(), err), t, where, name)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// target finds a resource in the API. nil: it is in NotProbed.
func (p *prober) target(ctx context.Context, configured string) (*target, error) {
	name, group, _ := strings.Cut(configured, ".")
	if name == "*" {
		if name, group = p.standIn(configured); name == "" {
			p.not(configured, "no resource that it covers can be created without doing something")
			return nil, nil
		}
	}
	fields, harmless := minimal(name, group)
	if !harmless {
		p.not(configured, "a new one would do something")
		return nil, nil
	}
	t := &target{configured: configured, name: name, group: group, fields: fields}
	found, err := p.discover(ctx, t)
	if err != nil {
		return nil, err
	}
	if !found {
		p.not(configured, "the API servers do not serve it")
		return nil, nil
	}
	return t, nil
}

// standIn is what stands for a wildcard: a harmless resource whose providers are those of
// that entry, and no earlier one's.
func (p *prober) standIn(wildcard string) (name, group string) {
	for _, one := range []string{
		"configmaps", "leases.coordination.k8s.io", "controllerrevisions.apps", "roles.rbac.authorization.k8s.io",
		"networkpolicies.networking.k8s.io", "poddisruptionbudgets.policy", "endpointslices.discovery.k8s.io",
		"priorityclasses.scheduling.k8s.io", "storageclasses.storage.k8s.io", "runtimeclasses.node.k8s.io",
	} {
		name, group, _ := strings.Cut(one, ".")
		entry, ok := p.o.Config.For(name, group)
		if ok && encryptionconfig.Covers(wildcard, name, group) && slices.Contains(entry.Resources, wildcard) {
			return name, group
		}
	}
	return "", ""
}

// minimal are the fields of a resource without which the API takes none, and whether one
// that has no more does nothing. Of custom resources nobody knows; most controllers refuse
// or ignore an empty one.
func minimal(name, group string) (fields map[string]any, harmless bool) {
	none := map[string]any{"matchLabels": map[string]string{"app.kubernetes.io/managed-by": "kubectl-kms"}}
	switch strings.TrimSuffix(name+"."+group, ".") {
	case "secrets", "configmaps", "serviceaccounts", "endpoints", "leases.coordination.k8s.io", "roles.rbac.authorization.k8s.io", "clusterroles.rbac.authorization.k8s.io":
		return nil, true
	case "events":
		return map[string]any{"involvedObject": map[string]string{"namespace": probeNamespace}}, true
	case "limitranges":
		return map[string]any{"spec": map[string]any{"limits": []any{}}}, true
	case "resourcequotas":
		return map[string]any{"spec": map[string]any{}}, true
	case "controllerrevisions.apps":
		return map[string]any{"revision": 1, "data": map[string]any{}}, true
	case "endpointslices.discovery.k8s.io":
		return map[string]any{"addressType": "IPv4", "endpoints": []any{}}, true
	case "networkpolicies.networking.k8s.io":
		return map[string]any{"spec": map[string]any{"podSelector": none}}, true
	case "poddisruptionbudgets.policy":
		return map[string]any{"spec": map[string]any{"selector": none, "minAvailable": 0}}, true
	case "priorityclasses.scheduling.k8s.io":
		return map[string]any{"value": 0}, true
	case "storageclasses.storage.k8s.io":
		return map[string]any{"provisioner": "kubernetes.io/no-provisioner"}, true
	case "runtimeclasses.node.k8s.io":
		return map[string]any{"handler": "kubectl-kms-probe"}, true
	}
	return nil, group != "" && !builtIn(group)
}

// builtIn reports whether a group is one of Kubernetes' own, where objects do something.
func builtIn(group string) bool {
	return !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io")
}

// discover finds the collection of a resource.
func (p *prober) discover(ctx context.Context, t *target) (found bool, err error) {
	base := "/api/v1"
	t.apiVersion = "v1"
	if t.group != "" {
		var group metav1.APIGroup
		if _, err := p.cluster.get(ctx, "/apis/"+t.group, "get on /apis/"+t.group, "application/json", &group); err != nil {
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			return false, err
		}
		t.apiVersion = group.PreferredVersion.GroupVersion
		base = "/apis/" + t.apiVersion
	}
	var list metav1.APIResourceList
	if _, err := p.cluster.get(ctx, base, "get on "+base, "application/json", &list); err != nil {
		return false, err
	}
	for _, r := range list.APIResources {
		if r.Name != t.name || !slices.Contains(r.Verbs, "create") {
			continue
		}
		t.kind, t.path = r.Kind, base+"/"+t.name
		if r.Namespaced {
			t.namespace = probeNamespace
			t.path = base + "/namespaces/" + probeNamespace + "/" + t.name
		}
		return true, nil
	}
	return false, nil
}

// send asks an address and reads no more of the answer than whether it is a success.
func (c *Cluster) send(ctx context.Context, method, address, path string, body any) error {
	client, err := c.client(address)
	if err != nil {
		return err
	}
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, URL(address)+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return statusError(resp.StatusCode, text)
	}
	return nil
}
