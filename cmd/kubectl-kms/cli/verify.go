package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/time/rate"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/unwrap"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/verify"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

// usualRate is a five-hundredth of the least quota of KMS, which all API servers of an
// account and Region share.
const usualRate = 20

type verifyFlags struct {
	auditFlags

	config   string
	keys     keyFlag
	reading  []string // --decrypt-key
	contexts []string
	others   map[string]*string // of the plugin, which go to it as they are

	sockets []string
	sample  int
	rate    float64
	open    bool
}

// keyFlag is --key, which etcdctl has for a file and the plugin for a key of KMS: a file
// has no name that begins as an ARN does.
type keyFlag struct {
	file *string
	arns []string
}

// Set takes one value.
func (k *keyFlag) Set(value string) error {
	switch {
	case value == "": // else who is asked would be another
		return errEmpty
	case strings.HasPrefix(value, "arn:"):
		k.arns = append(k.arns, strings.Split(value, ",")...)
		return nil
	}
	*k.file = value
	return nil
}

// String returns nothing: there is no default.
func (*keyFlag) String() string { return "" }

// Type is what pflag calls it.
func (*keyFlag) Type() string { return "key" }

func newVerify(s Streams) *cobra.Command {
	f := verifyFlags{others: map[string]*string{}}
	cmd := &cobra.Command{
		Use: "verify [flags]", Short: "Prove that the keys open what etcd stores",
		Long: `Reads all objects in etcd, or in snapshots of it, and has each wrapped DEK and
DEK seed unwrapped once. Says which keys are needed, whether each of them can
be used, and what cannot be read. It changes nothing, and prints nothing of
any object.

Who unwraps is one of these:
  --config FILE  the plugin's keys, called from here as the plugin calls them
  --key ARN      keys of KMS, with the plugin's other flags
  --socket PATH  a plugin that runs, of any kind
With none of them, the plugins that the encryption configuration names. KMS is
called at most --rate times a second, since API servers share its quota.`,
		Example: `  kubectl kms verify
  kubectl kms verify --config /etc/aws-encryption-provider/config.yaml
  kubectl kms verify --snapshot backup.db --open --encryption-config enc.yaml \
    --key arn:aws:kms:us-west-2:111122223333:key/4321`,
		Annotations: map[string]string{"exits": `  0  all that was read can be read, or yes to the question
  1  failed, not all was read or tried, or the answer is not known
  2  wrong usage or configuration
  3  something cannot be read, or no to the question`},
		Args: noArguments, DisableFlagsInUseLine: true,
	}
	f.define(cmd.Flags())
	offer(cmd, "output", audit.Forms()...)
	for _, flag := range []string{"expect-only", "expect-unused"} {
		offer(cmd, flag, "provider:", "plaintext", "arn:aws:kms:")
	}
	for _, flag := range []string{"endpoints", "prefix", "strip-prefix", "resources", "decrypt-key", "encryption-context", "region", "kms-endpoint", "assume-role-arn", "external-id", "source-arn", "sample", "rate"} {
		offer(cmd, flag)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd, s) }
	return cmd
}

func (f *verifyFlags) define(set *pflag.FlagSet) {
	set.SortFlags = false
	f.etcdFlags.define(set)
	f.keys.file = &f.etcdFlags.key
	key := set.Lookup("key")
	key.Value, key.Usage = &f.keys, "`FILE` with that certificate's private key ($ETCDCTL_KEY); or the ARN of a KMS key that unwraps, which repeats"
	set.StringVar(&f.config, "config", "", "`FILE` of the plugin's own --config, whose keys unwrap")
	set.StringArrayVar(&f.sockets, "socket", nil, "`PATH` of the socket of a running plugin that unwraps, or @name; repeats")
	set.StringSliceVar(&f.reading, "decrypt-key", nil, "further `KEY` beside --key, as the plugin takes it; repeats")
	set.StringArrayVar(&f.contexts, "encryption-context", nil, "encryption context `a=b,c=d`; repeats: the n-th belongs to the n-th --key")
	for _, other := range []struct{ name, usage string }{
		{"region", "AWS `REGION` of keys that are no ARN"},
		{"kms-endpoint", "`URL` of the KMS endpoint; default: AWS's of the Region"},
		{"assume-role-arn", "`ARN` of a role to assume for calling KMS"},
		{"external-id", "external `ID` for --assume-role-arn"},
		{"source-arn", "`ARN` for the confused-deputy headers"},
	} {
		f.others[other.name] = set.String(other.name, "", other.usage)
	}
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with kube-apiserver's EncryptionConfiguration: local keys, who serves which name, and what nobody reads")
	set.BoolVar(&f.open, "open", false, "open each object too, in memory")
	set.IntVar(&f.sample, "sample", 0, "ask for `NUMBER` DEKs of KMS v1 of each resource and provider only, which proves nothing of the others (exit code 1)")
	set.Float64Var(&f.rate, "rate", usualRate, "`CALLS` of KMS or of the plugin in a second, at most")
	set.StringSliceVar(&f.resources, "resources", nil, "`RESOURCES` to verify alone, separated by commas, as an EncryptionConfiguration names them")
	set.StringVar(&f.expectOnly, "expect-only", "", "ask too whether everything is under `KEY`, as audit does")
	set.StringVar(&f.expectUnused, "expect-unused", "", "ask too whether nothing is under `KEY`, as audit does")
	set.StringVarP(&f.output, "output", "o", "table", "`FORM` of the output: "+strings.Join(audit.Forms(), ", "))
}

