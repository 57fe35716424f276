package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/controlplane"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/kube"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/patch"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/worklist"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
)

type migrateFlags struct {
	etcdFlags

	kube               *kube.Flags
	encryption, output string
	resources          []string
	apiServers         []string

	dryRun, objects, withoutEtcd, probe bool

	expectOnly      string
	workers, inARow int
	rate            float64
}

func newMigrate(s Streams) *cobra.Command {
	f := migrateFlags{kube: kube.NewFlags()}
	cmd := &cobra.Command{
		Use: "migrate [flags]", Short: "Rewrite what is not stored under the key that writes",
		Long: `Has API servers write again, as it is, each object that is stored otherwise
than they would store it now: after a rotation, or after another provider became
the first. What is stale it reads in etcd, and afterwards it reads etcd again:
only what is there counts.

It begins only when all API servers write alike, as "kubectl kms status" sees
it, and with --expect-only under that key. Where their metrics do not tell,
--probe tries it with an object of each resource. No value of a Secret is asked
for, and no object is created.

Mutating webhooks and policies see each object, and may change it. They are
named before. Take a backup of etcd first: what they change comes back from
nowhere else.

Ctrl-C ends it after the requests that are under way. Nothing has to be cleaned
up: the next run finds what is left.`,
		Example: `  kubectl kms migrate --dry-run
  kubectl kms migrate --expect-only sha256:KEY_ID_HASH
  kubectl kms migrate --probe --rate 200 --workers 8`,
		Annotations: map[string]string{"exits": `  0  nothing stale is left
  1  failed, refused to begin, or not known whether anything stale is left
  2  wrong usage or configuration
  3  something stale is left that needs you`},
		Args: noArguments, DisableFlagsInUseLine: true,
	}
	set := cmd.Flags()
	set.SortFlags = false
	set.BoolVar(&f.dryRun, "dry-run", false, "list what would be rewritten, and send nothing")
	f.defineAddress(set)
	f.defineManifest(set)
	manifest := set.Lookup("apiserver-manifest")
	manifest.Usage = strings.Replace(manifest.Usage, "neither --snapshot nor --endpoints is", "--endpoints is not", 1)
	f.definePrefixes(set)
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with kube-apiserver's EncryptionConfiguration, which says what is stale (default the manifest's)")
	f.kube.Define(set)
	set.StringArrayVar(&f.apiServers, "apiserver", nil, "`URL` of an API server, none of a load balancer; repeats (default what EndpointSlice default/kubernetes has)")
	set.BoolVar(&f.probe, "probe", false, "create an object of each encrypted resource through each API server, read it in etcd and delete it, where metrics do not tell what they write under")
	set.StringVar(&f.expectOnly, "expect-only", "", "begin only when all API servers write under `KEY`, as status asks it")
	set.StringSliceVar(&f.resources, "resources", nil, "`RESOURCES` to rewrite, separated by commas, as an EncryptionConfiguration names them (default all that are stale)")
	set.IntVar(&f.workers, "workers", rewrite.DefaultWorkers, "`NUMBER` of requests at once")
	set.Float64Var(&f.rate, "rate", rewrite.DefaultRate, "requests a second at most: `NUMBER`. It halves where an API server is slow, and recovers")
	set.IntVar(&f.inARow, "stop-after", rewrite.DefaultInARow, "`NUMBER` of failures in a row that end it")
	set.BoolVar(&f.withoutEtcd, "without-etcd", false, "send every object of what is encrypted, from where no etcd can be reached; proves nothing, and exits 1")
	set.BoolVar(&f.objects, "objects", false, "list all objects that are left or changed, and not only the first of each kind")
	set.StringVarP(&f.output, "output", "o", "table", "`FORM` of the output: "+strings.Join(rewrite.Forms(), ", "))
	offer(cmd, "output", rewrite.Forms()...)
	offer(cmd, "expect-only", "provider:", "sha256:", "arn:aws:kms:")
	for _, flag := range []string{"endpoints", "prefix", "strip-prefix", "resources", "apiserver", "workers", "rate", "stop-after"} {
		offer(cmd, flag)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd, s) }
	return cmd
}

