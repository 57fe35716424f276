package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/controlplane"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

type auditFlags struct {
	etcdFlags

	kube       *kube.Flags
	apiservers []string // addresses

	encryption, output       string
	resources                []string
	expectOnly, expectUnused string
	objects                  bool
}

func newAudit(s Streams) *cobra.Command {
	f := auditFlags{kube: kube.NewFlags()}
	cmd := &cobra.Command{
		Use: "audit [flags]", Short: "Count what etcd stores, by the key that protects it",
		Long: `Reads all objects in etcd, or in snapshots of it, and counts them by resource
and by what protects them. Answers whether all objects are under one key, or
none is under another. It looks into no object, and changes nothing.

On a control plane node that kubeadm made it needs no flag, but root, whose
etcd's certificates are: it reads the flags of kube-apiserver in
` + controlplane.DefaultManifest + `.

KEY is a key's ARN, a key_id, its sha256: as API servers' metrics have it,
provider:NAME, or plaintext. The question is about the resources that the
encryption configuration encrypts, or about --resources. API servers go on
writing while etcd is read: where a kubeconfig is found or named, each is
asked which key it writes under, as by kubectl kms status.`,
		Example: `  kubectl kms audit
  kubectl kms audit --expect-unused arn:aws:kms:us-west-2:111122223333:key/4321
  kubectl kms audit --snapshot backup.db --resources secrets \
    --expect-only provider:aws-encryption-provider`,
		Annotations: map[string]string{"exits": `  0  done, or yes to the question
  1  failed, not all was read, or the answer is not known
  2  wrong usage or configuration
  3  no to the question`},
		Args: noArguments, DisableFlagsInUseLine: true,
	}
	set := cmd.Flags()
	set.SortFlags = false
	f.define(set)
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with kube-apiserver's EncryptionConfiguration: which objects are stale, and what a question is about")
	set.StringSliceVar(&f.resources, "resources", nil, "`RESOURCES` that a question is about, separated by commas, as an EncryptionConfiguration names them")
	set.StringVar(&f.expectOnly, "expect-only", "", "ask whether everything is under `KEY`")
	set.StringVar(&f.expectUnused, "expect-unused", "", "ask whether nothing is under `KEY`")
	f.kube.Define(set)
	set.StringArrayVar(&f.apiservers, "apiserver", nil, "`URL` of an API server to ask, none of a load balancer; repeats (default what EndpointSlice default/kubernetes has)")
	set.BoolVar(&f.objects, "objects", false, "list objects too: with a question those that speak against yes, else all")
	set.StringVarP(&f.output, "output", "o", "table", "`FORM` of the output: "+strings.Join(audit.Forms(), ", "))
	offer(cmd, "output", audit.Forms()...)
	offer(cmd, "expect-only", "provider:", "plaintext", "arn:aws:kms:")
	offer(cmd, "expect-unused", "provider:", "plaintext", "arn:aws:kms:")
	for _, flag := range []string{"endpoints", "prefix", "strip-prefix", "resources", "apiserver", "context", "server"} {
		offer(cmd, flag)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd, s) }
	return cmd
}

// prepare turns the flags, with what is wrong with those of the command's own, into
// what to read and what to ask.
func (f *auditFlags) prepare(s Streams, wrong ...string) (o audit.Options, t *target, err error) {
	o, mistakes := f.options()
	if mistakes = append(mistakes, wrong...); len(mistakes) > 0 {
		return o, nil, &usageError{mistakes: mistakes}
	}
	if t, err = f.target(s); err != nil {
		return o, nil, err
	}
	if err := f.complete(&o, t.apiServer); err != nil {
		return o, nil, err
	}
	if o.Question != nil && len(o.Resources) == 0 && o.Config == nil {
		return o, nil, &usageError{mistakes: []string{audit.ErrScope.Error()}}
	}
	return o, t, nil
}

func (f *auditFlags) run(cmd *cobra.Command, s Streams) error {
	o, target, err := f.prepare(s)
	if err != nil {
		return usage(cmd, err)
	}
	o.Progress = &audit.Progress{}
	places, err := target.open(s, o.Progress)
	if err != nil {
		return err
	}
	if o.Question != nil && target.etcd != nil && f.kube.Named(kubeOptions(s)) {
		o.AskAPIServers = f.asker(cmd.Context(), s, o)
	}
	r, err := read(cmd.Context(), s, places, o)
	if errors.Is(err, audit.ErrScope) {
		return usage(cmd, &usageError{mistakes: []string{err.Error()}})
	}
	if err != nil {
		return err
	}
	if err := r.Print(s.Out, audit.PrintOptions{Form: f.output, Wrap: s.OutTerminal}); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return verdict(r)
}