func (f *verifyFlags) run(cmd *cobra.Command, s Streams) error {
	ao, target, err := f.prepare(s, f.mistakes()...)
	if err != nil {
		return usage(cmd, err)
	}
	o := verify.Options{Audit: ao, Open: f.open, Sample: f.sample, Progress: &verify.Progress{}}
	opener, closed, err := f.opener(cmd.Context(), s, ao.Config, ao.ConfigName)
	if err != nil {
		return usage(cmd, err)
	}
	defer closed()
	o.Opener = opener
	places, err := target.open(s, &o.Progress.Reading)
	if err != nil {
		return err
	}
	r, err := proven(cmd.Context(), s, places, o)
	if errors.Is(err, audit.ErrScope) {
		return usage(cmd, &usageError{mistakes: []string{err.Error()}})
	}
	if err != nil {
		return err
	}
	if err := r.Print(s.Out, audit.PrintOptions{Form: f.output, Wrap: s.OutTerminal}); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return exitOf(r.Verdict.Answer)
}

// mistakes are those of the flags that audit has not.
func (f *verifyFlags) mistakes() (mistakes []string) {
	wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Sprintf(format, args...)) }
	ways := 0
	for _, given := range []bool{f.config != "", len(f.keys.arns)+len(f.reading) > 0, len(f.sockets) > 0} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		wrong("--config, --key and --socket are three ways to ask: give one of them")
	}
	if ref, err := keyref.Parse(f.etcdFlags.key); err == nil && !ref.IsARN() {
		wrong("--key: %.64q is a key of KMS without its ARN, or a file: give the key's ARN, or write the file as ./%.64s", f.etcdFlags.key, f.etcdFlags.key)
	}
	if len(f.keys.arns) == 0 {
		if len(f.reading) > 0 {
			wrong("--decrypt-key stands beside --key: give the first key as --key")
		}
		for _, name := range f.given() {
			wrong("--%s says how the keys of --key are called, and there is none", name)
		}
	}
	if f.sample < 0 {
		wrong("--sample: a number of DEKs is above 0, or 0 for all")
	}
	if f.rate <= 0 || math.IsNaN(f.rate) || math.IsInf(f.rate, 0) {
		wrong("--rate: give a number of calls in a second above 0")
	}
	return mistakes
}

