package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
)

// waitPause is the time between two looks of --wait.
const waitPause = 2 * time.Second

// leastTimeout is the shortest time that tells something of the plugin: it keeps 300 ms
// of it for its answer.
const leastTimeout = time.Second

// doctorFlags are the command's own, beside those of serving.
type doctorFlags struct {
	output, failOn, encryption string
	wait, timeout              time.Duration
	secrets                    int
	asUID                      string
	asGIDs                     []string
	as                         *doctor.User // of the two
}

func (f *doctorFlags) define(set *pflag.FlagSet) {
	set.StringVarP(&f.output, "output", "o", "table", "`FORM` of the output: table, short (what is wrong, a line each) or json")
	set.StringVar(&f.encryption, "encryption-config", "", "`FILE` with kube-apiserver's EncryptionConfiguration, to check against this configuration")
	set.StringVar(&f.asUID, "as-uid", "", "`UID` that the API server runs as: ask the sockets as that user too, which needs root; default: as whoever runs doctor")
	set.StringSliceVar(&f.asGIDs, "as-gid", nil, "`GID` of that user, the first its primary one; repeats; default: those of its entry in passwd")
	set.IntVar(&f.secrets, "secrets", 0, "`NUMBER` of objects that are encrypted, to check cachesize against")
	set.DurationVar(&f.wait, "wait", 0, "`TIME` to look again and again until all is well; exit code 124 when it is over")
	set.StringVar(&f.failOn, "fail-on", "failure", "`WHAT` makes the exit code 3: failure, or warning too")
	set.DurationVar(&f.timeout, "timeout", 3*time.Second, "`TIME` that each question to a running plugin may take, as in an EncryptionConfiguration")
}

func (f *doctorFlags) mistakes() (mistakes config.Mistakes) {
	wrong := func(flag, text string) {
		mistakes = append(mistakes, config.Mistake{Field: flag, Text: text})
	}
	if !slices.Contains(doctor.Forms(), f.output) {
		wrong("--output", fmt.Sprintf("%.64q is none of %s", f.output, strings.Join(doctor.Forms(), ", ")))
	}
	if f.failOn != "failure" && f.failOn != "warning" {
		wrong("--fail-on", fmt.Sprintf("%.64q is neither failure nor warning", f.failOn))
	}
	if f.timeout < leastTimeout {
		wrong("--timeout", "must be 1s or more: the plugin keeps 300 ms of it for its answer")
	}
	if f.wait < 0 {
		wrong("--wait", "must not be below 0")
	}
	if f.secrets < 0 {
		wrong("--secrets", "must not be below 0")
	}
	f.user(wrong)
	return mistakes
}

// user reads whom to ask as.
func (f *doctorFlags) user(wrong func(flag, text string)) {
	id := func(flag, text, of string) uint32 {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == math.MaxUint32 { // which means nobody
			wrong(flag, fmt.Sprintf("%.64q is not the number of a %s", text, of))
		}
		return uint32(n)
	}
	if f.asUID == "" {
		if len(f.asGIDs) > 0 {
			wrong("--as-gid", "needs --as-uid")
		}
		return
	}
	f.as = &doctor.User{UID: id("--as-uid", f.asUID, "user")}
	for _, gid := range f.asGIDs {
		f.as.Groups = append(f.as.Groups, id("--as-gid", gid, "group"))
	}
}

