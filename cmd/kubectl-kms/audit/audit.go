// Package audit counts what API servers have stored, by what protects it, and answers
// whether all of it is under one key, or none of it under another.
//
// [Run] reads every place to its end and keeps counts, no values. An answer is yes
// only where everything that the question is about was read and understood: an
// object in doubt makes it "not known", and one that speaks against it makes it no.
//
// Nothing of a value gets into a [Report] but what names its key: the provider's name,
// the key_id, and the kinds of wrapping and cipher.
package audit

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// DefaultPrefix is kube-apiserver's --etcd-prefix where it is not given.
const DefaultPrefix = "/registry"

// A Place is where stored objects are read.
type Place struct {
	Reader store.Reader
	Live   bool // an etcd that API servers write to, and no file
}

// Options are what to read and what to ask. The zero value reads [DefaultPrefix] and
// asks nothing.
type Options struct {
	// Prefixes are those of API servers (--etcd-prefix). None: [DefaultPrefix].
	Prefixes []string
	// StripPrefix is what a proxy that shares an etcd among clusters puts before every key.
	StripPrefix string

	// Config says which provider writes a resource, ConfigName is its file, and ConfigHash
	// what API servers call the file in metrics. Nil: not known.
	Config     *encryptionconfig.Configuration
	ConfigName string
	ConfigHash string

	// Resources are those that the question is about, as an EncryptionConfiguration names
	// them. None: those that Config encrypts.
	Resources []string
	// Question is nil where none is asked.
	Question *Question

	// Elsewhere are resources that API servers keep in another etcd
	// (--etcd-servers-overrides), as an EncryptionConfiguration names them.
	Elsewhere []string

	// AskAPIServers asks the API servers of a living etcd; nil: nobody asks them. It is
	// called only where a question needs it.
	AskAPIServers Asker
	apiServers    *APIServers // what they said

	// Objects makes the report list objects: with a question those that keep it from
	// being answered with yes, else all.
	Objects bool

	// Keys say which key API servers write under: the name of a KMS v2 provider → the
	// "sha256:" of its key_id. A provider that is not among them is not known.
	Keys map[string]string

	// Aggregated, where it is not nil, asks which groups other servers than kube-apiserver
	// answer for. It is asked where etcd does not tell, since what lists them is encrypted.
	Aggregated func(context.Context) ([]string, error)

	// Progress, where it is not nil, is told of each key that was read.
	Progress *Progress

	// See, where it is not nil, is called with the index of each place before that is
	// read, a second time where it is read again. What it returns is called with each
	// value that was understood; its error ends Run.
	See func(place int) func(Value) error

	// KeyOf names the key that a KMS value needs, and is "" where nobody knows. Without it
	// v2's key_ids are believed, and of v1 no key is known: its bytes name none.
	KeyOf func(stored.Record) keyref.ARN
}

// A Value is what [Options.See] is told of. Its slices and the strings of Object are
// the reader's, as those of [store.KeyValue].
type Value struct {
	Path     []byte // the key of etcd
	Object   stored.Object
	Resource string // as an EncryptionConfiguration names it
	Record   stored.Record
	Older    bool // another value has replaced it
	Asked    bool // its resource is one of Resources, or there are none
	Stale    Stale

	at          row
	modRevision int64
}

// Progress is how far a [Run] is. It may be read while Run runs.
type Progress struct {
	keys, bytes, place atomic.Int64
	done, total        atomic.Int64
}

// Part tells how much of the present place was read, in a unit of its reader's own.
// total is 0 where the reader does not know.
func (p *Progress) Part(done, total int64) {
	p.done.Store(done)
	p.total.Store(total)
}

// Done returns what Part was told last.
func (p *Progress) Done() (done, total int64) { return p.done.Load(), p.total.Load() }

// Keys returns how many keys were read, older revisions included, and how many bytes
// they had, values included.
func (p *Progress) Keys() (keys, bytes int64) { return p.keys.Load(), p.bytes.Load() }

// Restart counts from nothing, for another reading of the same places.
func (p *Progress) Restart() {
	for _, n := range []*atomic.Int64{&p.keys, &p.bytes, &p.place, &p.done, &p.total} {
		n.Store(0)
	}
}

// Place returns which place is being read, from 0.
func (p *Progress) Place() int { return int(p.place.Load()) }

// Bounds of what a report keeps, whatever etcd holds.
const (
	maxRows     = 20_000
	maxPaths    = 1_000
	maxName     = 1_024 // bytes of a provider's name
	maxPath     = 2_048 // bytes of a path, of which the rest is not shown
	maxResource = 512   // bytes of a resource and its group: twice what Kubernetes allows
)

// errRows is what keeps memory bounded where somebody fills etcd with names.
var errRows = errors.New("more than 20,000 different combinations of resource, provider and key are stored: no cluster needs so many, look at what is stored with --prefix for a part of it")

