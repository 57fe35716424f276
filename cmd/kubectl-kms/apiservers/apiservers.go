// Package apiservers judges whether all API servers of a cluster write alike: with the
// same configuration, under the same key_ids.
//
// [Observe] asks a [Cluster] which API servers live, and then each of them, twice. [Judge]
// is pure: it makes a [Report] of an [Observation]. The answer is "converged" only where
// every API server that lives was asked by itself and said the same; what nobody knows
// makes it "not known", and two that differ make it "not converged".
//
// What the answer rests on, in k8s.io/kubernetes and k8s.io/apiserver of 1.37:
//
//   - Each API server renews a Lease in kube-system every 10 s, and its metrics carry the
//     SHA-256 of the Lease's name (pkg/controlplane/apiserver/server.go). The name is made
//     of the host's: API servers on one host share a Lease, and differ by when their
//     processes began.
//   - apiserver_encryption_config_controller_last_config_info has the SHA-256 of the
//     EncryptionConfiguration that is in force, at a start and at each reload, since 1.34
//     (pkg/server/options/etcd.go).
//   - apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds says which
//     key_id a KMS v2 plugin named last. The health check fails where the API server could
//     not go over to it (encryptionconfig.kmsv2PluginProbe).
//
// Values of KMS v1 name no key, and no metric does.
package apiservers

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of what is taken for the present. All are compared with clocks of API servers.
const (
	// freshLease is for how long a Lease may go without a renewal: six are missed then.
	freshLease = 60 * time.Second
	// freshKey is how old the last answer of a plugin may be. API servers ask each minute,
	// and when their health is asked for.
	freshKey = 150 * time.Second
	// renewal is a little less than the time between two renewals of a Lease by one API
	// server, and watch a little more: pkg/controlplane/apiserver/server.go, 10 s and 4 %.
	renewal = 9500 * time.Millisecond
	watch   = 11 * time.Second
	// settled is an age at which an API server that shares a Lease has been refused.
	settled = 30 * time.Second
)

// A Cluster says which API servers there are, and lets each be asked by itself.
type Cluster interface {
	// Members returns which API servers live, as the cluster has it.
	Members(ctx context.Context) (Members, error)
	// Ask asks the one at an address, over a connection of its own.
	Ask(ctx context.Context, address string) (Answer, error)
	// Renewals watches for some time and returns when each Lease was renewed.
	Renewals(ctx context.Context, watch time.Duration) (map[string][]time.Time, error)
}

// Members are what the cluster says of its API servers.
type Members struct {
	Now    time.Time // by the clock of who answered
	Leases []Lease
	// Addresses are those that the cluster gives for its API servers, HOST:PORT.
	Addresses []string
	// Nodes counts those that are labelled control plane. -1: who asks may not list nodes.
	Nodes int
}

// A Lease is an API server's sign of life.
type Lease struct {
	Name     string
	Host     string // by its label; may be empty
	Holder   string // names one life of the process
	Revision int64  // its resourceVersion
	Renewed  time.Time
	Duration time.Duration
}

// An Answer is what one API server says of itself.
type Answer struct {
	Now     time.Time // by its own clock
	Process string    // when it began; tells processes apart. Empty: not told
	ID      string    // sha256: of its Lease's name; empty: not told
	Version string    // such as v1.37.2
	Config  string    // sha256: of its EncryptionConfiguration; empty: not told
	Keys    []KeyID   // that its KMS v2 plugins named, as far as it remembers
	V1      bool      // it has read or written by KMS v1
	// Conflicts is true where it has refused a Lease that somebody else had just renewed.
	// An API server that shares a Lease is refused at most of its own renewals.
	Conflicts bool
	// Health is the failing check of its KMS plugins, empty where none fails, and
	// HealthKnown whether that was told.
	Health      string
	HealthKnown bool
}

// A KeyID is what a plugin named.
type KeyID struct {
	Provider string
	Hash     string
	Seen     time.Time // when it was named last
}