func newDoctor(s Streams) *cobra.Command {
	var f doctorFlags
	set, own, flags := besideServing(f.define)
	cmd := &cobra.Command{Use: "doctor [flags]", Short: "look for what is wrong, and say what to do"}
	cmd.SuggestFor = []string{"diagnose", "health"}
	cmd.Flags().AddFlagSet(set)
	offer(set, "output", doctor.Forms()...)
	offer(set, "fail-on", "failure", "warning")
	return parsed(cmd, func() { doctorHelp(s, own) }, func(ctx context.Context, args []string) error {
		cfg, err := parseFlags(cmd, s, flags, args)
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		refused, _ := errors.AsType[config.Mistakes](err)
		usage := append(f.mistakes(), ofFlags(refused)...)
		if len(usage) > 0 {
			return usage
		}
		ctx, stop := untilSignal(ctx, s)
		defer stop()
		o := doctor.Options{
			Config: cfg, Mistakes: refused, Secrets: f.secrets, EncryptionFile: f.encryption,
			Timeout: f.timeout, Version: version().Version, DocsURL: s.DocsURL, As: f.as,
		}
		return f.run(ctx, s, o)
	})
}

// ofFlags are the mistakes of the command line. Those of a file are findings.
func ofFlags(all config.Mistakes) (mistakes config.Mistakes) {
	for _, m := range all {
		if m.File == "" {
			mistakes = append(mistakes, m)
		}
	}
	return mistakes
}

func doctorHelp(s Streams, own *pflag.FlagSet) {
	printHelp(s, help{
		about: `Looks for what keeps a configuration from working, before the program runs and
while it does, with the program's own flags or file. Says of each fault its
code, its cause and what to do. Run it where the program runs, as its user. It
changes nothing, on the node and in AWS.`,
		usage: []string{"doctor --key=ARN [flags]", "doctor --config=FILE [flags]"},
		examples: []string{
			"doctor --config=config.yaml",
			"doctor --key=alias/K8sKMSKey --region=us-west-2",
			"doctor --config=config.yaml -o=short --wait=2m",
			"doctor --config=config.yaml --as-uid=65532",
		},
		exits: `0 all is well, 1 could not look, 2 wrong usage or configuration,
3 found failures, 124 the time of --wait is over.`,
		flags: own, besides: true,
	})
}

// run looks, again and again with --wait, and prints the last look. A file that is
// refused is looked at once: waiting mends none.
func (f *doctorFlags) run(ctx context.Context, s Streams, o doctor.Options) error {
	terminal := isTerminal(s.Out)
	tells := newProgress(s, terminal, f.output)
	defer tells.stop()
	o.Began, o.Asks = tells.group, tells.question
	deadline := time.Now().Add(f.wait)
	for {
		r, err := f.look(ctx, o)
		tells.looked()
		if err != nil {
			return err
		}
		if wait := f.wait > 0 && f.bad(r) && o.Config != nil; wait && time.Now().Add(waitPause).Before(deadline) {
			tells.does(fmt.Sprintf("waiting until all is well, failures: %d, warnings: %d", r.Failures, r.Warnings))
			select {
			case <-time.After(waitPause):
				continue
			case <-ctx.Done():
				return fmt.Errorf("waiting: %w", ctx.Err())
			}
		}
		tells.stop()
		noColor, _ := s.LookupEnv("NO_COLOR") // https://no-color.org: empty counts as not set
		if err := r.Print(s.Out, doctor.PrintOptions{Form: f.output, Color: terminal && noColor == ""}); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
		return f.verdict(r, o.Config == nil)
	}
}

// verdict is what a report comes to.
func (f *doctorFlags) verdict(r *doctor.Report, refused bool) error {
	switch {
	case refused:
		return errRefused
	case f.bad(r) && f.wait > 0:
		return errTimeUp
	case f.bad(r):
		return errFound
	}
	return nil
}

func (f *doctorFlags) look(ctx context.Context, o doctor.Options) (*doctor.Report, error) {
	if f.encryption != "" {
		data, err := config.ReadInTime(f.encryption)
		if err != nil {
			return nil, fmt.Errorf("--encryption-config: %w", err)
		}
		o.EncryptionConfig = data
	}
	return doctor.Examine(ctx, o)
}

func (f *doctorFlags) bad(r *doctor.Report) bool {
	return r.Failures > 0 || f.failOn == "warning" && r.Warnings > 0
}
