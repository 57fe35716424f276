package audit

import (
	"cmp"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// What a [Report] says it is. deploy/kubectl-kms-audit.schema.json describes it; fields
// are added and never changed within a version.
const (
	APIVersion = "kms.aws-encryption-provider.sigs.k8s.io/v1"
	Kind       = "Audit"
)

// A Report is what [Run] found. Every text in it is safe to print: what is not plain
// ASCII is quoted as in Go's source.
type Report struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Places     []PlaceReport `json:"places"`
	Objects    []Object      `json:"objects,omitempty"` // sorted by path
	// NotRead are, each in a few words, what may hold objects and was not read.
	NotRead []string `json:"notRead"`
	// APIServers are what those of a living etcd say; nil: they were not asked.
	APIServers *APIServers `json:"apiServers,omitempty"`
	Verdict    *Verdict    `json:"verdict,omitempty"` // nil: nothing was asked
}

// A PlaceReport is what one place holds.
type PlaceReport struct {
	Place      string     `json:"place"`
	Live       bool       `json:"live"` // an etcd, not a file
	Revision   int64      `json:"revision"`
	Prefixes   []string   `json:"prefixes"`
	Keys       int64      `json:"keys"`
	NotObjects int64      `json:"notObjects"` // such as allocations of addresses; no provider touches them
	OlderRead  bool       `json:"olderRead"`  // whether revisions that were replaced were read too
	Rows       []Row      `json:"rows"`
	Unreadable Unreadable `json:"unreadable"`
	Unread     []string   `json:"unreadPrefixes"` // that the place has besides
	Caveats    []string   `json:"caveats"`
}

// Under is what protects objects.
type Under struct {
	Resource string `json:"resource"` // as an EncryptionConfiguration names it
	Format   string `json:"format"`   // of package stored
	Provider string `json:"provider,omitempty"`

	// Of KMS v2 alone: v1's values name no key.
	KeyID     string `json:"keyID,omitempty"`
	KeyIDHash string `json:"keyIDHash,omitempty"`

	// Wrapped is the format of the wrapped DEK or seed: "direct"; 0x and a byte that is
	// reserved; "bare" (v1) and "other" for those of no byte that this project writes.
	Wrapped string `json:"wrapped,omitempty"`
	Cipher  string `json:"cipher,omitempty"` // of package stored
	Stale   Stale  `json:"stale,omitempty"`

	short string // what the table calls the resource
}

// A Row counts the objects of a resource that one and the same protects.
type Row struct {
	Under

	Objects int64 `json:"objects"`
	Seeds   int   `json:"seeds"` // distinct wrapped DEKs or seeds of the objects: that many calls of a plugin open them
	Older   int64 `json:"older"` // revisions that were replaced
}

// An Object is one of them. Its path is the key of etcd.
type Object struct {
	Path        string `json:"path"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name"`
	ModRevision int64  `json:"modRevision"`
	Under

	Seed string `json:"seed,omitempty"` // equal where one wrapped DEK or seed protects both; a hash
}

// Unreadable values are those that are of no format, or no object's.
type Unreadable struct {
	Count  int64            `json:"count"` // older revisions included
	Values []UnreadableItem `json:"values"`
}

// An UnreadableItem says where one is, and nothing of what it holds.
type UnreadableItem struct {
	Path   string `json:"path"`
	Older  bool   `json:"older,omitempty"`
	Reason string `json:"reason"`
}

func (u *Unreadable) add(kv store.KeyValue, reason string) {
	if u.Count++; u.Count <= maxPaths {
		u.Values = append(u.Values, UnreadableItem{report.Clip(string(kv.Key), maxPath), kv.Older, reason})
	}
}

func (at row) report(o Options) Under {
	u := Under{
		Resource: report.Plain(at.resource.String()), Format: string(at.format), Provider: quoted(at.provider),
		KeyID: quoted(at.keyID), Wrapped: at.wrapped, Cipher: string(at.cipher), Stale: at.staleness(o),
		short: report.Plain(at.resource.short()),
	}
	if at.keyID != "" {
		u.KeyIDHash = hashOf(at.keyID)
	}
	return u
}

// report gives the place's counts their form, in an order of its own.
func (r *reading) report(read store.Reading, live bool) PlaceReport {
	p := PlaceReport{
		Place: report.Plain(read.Place), Live: live, Revision: read.Revision, Keys: read.Keys, OlderRead: read.OlderRead,
		Prefixes: plain(r.o.prefixes()), NotObjects: r.notObjects, Unreadable: r.unreadable,
		Rows: []Row{}, Unread: []string{}, Caveats: plain(read.Caveats),
	}
	for _, prefix := range read.Unread {
		if strings.Trim(prefix, "/") != "compact_rev_key" { // how API servers agree who compacts
			p.Unread = append(p.Unread, report.Plain(prefix))
		}
	}
	for at, t := range r.rows {
		p.Rows = append(p.Rows, Row{Under: at.report(r.o), Objects: t.objects, Seeds: len(t.seeds), Older: t.older})
	}
	slices.SortFunc(p.Rows, compareRows)
	if p.Unreadable.Values == nil {
		p.Unreadable.Values = []UnreadableItem{}
	}
	return p
}

// compareRows sorts by resource, and of each what is newest in kube-apiserver first.
func compareRows(a, b Row) int {
	rank := func(r Row) int {
		return slices.Index([]stored.Format{
			stored.KMSv2, stored.KMSv1, stored.Secretbox, stored.AESGCM, stored.AESCBC, stored.Plaintext,
		}, stored.Format(r.Format))
	}
	return cmp.Or(
		cmp.Compare(a.Resource, b.Resource), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Provider, b.Provider),
		cmp.Compare(a.KeyID, b.KeyID), cmp.Compare(a.Wrapped, b.Wrapped), cmp.Compare(a.Cipher, b.Cipher),
	)
}
