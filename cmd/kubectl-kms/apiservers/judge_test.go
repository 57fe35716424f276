package apiservers_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

const (
	oldKey = "arn:aws:kms:us-west-2:111122223333:key/0000aaaa-12ab-34cd-56ef-1234567890ab?material=3d8a"
	newKey = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?material=77aa"
)

func hash(text string) string { return apiservers.HashOf([]byte(text)) }

func now() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) }

const file = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}
  - aescbc: {keys: [{name: k1, secret: MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=}]}
  - identity: {}
`

func answer(i int) apiservers.Answer {
	return apiservers.Answer{
		Now: now(), Process: fmt.Sprintf("1.76e+09%d", i), ID: hash(lease(i).Name), Version: "v1.37.2", Config: hash(file),
		Keys:        []apiservers.KeyID{{Provider: "aws", Hash: hash(newKey), Seen: now().Add(-20 * time.Second)}},
		HealthKnown: true,
	}
}

func lease(i int) apiservers.Lease {
	return apiservers.Lease{Name: fmt.Sprintf("apiserver-%d", i), Host: fmt.Sprintf("cp-%d", i), Holder: "a", Renewed: now().Add(-5 * time.Second), Duration: time.Hour}
}

// three are API servers that have converged.
func three() *apiservers.Observation {
	o := &apiservers.Observation{}
	m := apiservers.Members{Now: now(), Nodes: 3}
	for i := range 3 {
		address := fmt.Sprintf("10.0.0.%d:6443", i)
		m.Leases, m.Addresses = append(m.Leases, lease(i)), append(m.Addresses, address)
		o.Asked = append(o.Asked, apiservers.Asked{Address: address, Answers: []apiservers.Answer{answer(i), answer(i)}})
	}
	o.Before = m
	o.After = apiservers.Members{Now: now(), Nodes: 3, Leases: slices.Clone(m.Leases), Addresses: slices.Clone(m.Addresses)}
	return o
}

// both changes both answers of an API server.
func both(o *apiservers.Observation, i int, change func(*apiservers.Answer)) {
	for n := range o.Asked[i].Answers {
		change(&o.Asked[i].Answers[n])
	}
}

func every(o *apiservers.Observation, change func(*apiservers.Answer)) {
	for i := range o.Asked {
		both(o, i, change)
	}
}

func parse(t *testing.T, text string) apiservers.Options {
	t.Helper()
	c, err := encryptionconfig.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return apiservers.Options{Config: c, ConfigName: "enc.yaml", ConfigHash: hash(text)}
}

type (
	observation = apiservers.Observation
	options     = apiservers.Options
)

// What API servers have said, and what follows from it.
func TestJudge(t *testing.T) {
	const (
		yes = apiservers.Converged
		no  = apiservers.NotConverged
		dk  = apiservers.NotKnown
	)
	aescbc := strings.Replace(strings.Replace(file, "  - kms", "  - x", 1), `  - x: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}`+"\n", "", 1)
	v1First := strings.Replace(file, "apiVersion: v2", "apiVersion: v1", 1)
	two := file + "- resources: [configmaps]\n  providers:\n  - kms: {apiVersion: v2, name: aws-b, endpoint: \"unix:///run/b.sock\"}\n  - identity: {}\n"
	withB := func(o *observation, i int, key string) {
		both(o, i, func(a *apiservers.Answer) {
			a.Config = hash(two)
			a.Keys = append(slices.Clone(a.Keys), apiservers.KeyID{Provider: "aws-b", Hash: hash(key), Seen: now()})
		})
	}
	for name, c := range map[string]struct {
		change func(*observation, *options)
		config string // of --encryption-config
		want   apiservers.Outcome
		kinds  string // of the reasons
		text   string // in the verdict
	}{
		"all alike":                      {nil, "", yes, "", "all 3 API servers write by provider aws under key_id sha256:"},
		"all alike, the writer is known": {nil, file, yes, "", "all 3 API servers write under kms v2 aws, key_id sha256:"},
		"one is held on the old key": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys[0].Hash = hash(oldKey) })
		}, file, no, "differ", "cp-1 writes under sha256:"},
		"its old key has a name": {func(o *observation, opts *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys[0].Hash = hash(oldKey) })
			opts.KeyIDs = []string{oldKey, newKey}
		}, file, no, "differ", "cp-1 writes under " + oldKey},
		"both keys are remembered, the newest counts": {func(o *observation, _ *options) {
			every(o, func(a *apiservers.Answer) {
				a.Keys = append([]apiservers.KeyID{{Provider: "aws", Hash: hash(oldKey), Seen: now().Add(-10 * time.Minute)}}, a.Keys...)
			})
		}, file, yes, "", ""},
		"both keys are remembered, and one went back": {func(o *observation, _ *options) {
			both(o, 2, func(a *apiservers.Answer) {
				a.Keys = append(slices.Clone(a.Keys), apiservers.KeyID{Provider: "aws", Hash: hash(oldKey), Seen: now()})
			})
		}, file, no, "differ", "cp-2 writes under"},
		"another configuration is in force on one": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Config = hash("other") })
		}, "", no, "differ", "the encryption configurations differ"},
		"all have loaded another than the file": {func(o *observation, _ *options) {
			every(o, func(a *apiservers.Answer) { a.Config = hash("other") })
		}, file, no, "other-config", "only a restart loads it"},
		"no address leads to one": {func(o *observation, _ *options) {
			o.Asked = o.Asked[:2]
		}, file, dk, "not-covered", "cp-2 lives by its Lease kube-system/apiserver-2, and no address"},
		"one does not answer": {func(o *observation, _ *options) {
			o.Asked[0] = apiservers.Asked{Address: "10.0.0.0:6443", Err: errors.New("10.0.0.0:6443: nothing listens there (connection refused). Start it")}
		}, file, dk, "unreachable not-covered", "nothing listens there (connection refused). Start it"},
		"a Lease is over": {func(o *observation, _ *options) {
			dead := apiservers.Lease{Name: "apiserver-9", Holder: "a", Renewed: now().Add(-2 * time.Hour), Duration: time.Hour}
			o.Before.Leases, o.After.Leases = append(o.Before.Leases, dead), append(o.After.Leases, dead)
		}, file, yes, "", "3 living Leases"},
		"one was killed a moment ago": {func(o *observation, _ *options) {
			dead := apiservers.Lease{Name: "apiserver-9", Host: "cp-9", Holder: "a", Renewed: now().Add(-10 * time.Minute), Duration: time.Hour}
			o.Before.Leases, o.After.Leases = append(o.Before.Leases, dead), append(o.After.Leases, dead)
		}, file, dk, "not-covered", "has not renewed its Lease for 10m0s"},
		"a Lease without a duration counts": {func(o *observation, _ *options) {
			dead := apiservers.Lease{Name: "apiserver-9", Holder: "a", Renewed: now()}
			o.Before.Leases, o.After.Leases = append(o.Before.Leases, dead), append(o.After.Leases, dead)
		}, file, dk, "not-covered", ""},
		"two share a host and so a Lease": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases = o.Before.Leases[:2], o.After.Leases[:2]
			both(o, 2, func(a *apiservers.Answer) { a.ID = hash("apiserver-1") })
		}, file, yes, "", "all 3 API servers"},
		"two share a host, began at the same moment and differ": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases, o.After.Nodes, o.After.Addresses = o.Before.Leases[:1], o.After.Leases[:1], 1, nil
			every(o, func(a *apiservers.Answer) { a.ID, a.Process = hash("apiserver-0"), "1.76e+09" })
			both(o, 1, func(a *apiservers.Answer) {
				a.Keys = []apiservers.KeyID{{Provider: "aws", Hash: hash(oldKey), Seen: now()}}
			})
		}, file, no, "differ", ""},
		"two share a host, and the second is not asked": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases = o.Before.Leases[:2], o.After.Leases[:2]
			o.Asked = o.Asked[:2]
			o.After.Nodes = 2
		}, file, dk, "not-covered", "there are 3 addresses in EndpointSlice default/kubernetes, and 2 API servers answered"},
		"one address leads to another's process": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases = o.Before.Leases[:2], o.After.Leases[:2]
			o.Asked[2].Answers = o.Asked[1].Answers
		}, file, dk, "not-covered", ""},
		"an extra address leads to one that was asked": {func(o *observation, _ *options) {
			o.Given = true
			o.Asked = append(o.Asked, apiservers.Asked{Address: "https://vip:6443", Answers: o.Asked[0].Answers})
		}, file, yes, "", "4 addresses by --apiserver"},
		"a load balancer": {func(o *observation, _ *options) {
			o.Given = true
			o.Asked = []apiservers.Asked{{Address: "https://lb:6443", Answers: []apiservers.Answer{answer(0), answer(1)}}}
		}, file, dk, "load-balancer not-covered", "give the address of each by --apiserver"},
		"a load balancer before processes that began at the same moment": {func(o *observation, _ *options) {
			o.Given = true
			every(o, func(a *apiservers.Answer) { a.Process = "1.76e+09" })
			o.Asked = append(o.Asked, apiservers.Asked{Address: "https://lb:6443", Answers: []apiservers.Answer{o.Asked[0].Answers[0], o.Asked[1].Answers[0]}})
		}, file, dk, "load-balancer", ""},
		"a load balancer that happens to have answered for all": {func(o *observation, _ *options) {
			o.Given = true
			lb := apiservers.Asked{Address: "https://lb:6443", Answers: []apiservers.Answer{answer(0), answer(1)}}
			o.Asked = []apiservers.Asked{lb, lb, o.Asked[2]}
		}, file, dk, "load-balancer", ""},
		"a load balancer before one host": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases = o.Before.Leases[:1], o.After.Leases[:1]
			o.After.Nodes, o.After.Addresses = 1, nil
			second := answer(1)
			second.ID = answer(0).ID
			o.Asked = []apiservers.Asked{{Address: "https://lb:6443", Answers: []apiservers.Answer{answer(0), second}}}
		}, file, dk, "load-balancer", "several API servers of one host"},
		"one restarts meanwhile": {func(o *observation, _ *options) {
			o.Asked[1].Answers[1].Process = fmt.Sprintf("%d.5", now().Unix())
		}, file, dk, "restarted not-watched", "10.0.0.1:6443 has restarted meanwhile"},
		"the Lease of one is of another process": {func(o *observation, _ *options) {
			o.After.Leases[1].Holder = "b"
		}, file, dk, "restarted", "Lease apiserver-1 has restarted meanwhile"},
		"one ends meanwhile": {func(o *observation, _ *options) {
			o.After.Leases = o.After.Leases[:2]
		}, file, dk, "restarted unidentified", "has ended meanwhile"},
		"one starts meanwhile": {func(o *observation, _ *options) {
			o.Before.Leases = o.Before.Leases[:2]
		}, file, dk, "restarted", "has started meanwhile"},
		"one restarts, and nothing but its node shows": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases = o.Before.Leases[:2], o.After.Leases[:2]
			o.Asked, o.After.Addresses = o.Asked[:2], o.After.Addresses[:2]
		}, file, dk, "not-covered", "there are 3 nodes that are labelled control plane, and 2 API servers answered"},
		"nodes may not be listed": {func(o *observation, _ *options) {
			o.After.Nodes = -1
		}, file, dk, "nodes", "would not be missed"},
		"no node is labelled, as in hosted control planes": {func(o *observation, _ *options) {
			o.After.Nodes = 0
		}, file, yes, "", ""},
		"clocks of API servers differ by an hour": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) {
				a.Now, a.Keys = a.Now.Add(time.Hour), []apiservers.KeyID{{Provider: "aws", Hash: hash(newKey), Seen: now().Add(time.Hour - time.Second)}}
			})
			o.After.Leases[1].Renewed = now().Add(time.Hour)
			o.Before.Leases[1].Renewed = now().Add(time.Hour)
		}, file, yes, "", ""},
		"a clock is behind by an hour": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) {
				a.Now, a.Keys = a.Now.Add(-time.Hour), []apiservers.KeyID{{Provider: "aws", Hash: hash(newKey), Seen: now().Add(-time.Hour - time.Second)}}
			})
			o.After.Leases[1].Renewed = now().Add(-time.Hour + time.Minute)
			o.Before.Leases[1].Renewed = now().Add(-time.Hour + time.Minute)
		}, file, yes, "", ""},
		"a plugin has not answered for long": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys[0].Seen = now().Add(-4 * time.Minute) })
		}, file, dk, "old-answer no-key", "4m0s ago"},
		"a provider that is gone is remembered": {func(o *observation, _ *options) {
			every(o, func(a *apiservers.Answer) {
				a.Keys = append(slices.Clone(a.Keys), apiservers.KeyID{Provider: "gone", Hash: hash(oldKey), Seen: now().Add(-time.Hour)})
			})
		}, file, yes, "", ""},
		"a provider that is gone, or is not": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) {
				a.Keys = append(slices.Clone(a.Keys), apiservers.KeyID{Provider: "gone", Hash: hash(oldKey), Seen: now().Add(-time.Hour)})
			})
		}, "", dk, "old-answer", "--encryption-config would tell"},
		"the KMS check fails": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Health = "failed to rotate DEK" })
		}, file, dk, "unhealthy", "cp-1 fails: failed to rotate DEK"},
		"the KMS check says nothing": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.HealthKnown = false })
		}, file, dk, "unhealthy", ""},
		"one is of a release without the configuration's metric": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Config, a.Version = "", "v1.33.5" })
		}, "", dk, "no-config", "below 1.34"},
		"one names no key": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys = nil })
		}, "", dk, "no-key writer", "2 of 3 API servers name the key_id of provider aws"},
		"one names no key, and should": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Keys = nil })
		}, file, dk, "no-key", ""},
		"no metric at all": {func(o *observation, _ *options) {
			every(o, func(a *apiservers.Answer) { a.Keys, a.Config, a.ID = nil, "", "" })
		}, "", dk, "not-covered unidentified no-config writer", ""},
		"no metric tells processes apart": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Process = "" })
		}, file, dk, "unidentified", ""},
		"one is of another cluster": {func(o *observation, _ *options) {
			both(o, 2, func(a *apiservers.Answer) { a.ID = hash("apiserver-elsewhere") })
		}, file, dk, "not-covered unidentified", "another cluster"},
		"aescbc writes, as the file says":     {func(o *observation, _ *options) { local(o, aescbc) }, aescbc, yes, "", "under aescbc k1"},
		"aescbc writes, and no file says so":  {func(o *observation, _ *options) { local(o, aescbc) }, "", dk, "writer", "--probe"},
		"KMS v1 writes, as the file says":     {func(o *observation, _ *options) { local(o, v1First) }, v1First, dk, "kms-v1", "name the key"},
		"KMS v1 is used, and no file says so": {func(o *observation, _ *options) { every(o, func(a *apiservers.Answer) { a.V1 = true }) }, "", dk, "kms-v1", ""},
		"two providers for different resources": {func(o *observation, _ *options) {
			for i := range 3 {
				withB(o, i, oldKey)
			}
		}, two, yes, "", " or under kms v2 aws-b"},
		"one of two providers is held": {func(o *observation, _ *options) {
			withB(o, 0, oldKey)
			withB(o, 1, newKey)
			withB(o, 2, oldKey)
		}, two, no, "differ", "of provider aws-b, "},
		"no Lease": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases = nil, nil
		}, file, dk, "no-leases unidentified", "APIServerIdentity"},
		"no address": {func(o *observation, _ *options) {
			o.Asked, o.After.Addresses = nil, nil
		}, file, dk, "no-addresses not-covered", "give the address of each by --apiserver"},
		"one shares its Lease with one that was not asked": {func(o *observation, _ *options) {
			o.Renewals = map[string][]time.Time{
				"apiserver-0": {now(), now().Add(10100 * time.Millisecond)},
				"apiserver-1": {now(), now().Add(4 * time.Second), now().Add(10 * time.Second)},
			}
		}, file, dk, "not-covered", "at least 2 API servers renew Lease kube-system/apiserver-1, and 1 was asked"},
		"they renew at the same moment": {func(o *observation, _ *options) {
			o.Renewals = map[string][]time.Time{"apiserver-1": {now(), now().Add(300 * time.Millisecond)}}
		}, file, dk, "not-covered", "at least 2 API servers renew"},
		"each Lease has one that renews it": {func(o *observation, _ *options) {
			every(o, func(a *apiservers.Answer) { a.Conflicts = true })
			o.Renewals = map[string][]time.Time{"apiserver-1": {now(), now().Add(10 * time.Second), now().Add(20300 * time.Millisecond)}}
		}, file, yes, "", ""},
		"renewals were refused, and nobody watched": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Conflicts = true })
		}, file, dk, "not-watched", "nobody watched"},
		"one has just begun, and nobody watched": {func(o *observation, _ *options) {
			both(o, 1, func(a *apiservers.Answer) { a.Process = fmt.Sprint(now().Add(-20 * time.Second).Unix()) })
		}, file, dk, "not-watched", "nobody watched"},
		"one API server is enough where there is one": {func(o *observation, _ *options) {
			o.Before.Leases, o.After.Leases, o.Asked, o.After.Addresses, o.After.Nodes = o.Before.Leases[:1], o.After.Leases[:1], o.Asked[:1], o.After.Addresses[:1], 1
		}, file, yes, "", "the only API server writes"},
	} {
		t.Run(name, func(t *testing.T) {
			o, opts := three(), options{}
			if c.config != "" {
				opts = parse(t, c.config)
			}
			if c.change != nil {
				c.change(o, &opts)
			}
			r := apiservers.Judge(o, opts)
			if kinds := kindsOf(r); r.Verdict.Answer != c.want || kinds != c.kinds || !strings.Contains(r.Verdict.Text, c.text) {
				t.Errorf("%s, by %q; want %s, by %q and %q:\n%s", r.Verdict.Answer, kinds, c.want, c.kinds, c.text, r.Verdict.Text)
			}
		})
	}
}

// local makes all API servers have a configuration without KMS v2.
func local(o *observation, config string) {
	every(o, func(a *apiservers.Answer) { a.Keys, a.Config = nil, hash(config) })
}

func kindsOf(r *apiservers.Report) string {
	var kinds []string
	for _, reason := range r.Verdict.Reasons {
		if !slices.Contains(kinds, string(reason.Kind)) {
			kinds = append(kinds, string(reason.Kind))
		}
	}
	return strings.Join(kinds, " ")
}

// A probe is taken for what metrics cannot tell, and compared with what they do.
func TestJudgeOfAProbe(t *testing.T) {
	stored := func(format, provider, key string, unreadable ...string) *apiservers.Probe {
		p := &apiservers.Probe{}
		for i := range 3 {
			p.Stored = append(p.Stored, apiservers.Stored{
				Address: fmt.Sprintf("10.0.0.%d:6443", i), Resource: "secrets", Format: format, Provider: provider, KeyID: key, Unreadable: unreadable,
			})
		}
		return p
	}
	silent := func(o *observation) { every(o, func(a *apiservers.Answer) { a.Keys, a.Config, a.ID = nil, "", "" }) }
	lags := stored("aescbc", "k1", "")
	lags.Stored[1].Provider = "k0"
	left := stored("aescbc", "k1", "")
	left.NotProbed = []apiservers.NotProbed{{Resource: "pods", Reason: "a pod would run"}}
	partly := stored("aescbc", "k1", "")
	partly.Stored = partly.Stored[:2]
	aescbc := strings.Replace(file, `  - kms: {apiVersion: v2, name: aws, endpoint: "unix:///run/a.sock"}`+"\n", "", 1)
	for name, c := range map[string]struct {
		probe  *apiservers.Probe
		config string
		change func(*observation)
		want   apiservers.Outcome
		kinds  string
		text   string
	}{
		"aescbc of an old release":    {stored("aescbc", "k1", ""), aescbc, silent, apiservers.Converged, "", "by their number"},
		"aescbc, and one is not met":  {stored("aescbc", "k1", ""), aescbc, func(o *observation) { silent(o); o.Asked = o.Asked[:2] }, apiservers.NotKnown, "not-covered unidentified", ""},
		"one is held on the old key":  {lags, aescbc, silent, apiservers.NotConverged, "other-config differ", "10.0.0.0:6443, 10.0.0.2:6443 write under aescbc k1"},
		"none has the file's first":   {stored("aescbc", "k1", ""), file, silent, apiservers.NotConverged, "other-config", "first provider of enc.yaml"},
		"one is not probed":           {partly, aescbc, silent, apiservers.NotKnown, "no-config writer not-probed", ""},
		"KMS v1":                      {stored("kms v1", "aws", ""), strings.Replace(file, "v2", "v1", 1), silent, apiservers.NotKnown, "kms-v1", ""},
		"KMS v2 agrees with metrics":  {stored("kms v2", "aws", newKey), file, nil, apiservers.Converged, "", newKey},
		"KMS v2 lags behind metrics":  {stored("kms v2", "aws", oldKey), file, nil, apiservers.NotConverged, "differ", "its plugin has named"},
		"a resource is left out":      {left, aescbc, silent, apiservers.NotKnown, "no-config writer not-probed", "a pod would run"},
		"plaintext where it encrypts": {stored("plaintext", "", ""), file, nil, apiservers.NotConverged, "other-config", "under plaintext"},
		"others cannot read it":       {stored("aescbc", "k1", "", "10.0.0.1:6443"), aescbc, silent, apiservers.NotConverged, "differ", "cannot be read through 10.0.0.1:6443"},
	} {
		t.Run(name, func(t *testing.T) {
			o, opts := three(), parse(t, c.config)
			opts.Probe = c.probe
			if c.change != nil {
				c.change(o)
			}
			r := apiservers.Judge(o, opts)
			if kinds := kindsOf(r); r.Verdict.Answer != c.want || kinds != c.kinds || !strings.Contains(r.Verdict.Text, c.text) {
				t.Errorf("%s, by %q; want %s, by %q and %q:\n%s", r.Verdict.Answer, kinds, c.want, c.kinds, c.text, r.Verdict.Text)
			}
		})
	}
}
