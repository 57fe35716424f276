package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers/live"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

// waitPause is between two observations of --wait. A plugin's new key_id takes up to a
// minute to reach an API server; asking for health makes it ask.
const (
	waitPause      = 5 * time.Second
	waitPauseProbe = 20 * time.Second // where each writes objects
)

type statusFlags struct {
	etcdFlags

	kube               *kube.Flags
	apiservers         []string // addresses
	encryption, output string
	probe              bool
	expectOnly         string
	resources          []string
	wait               time.Duration
}

func newStatus(s Streams) *cobra.Command {
	f := statusFlags{kube: kube.NewFlags()}
	cmd := &cobra.Command{
		Use: "status [flags]", Short: "Say which key_id each API server writes",
		Long: `Asks every API server of the cluster by itself which encryption configuration
it has loaded and which key_id its KMS v2 plugins named last, and says whether
all of them write alike. That every one was asked is proved by their Leases.
It changes nothing, unless you give --probe.

--encryption-config says which provider writes a resource; on a control plane
node that kubeadm made it is found. Where metrics cannot tell, as with KMS v1,
or with Kubernetes below 1.34, the answer is "not known". --probe then creates
an object of each encrypted resource through each API server, reads in etcd
what it is stored under, and deletes it: it needs the rights to create and
delete them, and to read etcd. Their names begin with ` + live.ProbePrefix + `.

That all write alike does not say under which key: for a minute after a change
all may name the one before. --expect-only asks whether it is KEY.`,
		Example: `  kubectl kms status
  kubectl kms status --wait 10m --expect-only sha256:KEY_ID_HASH
  kubectl kms status --probe --apiserver https://10.0.0.1:6443 \
    --apiserver https://10.0.0.2:6443`,
		Annotations: map[string]string{"exits": `  0    converged: all API servers write alike, and as expected
  1    failed, or not known
  2    wrong usage or configuration
  3    not converged: API servers differ, or write under another key
  124  --wait waited in vain`},
		Args: noArguments, DisableFlagsInUseLine: true,
	}
	set := cmd.Flags()
	set.SortFlags = false
	f.kube.Define(set)
	set.StringArrayVar(&f.apiservers, "apiserver", nil, "`URL` of an API server, none of a load balancer; repeats (default what EndpointSlice default/kubernetes has)")
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with the EncryptionConfiguration of the API servers: which provider writes")
	f.defineManifest(set)
	set.StringVar(&f.expectOnly, "expect-only", "", "ask too whether all of them write under `KEY`: a key_id or its sha256:, as the plugin's own status prints them, a key's ARN where --probe is given, or provider:NAME")
	set.StringSliceVar(&f.resources, "resources", nil, "`RESOURCES` that --expect-only is about, separated by commas, as an EncryptionConfiguration names them (default all that are encrypted)")
	set.DurationVar(&f.wait, "wait", 0, "`TIME` to wait until all write alike, and as expected, such as 10m")
	set.BoolVar(&f.probe, "probe", false, "create, read in etcd and delete an object of each encrypted resource through each API server")
	f.defineEtcd(set)
	set.StringVarP(&f.output, "output", "o", "table", "`FORM` of the output: "+strings.Join(apiservers.Forms(), ", "))
	offer(cmd, "output", apiservers.Forms()...)
	offer(cmd, "expect-only", "provider:", "sha256:", "arn:aws:kms:")
	offer(cmd, "wait", "2m", "10m")
	for _, flag := range []string{"apiserver", "context", "server", "endpoints", "prefix", "strip-prefix", "resources"} {
		offer(cmd, flag)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return usage(cmd, f.run(cmd.Context(), s)) }
	return cmd
}