// asker asks API servers now, before etcd is read, and returns what asks them again
// afterwards: in between, none of them may have begun to write otherwise.
func (f *auditFlags) asker(ctx context.Context, s Streams, o audit.Options) audit.Asker {
	inq := &inquiry{addresses: f.apiservers}
	inq.o.Config, inq.o.ConfigName, inq.o.ConfigHash = o.Config, o.ConfigName, o.ConfigHash
	failed := func(err error) audit.APIServers {
		return audit.APIServers{Text: "asked in vain: " + report.Clip(strings.TrimSuffix(err.Error(), "."), 1024)}
	}
	err := inq.connect(s, f.kube)
	if err != nil {
		return func(context.Context) audit.APIServers { return failed(err) }
	}
	before, seen, err := inq.ask(ctx)
	return func(ctx context.Context) audit.APIServers {
		if err != nil {
			return failed(err)
		}
		after, again, err := inq.ask(ctx)
		if err != nil {
			return failed(err)
		}
		said := summary(before, after, apiservers.Same(seen, again))
		said.Leases = revisions(seen.After.Leases, again.Before.Leases)
		return said
	}
}

// summary is what two reports say together.
func summary(before, after *apiservers.Report, same bool) audit.APIServers {
	for _, r := range []*apiservers.Report{before, after} {
		if r.Verdict.Answer != apiservers.Converged {
			return audit.APIServers{Text: strings.TrimSuffix(r.Verdict.Text, ".")}
		}
	}
	if !same {
		return audit.APIServers{Text: "not known: one of them has restarted, or was given another configuration, while etcd was read"}
	}
	said := audit.APIServers{Converged: true, Text: "asked before and after, " + strings.TrimSuffix(after.Verdict.Text, ".")}
	for _, w := range after.APIServers[0].Writes {
		said.Writes = append(said.Writes, audit.WrittenUnder{Resource: w.Resource, Format: w.Format, Provider: w.Provider, KeyIDHash: w.KeyIDHash})
		if !slices.ContainsFunc(before.APIServers[0].Writes, func(o apiservers.Write) bool { return o == w }) {
			return audit.APIServers{Text: "not known: they went over to another key while etcd was read"}
		}
	}
	return said
}

// verdict is the exit code of a report that has been printed.
func verdict(r *audit.Report) error {
	switch {
	case r.Verdict == nil && r.Complete():
		return nil
	case r.Verdict == nil:
		return exitError(Failed)
	}
	return exitOf(r.Verdict.Answer)
}

// exitOf is the exit code of an answer that has been printed.
func exitOf(a audit.Answer) error {
	switch a {
	case audit.Yes:
		return nil
	case audit.No:
		return exitError(Found)
	case audit.NotKnown:
	}
	return exitError(Failed)
}

// options reads the flags that need no file.
func (f *auditFlags) options() (o audit.Options, mistakes []string) {
	wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Sprintf(format, args...)) }
	o = audit.Options{
		Prefixes: f.prefixes, StripPrefix: strings.TrimSuffix(f.stripPrefix, "/"), Objects: f.objects,
	}
	if !slices.Contains(audit.Forms(), f.output) {
		wrong("--output: %.64q is none of %s", f.output, strings.Join(audit.Forms(), ", "))
	}
	mistakes = append(mistakes, f.checkPrefixes()...)
	names, bad := checkResources(f.resources)
	o.Resources = names
	mistakes = append(append(mistakes, bad...), checkAddresses(f.apiservers)...)
	text, only := f.expectUnused, false
	if f.expectOnly != "" {
		text, only = f.expectOnly, true
	}
	switch {
	case f.expectOnly != "" && f.expectUnused != "":
		wrong("--expect-only and --expect-unused are two questions: ask one at a time")
	case text != "":
		q := &audit.Question{Only: only}
		key, err := audit.ParseKey(text)
		if err != nil {
			wrong("--%s: the key %v", q, err)
		}
		q.Key = key
		o.Question = q
	}
	if len(f.snapshots) > 0 && len(f.endpoints) == 0 && (f.caCert != "" || f.cert != "" || f.key != "") {
		wrong("--cacert, --cert and --key are for an etcd, and only snapshots are read: leave them out, or add --endpoints")
	}
	return o, mistakes
}

// complete adds what files say.
func (f *auditFlags) complete(o *audit.Options, a *controlplane.APIServer) error {
	file := f.encryption
	if a != nil {
		for _, override := range a.Overrides {
			o.Elsewhere = append(o.Elsewhere, strings.TrimSuffix(override.Resource+"."+override.Group, "."))
		}
		if len(o.Prefixes) == 0 {
			o.Prefixes = []string{a.Prefix}
		}
		file = cmp.Or(file, a.EncryptionConfig)
	}
	if file == "" {
		return nil
	}
	data, config, err := readEncryptionConfig(file)
	o.Config, o.ConfigName, o.ConfigHash = config, file, apiservers.HashOf(data)
	return err
}

// read runs the audit and shows how far it is.
func read(ctx context.Context, s Streams, places []place, o audit.Options) (*audit.Report, error) {
	start := time.Now()
	t := &ticker{w: s.Err, terminal: s.ErrTerminal, progress: o.Progress, began: func() time.Time { return start }}
	all := t.reads(places)
	var r *audit.Report
	var err error
	t.during(ctx, func() { r, err = audit.Run(ctx, all, o) })
	if err != nil && ctx.Err() != nil {
		keys, _ := o.Progress.Keys()
		return nil, fmt.Errorf("interrupted: %s of %s had been read, and nothing was changed; there is no verdict on a part: run it again", report.Plural(keys, "key", "keys"), t.place())
	}
	return r, err
}
