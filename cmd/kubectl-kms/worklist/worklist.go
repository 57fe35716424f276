// Package worklist finds in a living etcd what is to be rewritten: it is package audit
// for package rewrite.
package worklist

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A Getter reads single keys of the etcd that is listed. It is safe for many goroutines.
type Getter interface {
	// Get returns a key as it is, or as it was at a revision where that is not 0. Where
	// etcd has compacted that, the error wraps [store.ErrCompacted].
	Get(ctx context.Context, key string, revision int64) (kv store.KeyValue, found bool, err error)
}

// A List implements [rewrite.Lister].
type List struct {
	Reader store.Reader
	Getter Getter

	// Options have a Config: without one nothing is known to be stale.
	Options audit.Options
	// Resources bound what is listed, as an EncryptionConfiguration names them. None: all
	// that the API servers would write otherwise than it is stored.
	Resources []string
}

// Proves implements [rewrite.Lister]: it reads etcd.
func (l *List) Proves() bool { return true }

// List implements [rewrite.Lister].
func (l *List) List(ctx context.Context, keys map[string]string) (*rewrite.Work, error) {
	o := l.Options
	o.Keys = keys
	var work *rewrite.Work
	o.See = func(int) func(audit.Value) error {
		work = &rewrite.Work{} // what an earlier reading was given counts for nothing
		return func(v audit.Value) error {
			if !v.Older && v.Stale != audit.StaleNo {
				l.enter(work, v.Item())
			}
			return nil
		}
	}
	r, err := audit.Run(ctx, []audit.Place{{Reader: l.Reader, Live: true}}, o)
	if err != nil {
		return nil, err
	}
	p := r.Places[0]
	work.Basis = fmt.Sprintf("%s at revision %d, under %s", p.Place, p.Revision, strings.Join(p.Prefixes, ", "))
	if len(l.Resources) > 0 {
		work.Basis += ", only " + strings.Join(l.Resources, ", ")
	}
	work.NotRead = r.Incomplete()
	return work, nil
}

// enter puts an object where it belongs.
func (l *List) enter(work *rewrite.Work, item audit.Item) {
	if !l.asked(item) {
		return
	}
	outcome, cause, next := unreachable(item)
	if outcome == "" {
		work.Stale = append(work.Stale, objectOf(item))
		return
	}
	work.Lost = append(work.Lost, rewrite.Left{
		Path: report.Clip(item.Path, maxPath), Resource: report.Clip(item.Resource, maxPath), Outcome: outcome, Cause: cause, Next: next,
	})
}

const maxPath = 2_048

// asked reports whether an object is of a resource that is listed.
func (l *List) asked(item audit.Item) bool {
	return len(l.Resources) == 0 || slices.ContainsFunc(l.Resources, func(text string) bool {
		name, _, _ := strings.Cut(text, ".")
		return encryptionconfig.Covers(text, item.Resource, item.Group) || !item.Placed && name == item.Resource
	})
}

// unreachable says why no request can have an object rewritten; the outcome is empty
// where one can.
func unreachable(item audit.Item) (outcome rewrite.Outcome, cause, next string) {
	switch {
	case item.Stale == audit.StaleUnreadable:
		return rewrite.OutcomeUnreadable, "no provider of the encryption configuration reads " + item.Under,
			"List the provider that wrote it below the first one, on every API server, then run this again"
	case !item.Placed:
		return rewrite.OutcomeUnnamed, "its path does not tell the group of " + report.Clip(item.Resource, 256) + ", so nobody knows which provider writes it",
			"Look at it with kubectl get, and write it with kubectl replace"
	case !nameable(item.Name), item.Namespace != "" && !nameable(item.Namespace):
		return rewrite.OutcomeUnnamed, "an API server takes no request for this name", "Delete the key with etcdctl if nobody needs it: kube-apiserver never wrote it"
	}
	return "", "", ""
}

// nameable reports whether a request can name it.
//
// k8s.io/apimachinery pkg/api/validation/path.
func nameable(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/%")
}

func objectOf(item audit.Item) rewrite.Object {
	return rewrite.Object{
		Path: item.Path, Resource: rewrite.Resource{Name: item.Resource, Group: item.Group}, Namespace: item.Namespace, Object: item.Name,
		Revision: item.ModRevision, Size: rewrite.Size{Least: item.Least, Most: item.Most}, Under: item.Under, Doubt: item.Stale == audit.StaleUnknown,
	}
}

// Look implements [rewrite.Lister].
func (l *List) Look(ctx context.Context, o rewrite.Object, revision int64, keys map[string]string) (rewrite.Sight, error) {
	kv, found, err := l.Getter.Get(ctx, o.Path, revision)
	if errors.Is(err, store.ErrCompacted) {
		return rewrite.Sight{}, fmt.Errorf("%w: %w", rewrite.ErrNotCompared, err)
	}
	if err != nil || !found {
		return rewrite.Sight{}, err
	}
	options := l.Options
	options.Keys = keys
	item, ok := options.Item(kv)
	if !ok {
		return rewrite.Sight{}, &store.Error{Place: report.Clip(o.Path, maxPath), Reason: "what etcd has there now cannot be read"}
	}
	return rewrite.Sight{Object: objectOf(item), Found: true, Stale: item.Stale != audit.StaleNo}, nil
}
