package patch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A List is a [rewrite.Lister] for where no etcd can be reached: it names every object of
// the resources in question, since only the API server knows which of them are stale. It
// proves nothing.
type List struct {
	Client *Client
	Config *encryptionconfig.Configuration
	// Resources bound what is listed. None: all that Config encrypts.
	Resources []string
}

// eventsGroup has events too. They are those of the core group, under which they are stored
// and encrypted.
const eventsGroup = "events.k8s.io"

// Proves implements [rewrite.Lister].
func (l *List) Proves() bool { return false }

// List implements [rewrite.Lister].
func (l *List) List(ctx context.Context, _ map[string]string) (*rewrite.Work, error) {
	resources, err := l.resources(ctx)
	if err != nil {
		return nil, err
	}
	work := &rewrite.Work{Basis: "the lists of " + report.Plain(l.Client.base.Host) + ", and no etcd"}
	for _, r := range resources {
		if err := l.Client.Learn(ctx, []rewrite.Resource{r}); err != nil {
			return nil, err
		}
		if l.Client.Serves(r) == "" {
			if err := l.Client.list(ctx, r, work); err != nil {
				return nil, fmt.Errorf("listing %s: %w", report.Plain(r.String()), err)
			}
		}
	}
	return work, nil
}

// resources are those in question that the API server serves. Wildcards stand for all
// that it does.
func (l *List) resources(ctx context.Context) ([]rewrite.Resource, error) {
	var out []rewrite.Resource
	groups := map[string]map[string]serving{}
	for _, entry := range l.Config.Resources {
		for _, text := range entry.Resources {
			name, group, grouped := strings.Cut(text, ".")
			switch {
			case name != "*":
				out = append(out, rewrite.Resource{Name: name, Group: group})
				continue
			case grouped && group == "*":
				all, err := l.Client.groups(ctx)
				if err != nil {
					return nil, err
				}
				for _, one := range all {
					groups[one] = nil
				}
			default:
				groups[group] = nil
			}
		}
	}
	for group := range groups {
		found, _, err := l.Client.group(ctx, group)
		if err != nil {
			return nil, err
		}
		for name := range found {
			out = append(out, rewrite.Resource{Name: name, Group: group})
		}
	}
	out = slices.DeleteFunc(out, func(r rewrite.Resource) bool {
		entry, ok := l.Config.For(r.Name, r.Group)
		asked := len(l.Resources) == 0 || slices.ContainsFunc(l.Resources, func(text string) bool { return encryptionconfig.Covers(text, r.Name, r.Group) })
		return !ok || !entry.Encrypts() || !asked || r.Group == eventsGroup
	})
	slices.SortFunc(out, func(a, b rewrite.Resource) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out), nil
}

// groups are all that the API server serves, the core one included.
func (c *Client) groups(ctx context.Context) ([]string, error) {
	var list struct{ Groups []struct{ Name string } }
	if err := c.get(ctx, "/apis", plainJSON, &list); err != nil {
		return nil, fmt.Errorf("asking which groups are served: %w", err)
	}
	out := []string{""}
	for _, g := range list.Groups {
		out = append(out, g.Name)
	}
	return out, nil
}

// list adds the objects of a resource.
func (c *Client) list(ctx context.Context, r rewrite.Resource, work *rewrite.Work) error {
	s, _ := c.serving(r)
	for next := ""; ; {
		var page struct {
			Metadata struct{ Continue string }
			Items    []struct {
				Metadata struct{ Name, Namespace, ResourceVersion string }
			}
		}
		path := s.path + "/" + url.PathEscape(r.Name) + "?limit=500&continue=" + url.QueryEscape(next)
		if err := c.get(ctx, path, metadataList, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			revision, err := strconv.ParseInt(item.Metadata.ResourceVersion, 10, 64)
			if err != nil {
				continue // of an aggregated API server that has none
			}
			work.Stale = append(work.Stale, rewrite.Object{
				Resource: r, Namespace: item.Metadata.Namespace, Object: item.Metadata.Name, Revision: revision, Doubt: true, Under: "not known",
			})
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}

// Look implements [rewrite.Lister].
func (l *List) Look(ctx context.Context, o rewrite.Object, _ int64, _ map[string]string) (rewrite.Sight, error) {
	s, _ := l.Client.serving(o.Resource)
	revision, err := l.Client.metadata(ctx, http.MethodGet, s.at(o), nil)
	if refusal, ok := errors.AsType[*rewrite.RefusalError](err); ok && refusal.Code == http.StatusNotFound {
		return rewrite.Sight{}, nil
	}
	if err != nil {
		return rewrite.Sight{}, err
	}
	o.Revision = revision
	return rewrite.Sight{Object: o, Found: true, Stale: true}, nil
}
