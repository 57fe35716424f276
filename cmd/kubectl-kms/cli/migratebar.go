package cli

import (
	"fmt"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A migrateBar says how far a migration is.
type migrateBar struct {
	of   *rewrite.Progress
	list *audit.Progress // nil: no etcd is read
}

func (b *migrateBar) bar() string {
	done, total := b.of.Objects()
	known := total > 0 && !b.of.Listing()
	return barOf(float64(done)/float64(max(total, 1)), known, b.text())
}

func (b *migrateBar) text() string {
	done, total := b.of.Objects()
	switch {
	case b.of.Listing() && b.list != nil:
		keys, _ := b.list.Keys()
		return "reading etcd: " + report.Plural(keys, "key", "keys") + " so far"
	case b.of.Listing():
		return "listing what is encrypted"
	case done == total:
		return "asking API servers what they write under"
	}
	written, failed := b.of.Counts()
	round, began := b.of.Round()
	took := time.Since(began)
	text := fmt.Sprintf("round %d: %s of %s, %s/s, %s written, %s failed", round, report.Count(done), report.Count(total),
		report.Count(perSecond(done, took)), report.Count(written), report.Count(failed))
	if done > 0 && done < total {
		left := time.Duration(float64(took) * float64(total-done) / float64(done)).Round(time.Second)
		text += fmt.Sprintf(", %s left", left)
	}
	return text
}