// Run reads all places, in turn, and answers the question. An error means that a place
// could not be read to its end: there is no report then.
func Run(ctx context.Context, places []Place, o Options) (*Report, error) {
	if len(o.Prefixes) == 0 {
		o.Prefixes = []string{DefaultPrefix}
	}
	r := &Report{APIVersion: APIVersion, Kind: Kind, Places: []PlaceReport{}, NotRead: []string{}}
	scope, err := newScope(o)
	if err != nil {
		return nil, err
	}
	groups := map[string]bool{}
	var readings []*reading
	for i, place := range places {
		if o.Progress != nil {
			o.Progress.place.Store(int64(i))
			o.Progress.Part(0, 0)
		}
		var one *reading
		read, err := store.ReadTwice(ctx, place.Reader, o.prefixes(), func() func(store.KeyValue) error {
			one = &reading{o: o, scope: scope, rows: map[row]*tally{}, leases: map[string]int64{}, names: o.names(), under: o.longestFirst(), aggregated: groups}
			if o.See != nil {
				one.see = o.See(i)
			}
			return one.add
		})
		if err != nil {
			return nil, err
		}
		p := one.report(read, place.Live)
		if p.Keys == 0 {
			return nil, noKeys(p)
		}
		readings = append(readings, one)
		r.Places = append(r.Places, p)
		r.Objects = append(r.Objects, one.objects...)
	}
	if groups[""] && o.Aggregated != nil {
		o.askAggregated(ctx, groups)
	}
	slices.SortStableFunc(r.Objects, func(a, b Object) int { return strings.Compare(a.Path, b.Path) })
	r.NotRead = notRead(r.Places, readings, o, groups)
	if o.Question != nil && o.AskAPIServers != nil && slices.ContainsFunc(places, func(p Place) bool { return p.Live }) {
		said := o.AskAPIServers(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		r.APIServers, o.apiServers = &said, &said
	}
	if o.Question != nil {
		r.Verdict = answer(r, readings, o, scope)
	}
	return r, nil
}

func noKeys(p PlaceReport) error {
	what := "there is nothing under " + strings.Join(p.Prefixes, ", ")
	if len(p.Unread) == 0 {
		return fmt.Errorf("%s: %s, and no key of another prefix either: is this the etcd of the API servers, or a file of it?", p.Place, what)
	}
	return fmt.Errorf("%s: %s: API servers write under their --etcd-prefix, and there are keys under %s: give that with --prefix",
		p.Place, what, strings.Join(p.Unread, ", "))
}

func plain(texts []string) []string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = report.Plain(text)
	}
	return out
}

// A reading is what one place has told so far.
type reading struct {
	o          Options
	scope      *scope
	see        func(Value) error // nil: nobody wants to see them
	rows       map[row]*tally
	names      []string        // of providers that are known
	under      []string        // prefixes, the longest first: one may be below another
	aggregated map[string]bool // groups of aggregated API servers
	objects    []Object

	notObjects int64
	unreadable Unreadable
	leases     map[string]int64 // revisions of those of API servers, by name
}

// A row is what a line of the table stands for.
type row struct {
	resource resource
	under
}

// under is all that a value tells of what protects it.
type under struct {
	format   stored.Format
	provider string
	keyID    string
	wrapped  string
	cipher   stored.Cipher
	key      keyref.ARN // that KeyOf named
	asked    bool       // KeyOf was asked
}

type tally struct {
	objects, older int64
	stale          Stale
	seeds          map[seed]struct{} // of objects
}

// A seed is the first half of a [stored.SourceID]: enough to tell millions apart.
type seed [16]byte

// prefixes are those of the keys, as etcd has them.
func (o Options) prefixes() []string {
	var prefixes []string
	for _, p := range o.Prefixes {
		prefixes = append(prefixes, o.StripPrefix+clean(p))
	}
	return prefixes
}

// names are those of providers that are known: of a name with colons, only this tells
// where it ends.
func (o Options) names() []string {
	var names []string
	if o.Config != nil {
		names = o.Config.Names()
	}
	if o.Question != nil && o.Question.Key.kind == byProvider {
		names = append(names, o.Question.Key.provider())
	}
	return names
}

// clean writes a prefix as the keys of etcd begin.
func clean(prefix string) string { return "/" + strings.Trim(prefix, "/") }

func (o Options) longestFirst() []string {
	return slices.SortedStableFunc(slices.Values(o.Prefixes), func(a, b string) int { return cmp.Compare(len(clean(b)), len(clean(a))) })
}

// objectAt returns what a key names, below whichever prefix it has.
func (r *reading) objectAt(key string) (stored.Object, bool) {
	key = strings.TrimPrefix(key, r.o.StripPrefix)
	for _, p := range r.under {
		if o, ok := stored.ObjectAt(p, key); ok {
			return o, true
		}
	}
	return stored.Object{}, false
}