// check finds mistakes that need no file.
func (f *statusFlags) check() (mistakes []string) {
	mistakes = append(mistakes, checkAddresses(f.apiservers)...)
	mistakes = append(mistakes, f.checkPrefixes()...)
	if !slices.Contains(apiservers.Forms(), f.output) {
		mistakes = append(mistakes, fmt.Sprintf("--output: %.64q is none of %s", f.output, strings.Join(apiservers.Forms(), ", ")))
	}
	if _, err := expectation(f.expectOnly); err != nil {
		mistakes = append(mistakes, err.Error())
	}
	_, bad := checkResources(f.resources)
	mistakes = append(mistakes, bad...)
	if len(f.resources) > 0 && f.expectOnly == "" {
		mistakes = append(mistakes, "--resources says what --expect-only is about: give that too, or leave it out")
	}
	if f.wait < 0 {
		mistakes = append(mistakes, "--wait: a time is not negative")
	}
	if !f.probe && (len(f.endpoints) > 0 || f.caCert != "" || f.cert != "" || f.key != "" || len(f.prefixes) > 0 || f.stripPrefix != "") {
		mistakes = append(mistakes, "--endpoints, --cacert, --cert, --key, --prefix and --strip-prefix say where --probe finds what it wrote: give --probe, or leave them out")
	}
	return mistakes
}

func (f *statusFlags) run(ctx context.Context, s Streams) error {
	if mistakes := f.check(); len(mistakes) > 0 {
		return &usageError{mistakes: mistakes}
	}
	inq, err := f.inquiry(s)
	if err != nil {
		return err
	}
	r, err := inq.until(ctx, s, f.wait)
	if err != nil {
		return err
	}
	if err := r.Print(s.Out, f.output, s.OutTerminal); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	switch {
	case r.Verdict.Answer == apiservers.Converged:
		return nil
	case f.wait > 0 && !r.Verdict.Lasting:
		return exitError(Vain)
	case r.Verdict.Answer == apiservers.NotConverged:
		return exitError(Found)
	}
	return exitError(Failed)
}

// inquiry gathers what the question to API servers needs.
func (f *statusFlags) inquiry(s Streams) (*inquiry, error) {
	inq := &inquiry{addresses: f.apiservers}
	inq.o.Expect, _ = expectation(f.expectOnly) // checked, as the others are
	inq.o.Only, _ = checkResources(f.resources)
	running, err := f.manifestIfThere()
	if err != nil {
		return nil, err
	}
	err = inq.configuration(f.encryption, running)
	if err != nil && (f.encryption != "" || f.manifest != "" || !errors.Is(err, fs.ErrPermission)) { // it was not asked for, and is root's
		return nil, err
	}
	if f.probe {
		if inq.o.Config == nil {
			return nil, &usageError{mistakes: []string{"--probe writes what the API servers encrypt: give their file with --encryption-config"}}
		}
		if err := inq.probes(s, &f.etcdFlags, running); err != nil {
			return nil, err
		}
	}
	return inq, inq.connect(s, f.kube)
}

// until asks until all API servers write alike, or waiting changes nothing. An API server
// that is not there for a moment is waited for too.
func (inq *inquiry) until(ctx context.Context, s Streams, limit time.Duration) (*apiservers.Report, error) {
	w := &waiting{w: s.Err, terminal: s.ErrTerminal, start: time.Now(), limit: limit, each: waitPause}
	if inq.etcd != nil {
		w.each = waitPauseProbe
	}
	defer w.end()
	for {
		r, _, err := inq.ask(ctx)
		if err != nil && (limit == 0 || !passes(ctx, err)) {
			return nil, err
		}
		late := time.Since(w.start) >= limit
		switch {
		case err != nil && late:
			s.complain(err.Error())
			return nil, exitError(Vain)
		case err == nil && (late || r.Verdict.Answer == apiservers.Converged || r.Verdict.Lasting):
			return r, nil
		}
		if err := w.pause(ctx, why(r, err)); err != nil {
			return nil, interrupted(err)
		}
	}
}

// passes reports whether waiting may help: not where a right is missing, or something was
// left behind.
func passes(ctx context.Context, err error) bool {
	_, ok := errors.AsType[*store.Error](err)
	return ctx.Err() == nil && ok && !kube.Refused(err) && !strings.Contains(err.Error(), "left behind")
}

// why is what is waited for.
func why(r *apiservers.Report, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case len(r.Verdict.Reasons) > 0:
		return string(r.Verdict.Answer) + ": " + r.Verdict.Reasons[0].Text
	}
	return string(r.Verdict.Answer)
}
