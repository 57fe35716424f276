package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// APIServers are what those that write to a living etcd said of themselves.
type APIServers struct {
	// Converged is true where every one of them was asked, before etcd was read and after,
	// and all write alike.
	Converged bool `json:"converged"`
	// Text is the verdict on that, in a sentence without a full stop.
	Text   string         `json:"text"`
	Writes []WrittenUnder `json:"writes,omitempty"`

	// Leases are those by which they live, and the resourceVersion of each, before etcd was
	// read and after. Each is renewed every ten seconds, and etcd has it as a revision: so
	// they are known to be etcd's.
	Leases map[string][2]int64 `json:"-"`
}

// WrittenUnder is what all API servers write a resource under.
type WrittenUnder struct {
	Resource  string `json:"resource"` // as an EncryptionConfiguration names it
	Format    string `json:"format"`
	Provider  string `json:"provider,omitempty"`
	KeyIDHash string `json:"keyIDHash,omitempty"`
}

// An Asker asks the API servers of a living etcd. It is called when all of it is read.
type Asker func(context.Context) APIServers

// apiServersSay adds what API servers say to the evidence.
func (e *evidence) apiServersSay(r *Report, readings []*reading, o Options, s *scope) {
	said := r.APIServers
	switch {
	case said == nil:
		e.doubt("%s", notAsked)
		return
	case !said.Converged:
		e.doubt("API servers: %s", said.Text)
		return
	}
	for i, p := range r.Places {
		if p.Live && !said.of(readings[i]) {
			e.doubt("API servers: the Leases of those that were asked are not in %s, or of other revisions: is it their etcd?", p.Place)
			return
		}
	}
	for _, name := range s.names {
		e.writer(name, o, readings)
	}
}

// of reports whether an etcd is that of the API servers.
func (a APIServers) of(r *reading) bool {
	found := false
	for name, revisions := range a.Leases {
		at, there := r.leases[name]
		if there && (at < revisions[0] || at > revisions[1]) {
			return false
		}
		found = found || there
	}
	return found
}

// writer weighs what API servers write a resource of the question under.
func (e *evidence) writer(name string, o Options, readings []*reading) {
	w, known := o.writer(name)
	shown := report.Plain(name)
	if !known {
		e.doubt("API servers: which provider writes %s is not known: give --encryption-config", shown)
		return
	}
	u := under{format: stored.Format(w.Format), provider: w.Provider}
	if u.format == stored.KMSv2 {
		q := o.Question
		if u.keyID, known = keyIDOf(w.KeyIDHash, readings); !known {
			switch {
			case q.Key.kind == byHash || q.Key.kind == byKeyID && hashOf(q.Key.text) == w.KeyIDHash:
				if q.Only != (w.KeyIDHash == q.Key.hash()) {
					e.written(shown, w)
				}
				return
			case q.Key.kind == byKeyID:
				e.doubt("API servers: they write %s under a key_id that no object was read with, %s: is it of %s?", shown, report.Plain(w.KeyIDHash), report.Plain(q.Key.String()))
				return
			}
		}
	}
	switch o.Question.against(u) {
	case yes:
		e.written(shown, w)
	case notKnown:
		e.doubt("API servers: they write %s under %s: %s", shown, u.words(), u.why(o.Question.Key))
	case no:
	}
}

// hash is the one that the key is asked about by, or that of its key_id.
func (k Key) hash() string {
	if k.kind == byHash {
		return k.text
	}
	return hashOf(k.text)
}

func (e *evidence) written(name string, w WrittenUnder) {
	text := w.Format
	if w.Provider != "" {
		text += " " + report.Clip(w.Provider, 64)
	}
	if w.KeyIDHash != "" {
		text += ", key_id " + report.Plain(w.KeyIDHash)
	}
	if text = fmt.Sprintf("API servers write %s under %s", name, text); !slices.Contains(e.writers, text) {
		e.writers = append(e.writers, text)
	}
}

// writer returns what API servers write a resource under. One that their configuration
// does not name is written in the clear.
func (o Options) writer(name string) (w WrittenUnder, known bool) {
	for _, w := range o.apiServers.Writes {
		if w.Resource == name {
			return w, true
		}
	}
	resource, group, _ := strings.Cut(name, ".")
	if o.Config == nil || resource == "*" {
		return w, false
	}
	entry, ok := o.Config.For(resource, group)
	if !ok || !entry.Encrypts() {
		return WrittenUnder{Resource: name, Format: string(stored.Plaintext)}, true
	}
	for _, w := range o.apiServers.Writes { // by a wildcard
		if slices.Contains(entry.Resources, w.Resource) && encryptionconfig.Covers(w.Resource, resource, group) {
			return w, true
		}
	}
	return w, false
}

// keyIDOf finds the key_id of a hash among those that were read.
func keyIDOf(hash string, readings []*reading) (string, bool) {
	for _, r := range readings {
		for at := range r.rows {
			if at.keyID != "" && hashOf(at.keyID) == hash {
				return at.keyID, true
			}
		}
	}
	return "", false
}