// given are the flags that say how keys are called.
func (f *verifyFlags) given() (names []string) {
	if len(f.contexts) > 0 {
		names = append(names, "encryption-context")
	}
	for name, value := range f.others {
		if *value != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// opener is who unwraps. There is nobody where only local keys are given.
func (f *verifyFlags) opener(ctx context.Context, s Streams, enc *encryptionconfig.Configuration, name string) (o verify.Opener, closed func(), err error) {
	limiter := rate.NewLimiter(rate.Limit(f.rate), 1)
	gate := func(ctx context.Context) error { return limiter.Wait(ctx) }
	var serving unwrap.Serving
	sockets := f.sockets
	if enc != nil {
		serving = socketsOf(enc)
	}
	closed = func() {}
	switch {
	case f.config != "":
		cfg, err := unwrap.ConfigFile(f.config)
		if err != nil {
			return nil, nil, refused(err)
		}
		keys := unwrap.NewKeys(cfg, "the keys of "+f.config, s.version(), serving, gate)
		return keys, keys.Close, nil
	case len(f.keys.arns) > 0:
		cfg, err := unwrap.ConfigFlags(f.keys.arns, f.contexts, f.pluginFlags())
		if err != nil {
			return nil, nil, refused(err)
		}
		keys := unwrap.NewKeys(cfg, report.Plural(int64(len(f.keys.arns)+len(f.reading)), "key", "keys")+" of --key", s.version(), nil, gate)
		return keys, keys.Close, nil
	case len(sockets) == 0:
		if sockets = kmsSockets(enc); len(sockets) == 0 && enc != nil {
			return nil, closed, nil
		}
	}
	if len(sockets) == 0 {
		return nil, nil, &usageError{mistakes: []string{"say who unwraps, with --config, --key or --socket, or give the file that names the plugins with --encryption-config"}}
	}
	opener, err := unwrap.NewSockets(ctx, sockets, serving, gate)
	if err != nil && len(f.sockets) == 0 {
		return nil, nil, fmt.Errorf("%w (it is a plugin of %s; --config and --key ask no plugin)", err, report.Plain(name))
	}
	if err != nil {
		return nil, nil, err
	}
	return opener, opener.Close, nil
}

// refused makes a usage error of what is wrong with a configuration.
func refused(err error) error {
	if found, ok := errors.AsType[unwrap.Mistakes](err); ok {
		return &usageError{mistakes: found}
	}
	return err
}

// pluginFlags are the plugin's own, beside --key.
func (f *verifyFlags) pluginFlags() (args []string) {
	for _, key := range f.reading {
		args = append(args, "--decrypt-key="+key)
	}
	for _, name := range f.given() {
		if value := f.others[name]; value != nil {
			args = append(args, "--"+name+"="+*value)
		}
	}
	return args
}

// socketsOf says who serves which entry of a configuration.
func socketsOf(enc *encryptionconfig.Configuration) unwrap.Serving {
	type entry struct{ version, name string }
	sockets := map[entry]string{}
	eachKMS(enc, func(k *encryptionconfig.KMS) { sockets[entry{k.Version(), k.Name}] = k.Socket() })
	return func(version, name string) string { return sockets[entry{version, name}] }
}

func kmsSockets(enc *encryptionconfig.Configuration) (sockets []string) {
	if enc == nil {
		return nil
	}
	eachKMS(enc, func(k *encryptionconfig.KMS) {
		if socket := k.Socket(); socket != "" && !slices.Contains(sockets, socket) {
			sockets = append(sockets, socket)
		}
	})
	return sockets
}

func eachKMS(enc *encryptionconfig.Configuration, visit func(*encryptionconfig.KMS)) {
	for _, r := range enc.Resources {
		for _, p := range r.Providers {
			if p.KMS != nil {
				visit(p.KMS)
			}
		}
	}
}

// proven runs verify and shows how far it is.
func proven(ctx context.Context, s Streams, places []place, o verify.Options) (*verify.Report, error) {
	t := &ticker{w: s.Err, terminal: s.ErrTerminal, progress: &o.Progress.Reading, began: o.Progress.Began}
	all := t.reads(places)
	t.other = func() *view { return unwrapping(o.Progress) }
	var r *verify.Report
	var err error
	t.during(ctx, func() { r, err = verify.Run(ctx, all, o) })
	if err != nil && ctx.Err() != nil {
		keys, _ := o.Progress.Reading.Keys()
		done, _ := o.Progress.Unwrapped()
		return nil, fmt.Errorf("interrupted: %s had been read, and %s asked for; nothing was changed; there is no verdict on a part: run it again",
			report.Plural(keys, "key", "keys"), report.Plural(done, "DEK or seed", "DEKs and seeds"))
	}
	return r, err
}

// unwrapping is what to show while no place is read; nil while one is.
func unwrapping(p *verify.Progress) *view {
	switch p.Phase() {
	case verify.Collecting, verify.Opening:
		return nil
	case verify.Describing:
		return &view{what: "keys", text: "asking for the state of each"}
	case verify.Unwrapping:
	}
	const what = "DEKs and seeds"
	done, total := p.Unwrapped()
	took := time.Since(p.Began())
	out := &view{what: what, text: fmt.Sprintf("%s of %s, %.1f/s", report.Count(done), report.Plural(total, "DEK or seed", what), float64(done)/max(took.Seconds(), 1))}
	if done > 0 && total > 0 {
		out.fraction = float64(done) / float64(total)
		left := time.Duration(float64(took) * (1 - out.fraction) / out.fraction).Round(time.Second)
		out.text = fmt.Sprintf("%d%%, %s, %s left", int(out.fraction*100), out.text, left)
	}
	return out
}
