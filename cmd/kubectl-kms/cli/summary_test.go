package cli

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
)

// API servers have converged for an audit only where they had before etcd was read and
// still have, on the same key, and none has restarted.
func TestSummaryOfBeforeAndAfter(t *testing.T) {
	t.Parallel()
	report := func(answer apiservers.Outcome, key string) *apiservers.Report {
		return &apiservers.Report{
			APIServers: []apiservers.APIServer{{Writes: []apiservers.Write{{Resource: "secrets", Format: "kms v2", KeyIDHash: key}}}},
			Verdict:    apiservers.Verdict{Answer: answer, Text: string(answer) + ": reasons."},
		}
	}
	const yes, no = apiservers.Converged, apiservers.NotConverged
	for name, c := range map[string]struct {
		before, after *apiservers.Report
		same, want    bool
		text          string
	}{
		"both":                     {report(yes, "a"), report(yes, "a"), true, true, "asked before and after, converged: reasons"},
		"not before":               {report(no, "a"), report(yes, "a"), true, false, "not converged: reasons"},
		"not after":                {report(yes, "a"), report(no, "a"), true, false, "not converged: reasons"},
		"one restarted in between": {report(yes, "a"), report(yes, "a"), false, false, "has restarted"},
		"another key in between":   {report(yes, "a"), report(yes, "b"), true, false, "went over to another key"},
	} {
		got := summary(c.before, c.after, c.same)
		if got.Converged != c.want || !strings.Contains(got.Text, c.text) || len(got.Writes) != map[bool]int{true: 1, false: 0}[c.want] {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
