package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
)

// TestWhatAStatusMeansForAMigration: only "converged", and KMS v1, whose key nobody knows
// and which needs none, let it begin.
func TestWhatAStatusMeansForAMigration(t *testing.T) {
	t.Parallel()
	file := &apiservers.File{Name: "enc.yaml", Hash: "sha256:file"}
	servers := []apiservers.APIServer{{
		Keys:   []apiservers.Key{{Provider: "aws", KeyIDHash: "sha256:named"}, {Provider: "old", KeyIDHash: "sha256:old"}},
		Writes: []apiservers.Write{{Resource: "secrets", Format: "kms v2", Provider: "aws", KeyIDHash: "sha256:stored", Probed: true}},
	}}
	because := func(kinds ...apiservers.ReasonKind) (out []apiservers.Reason) {
		for _, k := range kinds {
			out = append(out, apiservers.Reason{Kind: k, Text: string(k)})
		}
		return out
	}
	for name, c := range map[string]struct {
		file      *apiservers.File
		servers   []apiservers.APIServer
		reasons   []apiservers.Reason
		converged bool
		say       string
	}{
		"converged":            {file, servers, nil, true, ""},
		"KMS v1 is first":      {file, servers, because(apiservers.V1), true, ""},
		"they differ":          {file, servers, because(apiservers.Differ), false, "differ"},
		"v1, and they differ":  {file, servers, because(apiservers.V1, apiservers.Differ), false, "differ"},
		"metrics do not tell":  {file, servers, because(apiservers.NoConfigHash), false, "--probe tries"},
		"one was not asked":    {file, servers, because(apiservers.Uncovered), false, "not-covered"},
		"nodes are not listed": {file, servers, because(apiservers.NodesUnknown), false, "nodes"},
		"no configuration":     {nil, servers, nil, false, "no API server was asked about an encryption configuration"},
		"nobody":               {file, nil, nil, false, "no API server was asked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &apiservers.Report{Configuration: c.file, APIServers: c.servers, Verdict: apiservers.Verdict{Reasons: c.reasons, Text: "converged: both write under aws; rests on: 2 Leases; and more."}}
			j := judgementOf(r, &apiservers.Observation{})
			if j.Converged != c.converged || !strings.Contains(strings.Join(j.Reasons, "; "), c.say) || j.Converged != (len(j.Reasons) == 0) {
				t.Errorf("%+v", j)
			}
			if v1 := name == "KMS v1 is first"; v1 != strings.Contains(j.Basis, "in which KMS v1 writes") || !v1 && j.Basis != "converged: both write under aws" || j.RestsOn != "rests on: 2 Leases; and more" {
				t.Errorf("%q, %q", j.Basis, j.RestsOn)
			}
			if len(c.servers) > 0 {
				if diff := cmp.Diff(map[string]string{"aws": "sha256:stored", "old": "sha256:old"}, j.Keys); diff != "" {
					t.Errorf("keys (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestMembersAreProcesses: a restart makes another set, and the order does not.
func TestMembersAreProcesses(t *testing.T) {
	t.Parallel()
	seen := func(processes ...string) *apiservers.Observation {
		o := &apiservers.Observation{}
		for i, p := range processes {
			a := apiservers.Answer{ID: "sha256:host", Process: p}
			o.Asked = append(o.Asked, apiservers.Asked{Address: []string{"a:1", "b:1"}[i], Answers: []apiservers.Answer{a, a}})
		}
		return o
	}
	two, turned := seen("1", "2"), seen("1", "2")
	slices.Reverse(turned.Asked)
	if membersOf(two) != membersOf(turned) {
		t.Error("the order matters")
	}
	for name, other := range map[string]*apiservers.Observation{"a restart": seen("1", "3"), "one less": seen("1")} {
		if membersOf(two) == membersOf(other) {
			t.Errorf("%s is not seen", name)
		}
	}
}