func (r *reading) add(kv store.KeyValue) error {
	if p := r.o.Progress; p != nil {
		p.keys.Add(1)
		p.bytes.Add(int64(len(kv.Key) + len(kv.Value)))
	}
	object, record, wrong := r.parse(kv)
	if wrong != "" {
		r.unreadable.add(kv, wrong)
		return nil
	}
	if object == (stored.Object{}) {
		if !kv.Older {
			r.notObjects++
		}
		return nil
	}
	at := row{resourceAt(object), underOf(record)}
	if r.o.KeyOf != nil && record.Wrapped != nil {
		at.key, at.asked = r.o.KeyOf(record), true
	}
	if !kv.Older && object.Resource == "leases" && object.Namespace == "kube-system" && strings.HasPrefix(object.Name, "apiserver-") && len(r.leases) < maxPaths {
		r.leases[object.Name] = kv.ModRevision
	}
	if !kv.Older {
		r.aggregatedBy(at, object, kv.Value)
	}
	t, err := r.tallyOf(at)
	if err != nil {
		return err
	}
	r.count(t, at, object, record, kv)
	if r.see == nil {
		return nil
	}
	return r.see(Value{
		Path: kv.Key, Object: object, Resource: at.resource.String(), Record: record, Older: kv.Older,
		Asked: len(r.o.Resources) == 0 || r.scope.has(at.resource) != no, Stale: t.stale,
		at: at, modRevision: kv.ModRevision,
	})
}

// parse takes a key and its value apart. wrong says why they cannot be understood; an
// object without a name stands for a key that is not of an object.
func (r *reading) parse(kv store.KeyValue) (object stored.Object, record stored.Record, wrong string) {
	object, ok := r.objectAt(string(kv.Key))
	record, err := stored.Parse(kv.Value, r.names)
	switch {
	case err != nil:
		return object, record, reason(err)
	case !ok && record.Format == stored.Plaintext:
		return stored.Object{}, record, ""
	case !ok || len(object.Resource)+len(object.Group) > maxResource:
		return object, record, "the path is of no shape that kube-apiserver writes"
	case len(record.Provider) > maxName && !slices.Contains(r.names, record.Provider):
		return object, record, fmt.Sprintf("the provider's name has %d bytes", len(record.Provider))
	}
	return object, record, ""
}

func (r *reading) tallyOf(at row) (*tally, error) {
	if t := r.rows[at]; t != nil {
		return t, nil
	}
	if len(r.rows) == maxRows {
		return nil, errRows
	}
	t := &tally{stale: at.staleness(r.o)}
	at.resource.name = strings.Clone(at.resource.name) // not the whole path
	at.resource.group = strings.Clone(at.resource.group)
	r.rows[at] = t
	return t, nil
}

func (r *reading) count(t *tally, at row, object stored.Object, record stored.Record, kv store.KeyValue) {
	if kv.Older {
		t.older++
		return
	}
	t.objects++
	id := record.SourceID()
	if record.Wrapped != nil {
		if t.seeds == nil {
			t.seeds = map[seed]struct{}{}
		}
		t.seeds[seed(id[:16])] = struct{}{}
	}
	if r.o.Objects && r.scope.inTheWay(r.o.Question, at) {
		line := Object{Path: report.Clip(string(kv.Key), maxPath), Namespace: quoted(object.Namespace), Name: report.Clip(object.Name, maxPath), ModRevision: kv.ModRevision, Under: at.report(r.o)}
		if record.Wrapped != nil {
			line.Seed = hex.EncodeToString(id[:16])
		}
		r.objects = append(r.objects, line)
	}
}

func quoted(text string) string {
	if text == "" {
		return ""
	}
	return report.Plain(text)
}

// reason is what is wrong with a value, without any byte of it.
func reason(err error) string {
	wrong, ok := errors.AsType[*stored.ParseError](err)
	if !ok || wrong.Format == "" {
		return "the prefix is of no provider that is known"
	}
	return wrong.Error()
}

func underOf(r stored.Record) under {
	return under{format: r.Format, provider: r.Provider, keyID: r.KeyID, wrapped: wrapping(r), cipher: r.Cipher()}
}

// wrapping names the format in which a plugin wrapped the DEK or its seed, as far as
// the first byte tells: package seal of the daemon has these formats.
func wrapping(r stored.Record) string {
	switch {
	case len(r.Wrapped) == 0:
		return ""
	case r.Wrapped[0] == '1':
		return "direct"
	case r.Wrapped[0] >= 0x30 && r.Wrapped[0] <= 0x3F:
		return fmt.Sprintf("0x%x", r.Wrapped[0])
	case r.Format == stored.KMSv1:
		return "bare" // this project's predecessor, or another plugin
	}
	return "other"
}