// mistakes are those of flags that need no file.
func (f *migrateFlags) mistakes() (o audit.Options, mistakes []string) {
	o, mistakes = (&auditFlags{etcdFlags: f.etcdFlags, output: f.output, resources: f.resources}).options()
	wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Sprintf(format, args...)) }
	if _, err := expectation(f.expectOnly); err != nil {
		wrong("%s", err)
	}
	if f.workers < 1 {
		wrong("--workers is %d: want 1 or more", f.workers)
	}
	if f.rate <= 0 {
		wrong("--rate is %g: want more than 0", f.rate)
	}
	if f.inARow < 1 {
		wrong("--stop-after is %d: want 1 or more", f.inARow)
	}
	if f.withoutEtcd && (len(f.endpoints) > 0 || f.manifest != "" || f.caCert != "" || f.cert != "" || f.key != "" || len(f.prefixes) > 0 || f.stripPrefix != "") {
		wrong("--without-etcd and a flag that says where etcd is: give one of them")
	}
	if f.withoutEtcd && f.encryption == "" {
		wrong("%s", needsConfig)
	}
	if f.withoutEtcd && f.probe {
		wrong("--probe reads what it wrote in etcd: it does not go with --without-etcd")
	}
	return o, append(mistakes, checkAddresses(f.apiServers)...)
}

const needsConfig = "what is stale is not known without kube-apiserver's encryption configuration: give it by --encryption-config"

func (f *migrateFlags) run(cmd *cobra.Command, s Streams) error {
	o, mistakes := f.mistakes()
	if len(mistakes) > 0 {
		return &usageError{mistakes, cmd.CommandPath()}
	}
	m := &migration{f: f, s: s, audit: o}
	defer m.close()
	if err := m.prepare(cmd); err != nil {
		return usage(cmd, err)
	}
	r, err := m.rewrite(cmd.Context())
	if err != nil {
		if cmd.Context().Err() != nil && !strings.Contains(err.Error(), "left behind") { // by a probe
			return errors.New("interrupted: nothing was sent, and nothing was changed")
		}
		return err
	}
	if err := r.Print(s.Out, rewrite.PrintOptions{Form: f.output, Wrap: s.OutTerminal, All: f.objects}); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return exitOfMigration(r)
}

// exitOfMigration is the exit code of a report that has been printed.
func exitOfMigration(r *rewrite.Report) error {
	switch r.Result {
	case rewrite.Clean:
		return nil
	case rewrite.LeftOver:
		return exitError(Found)
	case rewrite.Planned:
		if len(r.Reasons) == 0 {
			return nil
		}
	case rewrite.NotKnown, rewrite.NotProved, rewrite.Refused, rewrite.Interrupted, rewrite.Stopped:
	}
	return exitError(Failed)
}

// A migration is one run of the command.
type migration struct {
	f     *migrateFlags
	s     Streams
	audit audit.Options

	file    string // the encryption configuration
	target  *target
	cluster *kube.Cluster
	lister  rewrite.Lister
	patcher *patch.Client
	gate    *gate
	timeout time.Duration // of a request
	point   Point
}

func (m *migration) close() {
	if m.point != nil {
		m.point.Close()
	}
}

