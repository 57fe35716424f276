package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/controlplane"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// A gate asks API servers what they write under, as "kubectl kms status" does. It
// implements [rewrite.Gate].
type gate struct{ inq *inquiry }

// newGate makes the question of this migration.
func (m *migration) newGate(running *controlplane.APIServer) (*gate, error) {
	inq := &inquiry{addresses: m.f.apiServers, v1: true}
	inq.o.Expect, _ = expectation(m.f.expectOnly) // checked
	inq.o.Only = m.audit.Resources
	if err := inq.configuration(m.file, nil); err != nil {
		return nil, err
	}
	if m.f.probe {
		if err := inq.probes(m.s, &m.f.etcdFlags, running); err != nil {
			return nil, err
		}
	}
	return &gate{inq}, inq.connect(m.s, m.f.kube)
}

// Judge implements [rewrite.Gate].
func (g *gate) Judge(ctx context.Context) (rewrite.Judgement, error) {
	r, seen, err := g.inq.ask(ctx)
	if err != nil {
		return rewrite.Judgement{}, err
	}
	return judgementOf(r, seen), nil
}

// judgementOf is what a status means for a migration. That nobody knows under which key
// KMS v1 writes does not matter: its values are stale by their provider's name alone, and
// that is known.
func judgementOf(r *apiservers.Report, seen *apiservers.Observation) rewrite.Judgement {
	j := rewrite.Judgement{Keys: map[string]string{}, Members: membersOf(seen)}
	j.Basis, j.RestsOn, _ = strings.Cut(strings.TrimSuffix(r.Verdict.Text, "."), "; rests on: ")
	if j.RestsOn != "" {
		j.RestsOn = "rests on: " + j.RestsOn
	}
	probe := false
	for _, reason := range r.Verdict.Reasons {
		probe = probe || slices.Contains([]apiservers.ReasonKind{apiservers.NoConfigHash, apiservers.WriterUnsaid, apiservers.NoKey}, reason.Kind)
		if reason.Kind != apiservers.V1 {
			j.Reasons = append(j.Reasons, reason.Text)
		}
	}
	if len(j.Reasons) == 0 && (r.Configuration == nil || len(r.APIServers) == 0) {
		j.Reasons = append(j.Reasons, "no API server was asked about an encryption configuration")
	}
	j.Converged = len(j.Reasons) == 0
	if j.Converged && len(r.Verdict.Reasons) > 0 {
		j.Basis = "they have one configuration, in which KMS v1 writes: its values are stale under another provider's name alone, whatever the key is"
	}
	if probe && !j.Converged {
		j.Reasons = append(j.Reasons, "where metrics do not tell, --probe tries what each API server writes")
	}
	for _, s := range r.APIServers {
		for _, k := range s.Keys {
			j.Keys[k.Provider] = k.KeyIDHash
		}
		for _, w := range s.Writes { // what was read in etcd is more certain
			if w.KeyIDHash != "" {
				j.Keys[w.Provider] = w.KeyIDHash
			}
		}
	}
	return j
}

// membersOf tells one set of processes from another.
func membersOf(seen *apiservers.Observation) string {
	var all []string
	for _, asked := range seen.Asked {
		for _, a := range asked.Answers {
			all = append(all, fmt.Sprintf("%s %s %s", asked.Address, a.ID, a.Process))
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// oneCluster refuses an etcd that is not the API servers'. Their Leases are renewed every ten
// seconds, so that their revisions are those of one cluster alone.
func (m *migration) oneCluster(ctx context.Context) error {
	if m.point == nil {
		return nil
	}
	cluster := m.gate.inq.cluster
	before, err := cluster.Members(ctx)
	if err != nil {
		return err
	}
	inEtcd, err := m.leases(ctx, before.Leases)
	if err != nil {
		return err
	}
	after, err := cluster.Members(ctx)
	if err != nil {
		return err
	}
	found := len(before.Leases) == 0 // before Kubernetes 1.26, which the gate says
	for name, between := range revisions(before.Leases, after.Leases) {
		at, there := inEtcd[name]
		if there && (at < between[0] || at > between[1]) {
			found = false
			break
		}
		found = found || there
	}
	if found {
		return nil
	}
	return &store.Error{
		Place: strings.Join(m.target.etcd.Endpoints, ","), Reason: "the Leases of the API servers are not there, or of other revisions",
		Next: "Do --endpoints, --prefix and the kubeconfig belong to one cluster?",
	}
}

// leases returns the revisions that Leases have in etcd, by name.
func (m *migration) leases(ctx context.Context, of []apiservers.Lease) (map[string]int64, error) {
	found := map[string]int64{}
	for _, lease := range of {
		for _, prefix := range m.audit.EtcdPrefixes() {
			kv, ok, err := m.point.Get(ctx, prefix+"/leases/kube-system/"+lease.Name, 0)
			if err != nil {
				return nil, err
			}
			if ok {
				found[lease.Name] = kv.ModRevision
			}
		}
	}
	return found, nil
}
