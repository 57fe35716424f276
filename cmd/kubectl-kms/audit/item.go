package audit

import (
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// An Item is one object as etcd has it, for programs that do something about it. Its
// texts come out of etcd as they are: whoever prints one makes it harmless first.
type Item struct {
	Path        string // the key of etcd, whole
	Resource    string
	Group       string // also of built-in resources, whose path has none
	Placed      bool   // false: the path does not tell the group, and Group is empty
	Namespace   string
	Name        string
	ModRevision int64
	Stale       Stale

	// The object in the clear has between Least and Most bytes.
	Least, Most int

	Under string // format, provider and a short form of the key_id, safe to print
}

// Item returns what is stored under a key. ok is false where that is not an object, or
// nothing that can be read.
func (o Options) Item(kv store.KeyValue) (item Item, ok bool) {
	if len(o.Prefixes) == 0 {
		o.Prefixes = []string{DefaultPrefix}
	}
	r := &reading{o: o, names: o.names(), under: o.longestFirst()}
	object, record, reason := r.parse(kv)
	if reason != "" || object == (stored.Object{}) {
		return Item{}, false
	}
	at := row{resourceAt(object), underOf(record)}
	return Value{Path: kv.Key, Object: object, Record: record, Stale: at.staleness(o), at: at, modRevision: kv.ModRevision}.Item(), true
}

// Item returns what the value is of, with texts of its own.
func (v Value) Item() Item {
	least, most := v.Record.PlainSize()
	under := v.at.words()
	if v.at.keyID != "" {
		const longest = 256
		under += " " + dotted(0, report.Clip(v.at.keyID, longest))
	}
	return Item{
		Path: string(v.Path), Resource: v.at.resource.name, Group: v.at.resource.group, Placed: !v.at.resource.unplaced,
		Namespace: v.Object.Namespace, Name: v.Object.Name, ModRevision: v.modRevision, Stale: v.Stale,
		Least: least, Most: most, Under: under,
	}
}

// EtcdPrefixes are those of the keys, as etcd has them.
func (o Options) EtcdPrefixes() []string {
	if len(o.Prefixes) == 0 {
		o.Prefixes = []string{DefaultPrefix}
	}
	return o.prefixes()
}