// prepare finds everything, and connects to nothing but etcd.
func (m *migration) prepare(cmd *cobra.Command) error {
	var err error
	if m.cluster, err = m.f.kube.Cluster(kubeOptions(m.s)); err != nil {
		return err
	}
	var running *controlplane.APIServer
	if !m.f.withoutEtcd {
		if m.target, err = m.f.liveTarget(m.s); err != nil {
			return err
		}
		running = m.target.apiServer
	}
	m.file = m.f.encryption
	if running != nil {
		m.file = cmp.Or(m.file, running.EncryptionConfig)
	}
	if m.file == "" {
		return &usageError{mistakes: []string{needsConfig}}
	}
	if err := (&auditFlags{encryption: m.file}).complete(&m.audit, running); err != nil {
		return err
	}
	if !slices.ContainsFunc(m.audit.Config.Resources, encryptionconfig.Resource.Encrypts) && m.f.withoutEtcd {
		return &usageError{mistakes: []string{m.file + " encrypts nothing"}}
	}
	m.timeout = rewrite.DefaultTimeout
	if cmd.Flags().Changed("request-timeout") {
		m.timeout = m.cluster.Config().Timeout
	}
	if err := m.client(); err != nil {
		return err
	}
	if m.gate, err = m.newGate(running); err != nil {
		return err
	}
	if err := m.list(cmd.Context()); err != nil {
		return err
	}
	return m.oneCluster(cmd.Context())
}

// liveTarget says where etcd is.
func (f *migrateFlags) liveTarget(s Streams) (*target, error) {
	t, err := f.target(s)
	if wrong, ok := errors.AsType[*usageError](err); ok && f.manifest == "" {
		wrong.mistakes = []string{
			controlplane.DefaultManifest + " is not here, so nobody knows where etcd is: run this on a control plane node, or say where etcd is with --endpoints. Where no etcd can be reached, --without-etcd sends everything and proves nothing",
		}
	}
	return t, err
}

// client makes the one that sends objects.
func (m *migration) client() error {
	config := m.cluster.Config()
	config.Timeout = 0 // each request has a limit of its own
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("%s: %w", m.cluster.From, err)
	}
	text := config.Host
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	base, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: the address of the API server is no URL", m.cluster.From)
	}
	m.patcher = patch.New(client, base)
	return nil
}

// list makes the lister.
func (m *migration) list(ctx context.Context) error {
	if m.f.withoutEtcd {
		m.lister = &patch.List{Client: m.patcher, Config: m.audit.Config, Resources: m.audit.Resources}
		return nil
	}
	resources := m.audit.Resources
	m.audit.Resources = nil // those of a question
	m.audit.Progress = &audit.Progress{}
	m.audit.Aggregated = m.patcher.Aggregated
	places, err := m.target.open(m.s, m.audit.Progress)
	if err != nil {
		return err
	}
	if m.point, err = m.s.Stores.Point(ctx, *m.target.etcd, m.audit.EtcdPrefixes()); err != nil {
		return rootsAdvice(err)
	}
	m.lister = &worklist.List{Reader: places[0].Reader, Getter: m.point, Options: m.audit, Resources: resources}
	return nil
}

// rewrite runs it, and shows how far it is.
func (m *migration) rewrite(ctx context.Context) (*rewrite.Report, error) {
	b := &migrateBar{of: &rewrite.Progress{}, list: m.audit.Progress}
	stop := m.show(ctx, b)
	defer func() { stop() }()
	return rewrite.Run(ctx, rewrite.Options{
		DryRun: m.f.dryRun, Workers: m.f.workers, Rate: m.f.rate, InARow: m.f.inARow, Timeout: m.timeout, Progress: b.of,
		Announce: func(r *rewrite.Report) error {
			stop() // no bar between the lines of the plan
			err := r.PrintPlan(m.planTo(), m.planWrap())
			stop = m.show(ctx, b)
			return err
		},
	}, m.gate, m.lister, m.patcher, m.patcher)
}

// show shows how far it is, until stop, which may be called twice.
func (m *migration) show(ctx context.Context, b *migrateBar) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	shown := make(chan struct{})
	go func() { // ends with ctx
		defer close(shown)
		show(ctx, m.s.Err, m.s.ErrTerminal, b.bar, b.text)
	}()
	return func() {
		cancel()
		<-shown
	}
}

// planTo is where the plan is printed: a program reads one document from Out.
func (m *migration) planTo() io.Writer {
	if m.f.output == "table" {
		return m.s.Out
	}
	return m.s.Err
}

func (m *migration) planWrap() bool {
	if m.f.output == "table" {
		return m.s.OutTerminal
	}
	return m.s.ErrTerminal
}
