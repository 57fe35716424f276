// Package rewrite has API servers write again what is stored under another key than
// the one they write under now.
//
// [Run] is where to begin. It asks a [Gate] whether all API servers write alike, a
// [Lister] what is stale in etcd, and a [Patcher] to send each of those objects to the
// API server as it is. Then it lists again, up to three times. What counts in the end
// is the last list, and no answer of an API server.
//
// No state is kept. A run that was killed is continued by the next one, whose list has
// what is left.
//
// Nothing of an object gets into a [Report] but its path in etcd.
package rewrite

import (
	"context"
	"errors"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// A Resource as an API server serves it.
type Resource struct{ Name, Group string }

// String returns the resource as an EncryptionConfiguration names it.
func (r Resource) String() string {
	if r.Group == "" {
		return r.Name
	}
	return r.Name + "." + r.Group
}

// A Size is between how many bytes an object has in the clear: padding hides the rest.
type Size struct{ Least, Most int }

// Differs reports whether two sizes cannot be those of one object.
func (s Size) Differs(other Size) bool { return s.Most < other.Least || other.Most < s.Least }

// An Object is one that is to be written again.
type Object struct {
	Path string // the key of etcd; empty where no etcd is read
	Resource
	Namespace, Object string

	// Revision is etcd's mod_revision, which an API server calls the resourceVersion.
	Revision int64

	Size  Size
	Under string // what protects it, in words

	// Doubt is true where the bytes do not tell whether it is stale: an API server knows
	// when it reads it.
	Doubt bool
}

// name is what people call it.
func (o Object) name() string {
	if o.Path != "" {
		return o.Path
	}
	return strings.ReplaceAll(o.Resource.String()+"/"+o.Namespace+"/"+o.Object, "//", "/")
}

// shown is a text of etcd as a report has it.
func shown(text string) string {
	const most = 2_048
	return report.Clip(text, most)
}

// Work is what a [Lister] found.
type Work struct {
	Basis   string // what was read, as a verdict names it
	Stale   []Object
	Lost    []Left   // stale, and out of the reach of any request
	NotRead []string // why there may be more
}

// A Lister finds what is stale.
type Lister interface {
	// List reads everything. keys is [Judgement.Keys].
	List(ctx context.Context, keys map[string]string) (*Work, error)

	// Look reads one object again, as it is now, or as it was at a revision where that is
	// not 0. The error wraps [ErrNotCompared] where that revision is gone.
	Look(ctx context.Context, o Object, revision int64, keys map[string]string) (Sight, error)

	// Proves reports whether List reads etcd. Else nothing that it says proves that an
	// object was written.
	Proves() bool
}

// ErrNotCompared is of a Look that comes too late.
var ErrNotCompared = errors.New("etcd has compacted the revision")

// A Sight of one object.
type Sight struct {
	Object Object // where it is Found
	Found  bool
	Stale  bool
}

// A Judgement says under which keys API servers write.
type Judgement struct {
	Converged bool
	Reasons   []string // why not, each in a few words
	// Keys: the name of a KMS v2 provider → "sha256:" of the key_id it writes.
	Keys map[string]string
	// Basis is what API servers write under, in a few words, and RestsOn how that is known.
	Basis, RestsOn string
	// Members is another text where an API server has come, gone or restarted. One that
	// does so in between may have written in another way for a while.
	Members string
}

// A Gate asks API servers how they write.
type Gate interface {
	Judge(ctx context.Context) (Judgement, error)
}

// A Patcher sends objects to an API server. Its methods may be called at once by many
// goroutines.
type Patcher interface {
	// Learn asks how resources are served. It comes before all that is asked about them.
	Learn(ctx context.Context, resources []Resource) error

	// Serves returns why no object of a resource can be sent, and "" where it can.
	Serves(r Resource) (why string)

	// Patch has the object written as it is, provided that it still has its revision, and
	// returns the revision that it has then. It neither creates an object nor returns
	// anything of one. Errors that an API server answered with are [RefusalError]s.
	Patch(ctx context.Context, o Object) (revision int64, err error)
}

// An Admission is what changes or refuses objects on their way into etcd.
type Admission struct {
	Unknown  string   // why it is not known, and what would tell; empty: it is
	Mutating []string // webhooks and policies that may change what is written, in words
}

// An Admissions finds what admission does with updates of resources.
type Admissions interface {
	Of(ctx context.Context, resources []Resource) (Admission, error)
}

// A RefusalError is an API server's answer that is not success. It has no words of an
// object: messages may quote values, and are not kept.
type RefusalError struct {
	Code       int
	Cause      string        // in words that are safe to print
	Next       string        // what to do; may be empty
	RetryAfter time.Duration // 0: not said
	Denied     bool          // admission refuses it, whatever the code is
	Hangs      bool          // something behind the API server did not answer it in time
}

// Error implements error.
func (e *RefusalError) Error() string { return e.Cause }

// Options of a [Run]. The zero value of a number is its default.
type Options struct {
	DryRun  bool
	Workers int           // 4
	Rate    float64       // requests a second at most, 50
	Rounds  int           // 3
	InARow  int           // failures without a success between that end it, 20
	Timeout time.Duration // of a request, 35 s: a webhook may take 30 s

	// Announce is told what will be done before anything is. It may be nil.
	Announce func(*Report) error
	Progress *Progress // may be nil
}

// Defaults of [Options].
const (
	DefaultWorkers = 4
	DefaultRate    = 50
	DefaultRounds  = 3
	DefaultInARow  = 20
	DefaultTimeout = 35 * time.Second
)

func (o Options) filled() Options {
	fill(&o.Workers, DefaultWorkers)
	fill(&o.Rate, DefaultRate)
	fill(&o.Rounds, DefaultRounds)
	fill(&o.InARow, DefaultInARow)
	fill(&o.Timeout, DefaultTimeout)
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	return o
}

func fill[T int | float64 | time.Duration](value *T, standard T) {
	if *value <= 0 {
		*value = standard
	}
}
