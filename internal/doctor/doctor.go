// Package doctor looks for what keeps a configuration from working, before it
// runs and while it does, and says of each fault its code, its cause and what to
// do. It changes nothing, on the node and in AWS.
//
// It looks with the daemon's own code: keys are called by [awskms.Client], sockets
// are looked at as before a start, a running plugin is asked by
// [inquiry.Ask]. A failed call is one finding, in the group of what failed; what
// depends on that is not checked, and says so.
//
// What is wrong is in the [Report]. An error means that it could not be looked at.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/connect"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// Options say what to look at.
type Options struct {
	Config   *config.Config  // nil: it was refused, for Mistakes
	Mistakes config.Mistakes // of the file of --config

	EncryptionConfig []byte // of kube-apiserver; nil: not looked at
	EncryptionFile   string // its name
	Secrets          int    // objects that are encrypted; 0: not known

	As *User // whom the API server runs as, to ask the sockets as that user; nil: nobody

	Calls   int           // for the latency of each key; 0: 20
	Burst   time.Duration // that those calls may take together; 0: 10s
	Timeout time.Duration // of each question to a running plugin; 0: 3s
	Version string
	DocsURL string // where the pages of docs are published; "": nowhere

	Began func(title string) // told before each group; nil: nobody
	Asks  func(whom string)  // told before each question that may take long; nil: nobody
}

// An examination is one look at everything.
type examination struct {
	Options

	conns   *awskms.Connections
	keys    []*patient
	served  []config.Provider        // those whose socket has a live holder that may be asked
	known   []string                 // codes that were found so far
	slowest map[string]time.Duration // listen → the slowest call of its write key
	unit    func() *unit             // of this node, looked for once; nil: there is none
}

// A patient is one key of one provider.
type patient struct {
	provider config.Provider
	key      config.Key
	writes   bool
	client   *awskms.Client

	credential awskms.Credential
	contact    awskms.Contact
	sealed     awskms.Sealed // of a key that writes
	arn        keyref.ARN    // "": not known
	enabled    bool          // DescribeKey says so
	unasked    bool          // this KMS does not take the question for a key that only reads
	failure    *failure      // nil: the first call worked
}

// Examine looks at everything, in order. The error is ctx's.
func Examine(ctx context.Context, o Options) (*Report, error) {
	if o.Calls == 0 {
		o.Calls = 20
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Second
	}
	if o.Burst == 0 {
		o.Burst = 10 * time.Second // twenty calls just fit, at slowCall each
	}
	x := &examination{Options: o, slowest: map[string]time.Duration{}}
	r := &Report{Version: 1}
	x.unit = sync.OnceValue(func() *unit { return findUnit(ctx) })
	defer x.close()
	for _, look := range []struct {
		title string
		at    func(context.Context, *Group)
	}{
		{"configuration", x.configuration},
		{"endpoint", x.endpoints},
		{"clock", x.clock},
		{"credentials", x.credentials},
		{"keys", x.describe},
		{"permissions and latency", x.permissions},
		{"sockets", x.sockets},
		{"API server's user", x.asTheAPIServer},
		{"running plugin", x.running},
		{"EncryptionConfiguration", x.encryption},
	} {
		if o.Config == nil && len(r.Groups) > 0 {
			break // configuration has said that nothing else is checked
		}
		if o.Began != nil {
			o.Began(look.title)
		}
		g := Group{Title: look.title}
		if o.Config != nil {
			g.called = o.Config.Called
		}
		look.at(ctx, &g)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("looking at %s: %w", look.title, err)
		}
		for i := range g.Checks {
			g.Checks[i].link(o.DocsURL)
			x.known = append(x.known, g.Checks[i].Code)
		}
		if len(g.Checks) > 0 {
			r.Groups = append(r.Groups, g)
		}
	}
	r.count()
	return r, nil
}

// asking tells who waits for what.
func (x *examination) asking(p *patient) { x.asks("KMS about " + p.String()) }

func (x *examination) asks(whom string) {
	if x.Asks != nil {
		x.Asks(whom)
	}
}

func (x *examination) close() {
	for _, p := range x.keys {
		p.client.Close()
	}
	if x.conns != nil {
		x.conns.Close()
	}
}

func (x *examination) configuration(_ context.Context, g *Group) {
	for _, m := range x.Mistakes {
		g.found(FileRefused, "the configuration is refused", m.String())
	}
	if x.Config == nil {
		g.skipped("not checked: everything else, since there is no configuration to check it for")
		return
	}
	keys := 0
	for _, p := range x.Config.Providers {
		keys += len(p.Keys)
	}
	from := "flags"
	if x.Config.File != "" {
		from = x.Config.File
	}
	g.ok(fmt.Sprintf("%s: valid, providers: %d, keys: %d", from, len(x.Config.Providers), keys))
	for _, w := range x.Config.Warnings {
		g.found(Ineffective, "a setting has no effect", w)
	}
}

// admit makes the patients, each with a client as the daemon has it.
func (x *examination) admit(conns *awskms.Connections) {
	for _, p := range x.Config.Providers {
		for i, k := range p.Keys {
			o := connect.Options(p, k)
			o.Connections, o.Timeout, o.UserAgent = conns, x.Config.KMSTimeout, x.Version
			x.keys = append(x.keys, &patient{provider: p, key: k, writes: i == 0, client: awskms.New(o)})
		}
	}
}

// once adds a line unless the group has it: keys share endpoints and credentials.
func (g *Group) once(text string) {
	if !slices.ContainsFunc(g.Checks, func(c Check) bool { return c.Text == text }) {
		g.ok(text)
	}
}

// join puts together what there is of a line.
func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}
