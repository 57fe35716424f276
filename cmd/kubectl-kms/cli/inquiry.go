package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers/live"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/controlplane"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
)

// An inquiry is what is asked of API servers, and how.
type inquiry struct {
	cluster   *live.Cluster
	addresses []string
	o         apiservers.Options
	v1        bool      // that nobody knows the key of KMS v1 keeps nobody from anything
	etcd      live.Etcd // nil: no probe
	probe     live.ProbeOptions
}

// checkAddresses finds mistakes in --apiserver.
func checkAddresses(urls []string) (mistakes []string) {
	for _, url := range urls {
		if wrong := kube.CheckURL(url); wrong != "" {
			mistakes = append(mistakes, "--apiserver: "+wrong)
		}
	}
	return mistakes
}

// expectation is the key of --expect-only under which API servers have to write; nil: it
// was not given.
func expectation(key string) (apiservers.Expectation, error) {
	if key == "" {
		return nil, nil
	}
	k, err := audit.ParseKey(key)
	if err != nil {
		return nil, fmt.Errorf("--expect-only: the key %w", err)
	}
	return expected{k}, nil
}

// expected is a key as API servers are judged by it.
type expected struct{ audit.Key }

// Compare implements [apiservers.Expectation].
func (e expected) Compare(w apiservers.Write) apiservers.Match {
	covers, known := e.Covers(audit.WrittenUnder{Resource: w.Resource, Format: w.Format, Provider: w.Provider, KeyIDHash: w.KeyIDHash}, w.KeyID)
	switch {
	case covers:
		return apiservers.Meets
	case !known:
		return apiservers.Unsaid
	case e.OfKMS() && strings.HasPrefix(w.Format, "kms "):
		return apiservers.NotYet
	}
	return apiservers.Never
}

// configuration reads the file that is named, or the one of the manifest.
func (inq *inquiry) configuration(file string, running *controlplane.APIServer) error {
	if running != nil {
		file = cmp.Or(file, running.EncryptionConfig)
	}
	if file == "" {
		return nil
	}
	data, config, err := readEncryptionConfig(file)
	if err != nil {
		return err
	}
	inq.o.Config, inq.o.ConfigName, inq.o.ConfigHash = config, file, apiservers.HashOf(data)
	return nil
}

func (inq *inquiry) connect(s Streams, flags *kube.Flags) error {
	if !flags.Named(kubeOptions(s)) {
		return &usageError{mistakes: []string{"no cluster is named: neither --kubeconfig nor KUBECONFIG is set, and neither ~/.kube/config nor " + kube.AdminConf + " is here. Name a kubeconfig, or run this on a control plane node as root"}}
	}
	k, err := flags.Cluster(kubeOptions(s))
	if err != nil {
		return err
	}
	inq.cluster, inq.o.From = live.New(k), k.From
	return nil
}

func kubeOptions(s Streams) kube.Options {
	return kube.Options{LookupEnv: s.LookupEnv, UserAgent: programName}
}

// probes finds etcd for --probe.
func (inq *inquiry) probes(s Streams, f *etcdFlags, running *controlplane.APIServer) error {
	t, err := f.target(s)
	if err != nil {
		return err
	}
	if running == nil {
		running = t.apiServer
	}
	o := live.ProbeOptions{Config: inq.o.Config, Prefix: audit.DefaultPrefix, StripPrefix: strings.TrimSuffix(f.stripPrefix, "/")}
	if running != nil {
		o.Prefix = running.Prefix
	}
	switch len(f.prefixes) {
	case 0:
	case 1:
		o.Prefix = f.prefixes[0]
	default:
		return &usageError{mistakes: []string{"--probe looks under one --prefix: that of the API servers that are asked"}}
	}
	reader, err := s.Stores.Etcd(*t.etcd)
	if err != nil {
		return rootsAdvice(err)
	}
	etcd, ok := reader.(live.Etcd)
	if !ok {
		return errors.New("this etcd gives no single keys")
	}
	inq.etcd, inq.probe = etcd, o
	return nil
}

// ask observes once, probes if it was asked to, and judges.
func (inq *inquiry) ask(ctx context.Context) (*apiservers.Report, *apiservers.Observation, error) {
	o := inq.o
	var between func(context.Context, []string) error
	if inq.etcd != nil {
		between = func(ctx context.Context, addresses []string) (err error) {
			o.Probe, err = inq.cluster.Probe(ctx, inq.etcd, inq.probe, addresses)
			return err
		}
	}
	seen, err := apiservers.Observe(ctx, inq.cluster, inq.addresses, between)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, interrupted(err)
		}
		return nil, nil, err
	}
	r := apiservers.Judge(seen, o)
	if !inq.unwatched(r.Verdict) {
		return r, seen, nil
	}
	if err := seen.Watch(ctx, inq.cluster); err != nil {
		if ctx.Err() != nil {
			return nil, nil, interrupted(err)
		}
		return nil, nil, err
	}
	return apiservers.Judge(seen, o), seen, nil
}

// unwatched reports whether watching Leases could change the answer.
func (inq *inquiry) unwatched(v apiservers.Verdict) bool {
	if inq.v1 {
		v.Reasons = slices.DeleteFunc(slices.Clone(v.Reasons), func(r apiservers.Reason) bool { return r.Kind == apiservers.V1 })
	}
	return v.Unwatched()
}

// interrupted keeps what is left behind in the error, where anything is.
func interrupted(err error) error {
	const text = "interrupted: nothing was changed, and there is no verdict on a part: run it again"
	if errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "left behind") {
		return errors.New(text)
	}
	return fmt.Errorf("interrupted: %w", err)
}

// revisions are those of each Lease that was there before and after.
func revisions(before, after []apiservers.Lease) map[string][2]int64 {
	out := map[string][2]int64{}
	for _, b := range before {
		for _, a := range after {
			if a.Name == b.Name {
				out[a.Name] = [2]int64{b.Revision, a.Revision}
			}
		}
	}
	return out
}
