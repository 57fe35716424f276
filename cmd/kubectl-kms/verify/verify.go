// Package verify proves that what is stored can be read: it has each wrapped DEK or
// DEK seed unwrapped once, by the key, and on request opens each object in memory.
//
// [Run] is where to begin. It reads every place once to collect what is wrapped, asks an
// [Opener] for each, and reads again where objects are opened or a question about keys is
// asked: values of KMS v1 name no key, those of v2 may name any, and the answers of KMS
// tell.
//
// Nothing of an object or a key gets into a [Report], an error or anything else that
// outlives Run: what is opened is overwritten at once, and what was unwrapped at the end.
package verify

import (
	"context"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/stored"
)

// Options are what to read, whom to ask and how much.
type Options struct {
	// Audit says what is read and asked, as for audit: with Resources, nothing else is
	// verified. Its See, KeyOf and Objects are not used.
	Audit audit.Options

	// Opener is asked for each DEK and seed. Nil: nobody is, and none is known.
	Opener Opener

	// Open opens objects too, those of local keys with the keys of Audit.Config.
	Open bool

	// Sample is how many DEKs of KMS v1 are asked for, of each resource and provider. 0:
	// all.
	Sample int

	// Progress, where it is not nil, is told what is done.
	Progress *Progress
}

// Run reads all places and verifies what they hold. An error means that a place could
// not be read to its end, or ctx's: there is no report then.
func Run(ctx context.Context, places []audit.Place, o Options) (*Report, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	o.Audit.Progress = &o.Progress.Reading
	k := newKnown()
	defer k.clear()
	asks := &asker{o: o}
	o.Progress.begin(Collecting)
	read, found, err := pass(ctx, places, o, k, nil)
	if err != nil {
		return nil, err
	}
	list := found.sources()
	if o.Sample > 0 {
		leaveOut(list, found.bases(), o.Sample)
	}
	o.Progress.total.Store(toAsk(list))
	o.Progress.begin(Unwrapping)
	if err := asks.all(ctx, list); err != nil {
		return nil, err
	}
	if o.Open || o.Audit.Question != nil {
		o.Progress.begin(Opening)
		if read, found, err = pass(ctx, places, o, k, asks); err != nil {
			return nil, err
		}
	}
	o.Progress.begin(Describing)
	var keys []Key
	if o.Opener != nil {
		if keys, err = o.Opener.Keys(ctx); err != nil {
			return nil, err
		}
	}
	return newReport(read, found, keys, o), nil
}

// toAsk counts what a sample does not leave out.
func toAsk(list []*source) (n int64) {
	for _, s := range list {
		if !s.left {
			n++
		}
	}
	return n
}

// pass reads all places. The second one has an asker: it opens objects, and asks for
// what was written since the first.
func pass(ctx context.Context, places []audit.Place, o Options, k *known, asks *asker) (*audit.Report, *findings, error) {
	f := newFindings(len(places))
	ao := o.Audit
	ao.Objects, ao.KeyOf = false, nil
	if asks == nil {
		ao.Question = nil
	} else {
		ao.KeyOf = func(r stored.Record) keyref.ARN {
			if s := k.sources[r.SourceID()]; s != nil {
				return s.arn()
			}
			return ""
		}
	}
	ao.See = func(place int) func(audit.Value) error {
		c := &collector{o: o, known: k, in: newPlaceFindings()}
		f.places[place] = c.in
		return func(v audit.Value) error {
			s := c.add(v)
			if asks == nil || v.Older || !v.Asked {
				return nil
			}
			if s != nil && !s.asked && !s.left {
				if err := asks.one(ctx, s); err != nil {
					return err
				}
			}
			if o.Open {
				c.open(v, s)
			}
			return nil
		}
	}
	r, err := audit.Run(ctx, places, ao)
	if err != nil {
		return nil, nil, err
	}
	f.scoped(r, o)
	return r, f, nil
}
