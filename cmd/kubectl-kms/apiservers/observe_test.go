package apiservers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
)

// A fakeCluster says what an observation says.
type fakeCluster struct {
	*observation

	members, asked int
	err            error
}

func (f *fakeCluster) Members(context.Context) (apiservers.Members, error) {
	if f.members++; f.members == 1 {
		return f.Before, f.err
	}
	return f.After, f.err
}

func (f *fakeCluster) Ask(_ context.Context, address string) (apiservers.Answer, error) {
	for i, a := range f.Asked {
		if a.Address == address && a.Err != nil {
			return apiservers.Answer{}, a.Err
		}
		if a.Address == address {
			return f.Asked[i].Answers[0], nil
		}
	}
	return apiservers.Answer{}, errors.New("nobody is there")
}

func (f *fakeCluster) Renewals(context.Context, time.Duration) (map[string][]time.Time, error) {
	return map[string][]time.Time{}, f.err
}

// Everything is asked twice, and what happens in between happens in between.
func TestObserveAsksTwice(t *testing.T) {
	t.Parallel()
	f := &fakeCluster{observation: three()}
	f.Asked[1].Err = errors.New("refused")
	var between []string
	o, err := apiservers.Observe(t.Context(), f, nil, func(_ context.Context, addresses []string) error {
		between = addresses
		return nil
	})
	if err != nil || f.members != 2 || len(o.Asked) != 3 || len(o.Asked[0].Answers) != 2 || o.Asked[1].Err == nil {
		t.Fatalf("%+v, %v", o, err)
	}
	if fmt.Sprint(between) != "[10.0.0.0:6443 10.0.0.2:6443]" {
		t.Errorf("between, these had answered: %v", between)
	}
	failed := errors.New("no")
	if _, err = apiservers.Observe(t.Context(), f, nil, func(context.Context, []string) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if _, err = apiservers.Observe(t.Context(), &fakeCluster{observation: three(), err: failed}, nil, nil); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = apiservers.Observe(ctx, f, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Two observations are of the same API servers only where none has restarted, come or gone,
// or was given another configuration.
func TestSame(t *testing.T) {
	t.Parallel()
	if !apiservers.Same(three(), three()) {
		t.Error("the same are not the same")
	}
	for name, change := range map[string]func(*observation){
		"restarted":             func(o *observation) { both(o, 1, func(a *apiservers.Answer) { a.Process = "2" }) },
		"another configuration": func(o *observation) { both(o, 1, func(a *apiservers.Answer) { a.Config = "2" }) },
		"another holder":        func(o *observation) { o.After.Leases[1].Holder = "b" },
		"one has gone":          func(o *observation) { o.After.Leases = o.After.Leases[:2] },
	} {
		o := three()
		change(o)
		if apiservers.Same(three(), o) || apiservers.Same(o, three()) {
			t.Errorf("%s: they are the same", name)
		}
	}
}
