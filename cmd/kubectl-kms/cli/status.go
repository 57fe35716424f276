package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers/live"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/controlplane"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
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
delete them, and to read etcd. Their names begin with ` + live.ProbePrefix + `.`,
		Example: `  kubectl kms status
  kubectl kms status --wait 10m
  kubectl kms status --probe --apiserver https://10.0.0.1:6443 \
    --apiserver https://10.0.0.2:6443`,
		Annotations: map[string]string{"exits": `  0    converged: all API servers write alike
  1    failed, or not known
  2    wrong usage or configuration
  3    not converged: API servers differ
  124  --wait waited in vain`},
		Args: noArguments, DisableFlagsInUseLine: true,
	}
	set := cmd.Flags()
	set.SortFlags = false
	f.kube.Define(set)
	set.StringArrayVar(&f.apiservers, "apiserver", nil, "`URL` of an API server, none of a load balancer; repeats (default what EndpointSlice default/kubernetes has)")
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with the EncryptionConfiguration of the API servers: which provider writes")
	f.defineManifest(set)
	set.DurationVar(&f.wait, "wait", 0, "`TIME` to wait until all write alike, such as 10m")
	set.BoolVar(&f.probe, "probe", false, "create, read in etcd and delete an object of each encrypted resource through each API server")
	f.defineEtcd(set)
	set.StringVarP(&f.output, "output", "o", "table", "`FORM` of the output: "+strings.Join(apiservers.Forms(), ", "))
	offer(cmd, "output", apiservers.Forms()...)
	offer(cmd, "wait", "2m", "10m")
	for _, flag := range []string{"apiserver", "context", "server", "endpoints", "prefix", "strip-prefix"} {
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
	if f.wait < 0 {
		mistakes = append(mistakes, "--wait: a time is not negative")
	}
	if !f.probe && (len(f.endpoints) > 0 || f.caCert != "" || f.cert != "" || f.key != "" || len(f.prefixes) > 0 || f.stripPrefix != "") {
		mistakes = append(mistakes, "--endpoints, --cacert, --cert, --key, --prefix and --strip-prefix say where --probe finds what it wrote: give --probe, or leave them out")
	}
	return mistakes
}

func checkAddresses(urls []string) (mistakes []string) {
	for _, url := range urls {
		if wrong := kube.CheckURL(url); wrong != "" {
			mistakes = append(mistakes, "--apiserver: "+wrong)
		}
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
		if err := f.probes(s, inq, running); err != nil {
			return nil, err
		}
	}
	return inq, inq.connect(s, f.kube)
}

// probes finds etcd for --probe.
func (f *statusFlags) probes(s Streams, inq *inquiry, running *controlplane.APIServer) error {
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

// manifestIfThere reads the manifest that is named, or kubeadm's where it is here and
// this user may read it.
func (f *etcdFlags) manifestIfThere() (*controlplane.APIServer, error) {
	a, err := controlplane.Read(cmp.Or(f.manifest, controlplane.DefaultManifest))
	switch {
	case err == nil:
		return &a, nil
	case f.manifest == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		return nil, nil
	}
	return nil, err
}

// An inquiry is what is asked of API servers, and how.
type inquiry struct {
	cluster   *live.Cluster
	addresses []string
	o         apiservers.Options
	v1        bool      // that nobody knows the key of KMS v1 keeps nobody from anything
	etcd      live.Etcd // nil: no probe
	probe     live.ProbeOptions
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

func readEncryptionConfig(file string) ([]byte, *encryptionconfig.Configuration, error) {
	data, err := os.ReadFile(file) //nolint:gosec // whoever runs this says which file
	if err != nil {
		return nil, nil, fmt.Errorf("reading the encryption configuration: %w", err)
	}
	config, err := encryptionconfig.Parse(data)
	if err != nil {
		return nil, nil, &usageError{mistakes: []string{report.Plain(file) + " is no encryption configuration that kube-apiserver takes: " + err.Error()}}
	}
	return data, config, nil
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
