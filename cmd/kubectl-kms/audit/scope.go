package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

// ErrScope is a question without resources: about everything that etcd holds, the
// answer would be about what is never encrypted.
var ErrScope = errors.New("a question is about resources: name them with --resources, or give the file that encrypts them with --encryption-config")

// A scope is the resources that a question is about.
type scope struct {
	names  []string // as an EncryptionConfiguration names them, wildcards included
	config *encryptionconfig.Configuration
	from   string // where the names come from
}

func newScope(o Options) (*scope, error) {
	s := &scope{names: o.Resources, from: "--resources"}
	if len(o.Resources) == 0 && o.Config != nil {
		s.config, s.from = o.Config, o.ConfigName
		for _, r := range o.Config.Resources {
			if !r.Encrypts() {
				continue
			}
			for _, name := range r.Resources {
				if !slices.Contains(s.names, name) {
					s.names = append(s.names, name)
				}
			}
		}
		if o.Question != nil && len(s.names) == 0 {
			return nil, fmt.Errorf("%s encrypts nothing: %w", o.ConfigName, ErrScope)
		}
	}
	if o.Question != nil && len(s.names) == 0 {
		return nil, ErrScope
	}
	return s, nil
}

// has reports whether the question is about a resource. It is not known for one whose
// group nothing tells, where a group is named as a whole.
func (s *scope) has(r resource) certainty {
	if r.unplaced {
		return s.hasUnplaced(r)
	}
	if s.config == nil {
		return certain(slices.ContainsFunc(s.names, func(text string) bool { return encryptionconfig.Covers(text, r.name, r.group) }))
	}
	entry, ok := s.config.For(r.name, r.group)
	return certain(ok && entry.Encrypts())
}

// standFor are the names without wildcards that stand for a resource.
func (s *scope) standFor(r resource) []string {
	out := []string{r.String()}
	for _, text := range s.names {
		if name, _, _ := strings.Cut(text, "."); r.unplaced && name == r.name {
			out = append(out, text)
		}
	}
	return out
}

func (s *scope) hasUnplaced(r resource) certainty {
	wildcard := false
	for _, text := range s.names {
		name, _, _ := strings.Cut(text, ".")
		switch {
		case name == r.name, text == "*.*":
			return yes
		case name == "*":
			wildcard = true
		}
	}
	if wildcard {
		return notKnown
	}
	return no
}

// named are the resources of the question without wildcards. Events are always among
// them where they are covered: many clusters keep them in an etcd of their own, and where
// that was not read nobody should think so.
func (s *scope) named() []string {
	var out []string
	for _, name := range s.names {
		if !strings.HasPrefix(name, "*") {
			out = append(out, name)
		}
	}
	if !slices.Contains(out, "events") && s.has(resource{name: "events"}) == yes {
		out = append(out, "events")
	}
	return out
}

// inTheWay reports whether an object of a row keeps the answer from being yes. Without
// a question all are listed.
func (s *scope) inTheWay(q *Question, at row) bool {
	return q == nil || s.has(at.resource) != no && q.against(at.under) != no
}

// against reports whether what is stored so speaks against the expectation.
func (q *Question) against(u under) certainty {
	c := q.Key.protects(u)
	if !q.Only || c == notKnown {
		return c
	}
	return certain(c == no)
}
