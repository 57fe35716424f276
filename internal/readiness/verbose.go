package readiness

import (
	"fmt"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
)

// details are a provider's further lines on /readyz?verbose: its socket, its keys
// and what to list.
func (p Provider) details() []string {
	h := p.Health
	lines := []string{
		"  socket " + p.Socket,
		"  key " + h.Key + " writes: " + keyWords(h.State, h.Err) + deletionWords(h.Deletion),
	}
	var list []string
	for _, k := range h.ReadKeys {
		lines = append(lines, "  key "+k.Key+" reads: "+readWords(k)+deletionWords(k.Deletion))
		if k.Unlisted {
			list = append(list, "  list below the others: "+k.Key+", which an alias named before and stored data may need")
		}
	}
	for _, m := range h.Missing {
		name := "a key that nothing names"
		if m.Key != "" {
			name = cause.Quote(m.Key)
		}
		list = append(list, fmt.Sprintf("  list below the others: %s, which stored data needed at %s", name, stamp(m.Last)))
	}
	if t := h.Trouble; t != nil {
		lines = append(lines, fmt.Sprintf("  alias %s is not followed since %s: %v", h.Key, stamp(t.Since), t.Err))
	}
	return append(lines, list...)
}

func keyWords(state evidence.State, err *cause.Error) string {
	if err == nil {
		return string(state)
	}
	return string(state) + ", " + err.Error()
}

// readWords say how a key that only reads is doing. A dry run proves that the
// process may decrypt, and not that the key can be used: DescribeKey tells that
// where it is allowed.
func readWords(k kmskey.Health) string {
	switch {
	case k.State != evidence.Authorised || k.Err != nil:
		return keyWords(k.State, k.Err)
	case k.Described != "":
		return "authorised, and DescribeKey says " + cause.Quote(k.Described) + "; no data of it was read since the start"
	}
	return "authorised, its state not proven; no data of it was read since the start"
}

func deletionWords(d *kmskey.Deletion) string {
	switch {
	case d == nil:
		return ""
	case d.Date.IsZero():
		return "; KMS deletes it, at a date that only kms:DescribeKey tells"
	}
	return "; KMS deletes it at " + stamp(d.Date)
}

// lines say on /readyz?verbose what is served and what became of the file.
func (f *File) lines() []string {
	lines := []string{fmt.Sprintf("configuration %s: hash %s, loaded at %s", f.Path, f.Hash, stamp(f.Loaded))}
	if f.Err == nil {
		return lines
	}
	next := "it is read again when it changes"
	if f.Retried {
		next = "it is tried again"
	}
	return append(lines, fmt.Sprintf("configuration not reloaded since %s, the running one goes on, %s: %v", stamp(f.Since), next, f.Err))
}