// An Observation is what was asked in one go.
type Observation struct {
	Before, After Members // around the questions
	Asked         []Asked
	Given         bool // addresses were given, and not the cluster's
	// Renewals are those of each Lease, where they had to be watched; nil: they were not.
	Renewals map[string][]time.Time
}

// An Asked address and its two answers.
type Asked struct {
	Address string
	Answers []Answer
	Err     error // instead of one of them
}

// Observe asks everything twice. An API server that restarts meanwhile, or an address that
// leads to another one each time, shows in the difference. addresses are HOST:PORT or URLs;
// none: those that the cluster has. between, where it is not nil, is called between both
// rounds with the addresses that have answered. An error means that nobody said which API
// servers live, or is between's.
func Observe(ctx context.Context, c Cluster, addresses []string, between func(context.Context, []string) error) (*Observation, error) {
	before, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	o := &Observation{Before: before, Given: len(addresses) > 0}
	if !o.Given {
		addresses = before.Addresses
	}
	for _, address := range addresses {
		o.Asked = append(o.Asked, Asked{Address: address})
	}
	o.round(ctx, c)
	if between != nil && ctx.Err() == nil {
		if err := between(ctx, o.answered()); err != nil {
			return nil, err
		}
	}
	o.round(ctx, c)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	o.After, err = c.Members(ctx)
	return o, err
}

// Watch watches Leases for a while. It is worth the time only where nothing else keeps
// [Judge] from "converged" than [Unwatched].
func (o *Observation) Watch(ctx context.Context, c Cluster) (err error) {
	o.Renewals, err = c.Renewals(ctx, watch)
	return err
}

// mayShare reports whether an API server that was not asked may renew the Lease of one
// that was: they are on one host. Refused renewals are a sign, and of those that have just
// begun there can be none yet.
func (o *Observation) mayShare() bool {
	return slices.ContainsFunc(o.Asked, func(a Asked) bool {
		return slices.ContainsFunc(a.Answers, func(one Answer) bool { return one.Conflicts || one.Now.Sub(began(one)) < settled })
	})
}

// renewers is how many API servers renew a Lease at least: each waits 10 s in between.
func renewers(times []time.Time) int {
	most := 0
	for _, from := range times {
		n := 0
		for _, at := range times {
			if !at.Before(from) && at.Sub(from) < renewal {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// round asks each address that has answered so far once more, all at the same time.
func (o *Observation) round(ctx context.Context, c Cluster) {
	var all sync.WaitGroup
	for i := range o.Asked {
		if a := &o.Asked[i]; a.Err == nil {
			all.Go(func() {
				answer, err := c.Ask(ctx, a.Address)
				if err != nil {
					a.Err = err
					return
				}
				a.Answers = append(a.Answers, answer)
			})
		}
	}
	all.Wait()
}

func (o *Observation) answered() (addresses []string) {
	for _, a := range o.Asked {
		if a.Err == nil {
			addresses = append(addresses, a.Address)
		}
	}
	return addresses
}

// Same reports whether two observations are of the same processes: none of them has
// restarted in between, and none has come or gone.
func Same(a, b *Observation) bool {
	return slices.Equal(a.lives(), b.lives())
}

// lives are the processes that answered and the holders of Leases, in an order of their own.
func (o *Observation) lives() (out []string) {
	for _, a := range o.Asked {
		for _, answer := range a.Answers {
			out = append(out, a.Address+" "+answer.ID+" "+answer.Process+" "+answer.Config)
		}
	}
	for _, l := range o.After.Leases {
		out = append(out, l.Name+" "+l.Holder)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// newest returns the key_id that each provider named last, by the provider's name.
func (a Answer) newest() []KeyID {
	var out []KeyID
	for _, k := range a.Keys {
		i := slices.IndexFunc(out, func(o KeyID) bool { return o.Provider == k.Provider })
		switch {
		case i < 0:
			out = append(out, k)
		case k.Seen.After(out[i].Seen):
			out[i] = k
		}
	}
	slices.SortFunc(out, func(a, b KeyID) int { return strings.Compare(a.Provider, b.Provider) })
	return out
}
