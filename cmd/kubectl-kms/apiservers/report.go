package apiservers

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// What a [Report] says it is. deploy/kubectl-kms-status.schema.json describes it; fields
// are added and never changed within a version.
const (
	APIVersion = "kms.aws-encryption-provider.sigs.k8s.io/v1"
	Kind       = "Status"
)

// An Outcome is what a Report comes to.
type Outcome string

// Outcomes.
const (
	Converged    Outcome = "converged"
	NotConverged Outcome = "not converged"
	NotKnown     Outcome = "not known"
)

// A Report is what API servers write, and whether they do it alike. Every text in it is
// safe to print.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// From is the kubeconfig, and AddressesFrom who gave the addresses.
	From          string `json:"from"`
	AddressesFrom string `json:"addressesFrom"`

	APIServers []APIServer `json:"apiServers"`
	// NotCovered are Leases of which no address answered.
	NotCovered []NotCovered `json:"notCovered"`
	// ControlPlaneNodes counts nodes that are labelled so; -1 where that is not known.
	ControlPlaneNodes int `json:"controlPlaneNodes"`
	// Expected is the key under which all have to write; empty: that was not asked.
	Expected string `json:"expected,omitempty"`
	// Configuration is the file by which the writers are known; nil: none.
	Configuration *File `json:"encryptionConfig,omitempty"`
	// NotProbed are resources that a probe could not write, and why.
	NotProbed []NotProbed `json:"notProbed,omitempty"`

	Verdict Verdict `json:"verdict"`
}

// A File is an EncryptionConfiguration.
type File struct {
	Name string `json:"name"`
	Hash string `json:"hash"` // sha256: as metrics of API servers have it
}

// HashOf returns the hash by which API servers call a file, or a key_id.
func HashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// An APIServer is one process, at one address or several.
type APIServer struct {
	Name      string   `json:"name"` // its host, or its address
	Lease     string   `json:"lease,omitempty"`
	Addresses []string `json:"addresses"`
	Version   string   `json:"version,omitempty"`
	// ConfigHash is sha256: of the EncryptionConfiguration in force.
	ConfigHash string `json:"encryptionConfigHash,omitempty"`
	Keys       []Key  `json:"keys"` // that its KMS v2 plugins named last
	// Writes are what it writes resources under: by the configuration and its metrics, or
	// by a probe.
	Writes []Write `json:"writes,omitempty"`
	Error  string  `json:"error,omitempty"` // why it did not answer
}

// A Key is what a plugin named last.
type Key struct {
	Provider  string `json:"provider"`
	KeyIDHash string `json:"keyIDHash"`
	KeyID     string `json:"keyID,omitempty"` // where it is known
	Seconds   int64  `json:"secondsAgo"`      // since the API server was told
}

// A Write is what an API server writes a resource under.
type Write struct {
	Resource  string `json:"resource"` // as the EncryptionConfiguration names it
	Format    string `json:"format"`   // of package stored
	Provider  string `json:"provider,omitempty"`
	KeyIDHash string `json:"keyIDHash,omitempty"`
	KeyID     string `json:"keyID,omitempty"`
	Probed    bool   `json:"probed"` // read in etcd, and not by metrics
}

// A NotCovered API server lives by its Lease, and nobody has asked it.
type NotCovered struct {
	Lease   string `json:"lease"`
	Host    string `json:"host,omitempty"`
	Seconds int64  `json:"renewedSecondsAgo"`
}

// A NotProbed resource, and why.
type NotProbed struct {
	Resource string `json:"resource"`
	Reason   string `json:"reason"`
}

// A Verdict is the outcome and what it rests on.
type Verdict struct {
	Answer  Outcome  `json:"answer"`
	Reasons []Reason `json:"reasons"` // why it is not converged
	Text    string   `json:"text"`    // all of it, in one sentence
	// Lasting is true where waiting alone changes nothing: the releases, the flags or the
	// rights do not let anybody know.
	Lasting bool `json:"lasting"`
}

// Unwatched reports whether nothing but [Unwatched] keeps the answer from "converged".
func (v Verdict) Unwatched() bool {
	return len(v.Reasons) > 0 && !slices.ContainsFunc(v.Reasons, func(r Reason) bool { return r.Kind != Unwatched })
}

// A Reason keeps the answer from being "converged".
type Reason struct {
	Kind ReasonKind `json:"kind"`
	Text string     `json:"text"`
}

// A ReasonKind is for programs. Kinds are added and never changed.
type ReasonKind string

// Reasons.
const (
	Differ       ReasonKind = "differ"        // two API servers do
	OtherConfig  ReasonKind = "other-config"  // all have loaded another configuration than the file
	Unreachable  ReasonKind = "unreachable"   // an address did not answer
	Uncovered    ReasonKind = "not-covered"   // a Lease or an address of the cluster that nobody asked
	NoLeases     ReasonKind = "no-leases"     // nothing says which API servers live
	NoAddresses  ReasonKind = "no-addresses"  // nor where
	LoadBalancer ReasonKind = "load-balancer" // an address leads to several
	Restarted    ReasonKind = "restarted"     // or came or went meanwhile
	Unidentified ReasonKind = "unidentified"  // an answer that no Lease is of
	OldKey       ReasonKind = "old-answer"    // a plugin has not answered for long
	Unhealthy    ReasonKind = "unhealthy"     // the KMS check fails
	NoConfigHash ReasonKind = "no-config"     // the metric of the configuration is not there
	NoKey        ReasonKind = "no-key"        // that of a key_id is not
	WriterUnsaid ReasonKind = "writer"        // which provider writes is not known
	V1           ReasonKind = "kms-v1"        // values of KMS v1 name no key
	Unprobed     ReasonKind = "not-probed"
	NodesUnknown ReasonKind = "nodes"        // nodes may not be listed
	Unwatched    ReasonKind = "not-watched"  // an API server that was not asked may share a Lease
	OtherKey     ReasonKind = "other-key"    // an API server writes under another key than the expected one
	OtherWriter  ReasonKind = "other-writer" // or by another provider, or in the clear
	KeyUnsaid    ReasonKind = "key-unsaid"   // whether it does is not known
)

// Kinds are all of them.
func Kinds() []ReasonKind {
	return []ReasonKind{
		Differ, OtherConfig, Unreachable, Uncovered, NoLeases, NoAddresses, LoadBalancer, Restarted, Unidentified, OldKey,
		Unhealthy, NoConfigHash, NoKey, WriterUnsaid, V1, Unprobed, NodesUnknown, Unwatched, OtherKey, OtherWriter, KeyUnsaid,
	}
}

// lasting reports whether waiting changes nothing.
func (k ReasonKind) lasting() bool {
	switch k {
	case NoLeases, NoAddresses, NoConfigHash, WriterUnsaid, V1, NodesUnknown, Unprobed, KeyUnsaid:
		return true
	case Differ, OtherConfig, Unreachable, Uncovered, LoadBalancer, Restarted, Unidentified, OldKey, Unhealthy, NoKey, Unwatched, OtherKey, OtherWriter: // the last one where the configuration is known: see [judge.report]
	}
	return false
}
