package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
)

// newServe makes the command that the help of all the others stands with.
func newServe(s Streams, others []*cobra.Command) *cobra.Command {
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	set.SortFlags = false
	flags := config.NewFlags(set)
	offerServing(set)
	cmd := &cobra.Command{Short: "serve kube-apiserver's KMS v1 and v2 on unix sockets, backed by AWS KMS"}
	cmd.Flags().AddFlagSet(set) // so that cobra knows which of them take a value
	return parsed(cmd, func() { serveHelp(s, set, others) }, func(_ context.Context, args []string) error {
		if len(args) == 1 && (args[0] == "--version" || args[0] == "-version") {
			printVersion(s)
			return nil
		}
		cfg, ended, err := parseUntilEnded(s, func() (*config.Config, error) { return parseFlags(cmd, s, flags, args) })
		if err != nil || ended {
			return err
		}
		return serve(s, cfg, flags.Source()) //nolint:contextcheck // a signal ends it
	})
}

func serveHelp(s Streams, set *pflag.FlagSet, others []*cobra.Command) {
	var commands strings.Builder
	fmt.Fprintf(&commands, "  %-11s %s\n", "serve", "what it does without a command: serve kube-apiserver")
	for _, c := range others {
		fmt.Fprintf(&commands, "  %-11s %s\n", c.Name(), c.Short)
	}
	printHelp(s, help{
		about: "Wraps kube-apiserver's keys with AWS KMS.",
		usage: []string{"[serve] --key=ARN [flags]", "[serve] --config=FILE [flags]", "COMMAND [flags]"},
		sections: []section{
			{"Commands", commands.String() + "  help        print what --help of a command prints\n"},
			{"Flags and environment", `  One dash and two dashes mean the same. Each flag can be given as an
  environment variable: --kms-endpoint as
  ` + config.EnvName("kms-endpoint") + `. The command line wins; a flag that
  repeats takes one occurrence a line. A variable with this prefix that sets no
  flag is a mistake.
`},
			{"Signals", `  SIGTERM and SIGINT end it in good order, a second one at once. SIGHUP loads
  the file of --config again, which a change of the file does by itself, and
  without one ends it, too. SIGUSR1 toggles debug logging.
`},
		},
		examples: []string{
			"--key=alias/K8sKMSKey --region=us-west-2",
			"--config=/etc/aws-encryption-provider/config.yaml",
			"status",
		},
		exits: "0 ended by a signal, 1 failed, 2 wrong usage or configuration.",
		flags: set,
	})
}

// serve runs the daemon until a signal or a failure ends it.
func serve(s Streams, cfg *config.Config, source *config.Source) error {
	tuneRuntime(s.LookupEnv, len(cfg.Providers))
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log, closeLog := newLogger(s, cfg.Log, level)
	defer closeLog()
	logStart(log, cfg)
	o := daemonOptions(log)
	o.Source, o.Sockets, o.RuntimeDir = source, s.Sockets, runtimeDir(s.LookupEnv)
	d := daemon.Start(cfg, o)
	defer notifying(s, d, log)()
	return wait(s, d, cfg, log, level, nil)
}

// runtimeDir is the directory that systemd made for the unit, "" where it made none.
// Of several the first counts.
//
// https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#RuntimeDirectory=
func runtimeDir(lookup func(string) (string, bool)) string {
	dirs, _ := lookup("RUNTIME_DIRECTORY")
	dir, _, _ := strings.Cut(dirs, ":")
	return dir
}

func daemonOptions(log *slog.Logger) daemon.Options {
	v := version()
	return daemon.Options{Log: log, Version: v.Version, Commit: v.Commit, GoVersion: v.Go}
}

// newLogger returns the log, and what writes the rest of it at the end.
func newLogger(s Streams, c config.Log, level slog.Leveler) (log *slog.Logger, closeLog func()) {
	handler := func(w io.Writer) slog.Handler {
		if c.JSON {
			return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
		}
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	}
	direct := slog.New(handler(s.Err))
	w := newLineWriter(s.Err, func(dropped int64) {
		direct.Warn("log lines were dropped: standard error was not read", "lines", dropped)
	})
	return slog.New(kmsserver.NamingCalls(handler(w))), w.Close
}

// logStart writes the one line that tells what runs and by which configuration.
func logStart(log *slog.Logger, cfg *config.Config) {
	v := version()
	providers := make([]any, 0, len(cfg.Providers))
	for _, p := range cfg.Providers {
		keys := make([]any, 0, len(p.Keys))
		for i, k := range p.Keys {
			keys = append(keys, slog.Group(strconv.Itoa(i), "key", k.Key, "region", k.Region, "endpoint", config.WithoutSecrets(k.Endpoint),
				"encryption_context", k.EncryptionContext, "assume_role_arn", k.AssumeRoleARN, "external_id_set", k.ExternalID != "", "source_arn", k.SourceARN))
		}
		providers = append(providers, slog.Group(p.Name, "socket", p.Listen, slog.Group("keys", keys...), "epoch", p.Epoch,
			"retry_token_capacity", p.Retry.Tokens, "retry_flat_cost", p.Retry.Flat))
	}
	group, format := "", "text"
	if cfg.Socket.Group >= 0 {
		group = strconv.Itoa(cfg.Socket.Group)
	}
	if cfg.Log.JSON {
		format = "json"
	}
	log.Info("starting", "version", v.Version, "commit", v.Commit, "go", v.Go,
		"health_address", cfg.Health.Address, "healthz_path", cfg.Health.HealthzPath, "livez_path", cfg.Health.LivezPath,
		"log_level", cfg.Log.Level.String(), "log_format", format,
		"socket_mode", fmt.Sprintf("%#o", cfg.Socket.Mode), "socket_group", group, "allow_uids", cfg.Socket.AllowUIDs,
		"kms_timeout", cfg.KMSTimeout.String(), "outage_grace", cfg.OutageGrace.String(), "shutdown_delay", cfg.ShutdownDelay.String(),
		slog.Group("providers", providers...))
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
}

// tuneRuntime sets what measurements favour, where the operator has set nothing.
// One processor serves ten thousand calls a second, more than KMS grants most
// accounts, and each further one costs every call something. The heap of one
// provider, a few megabytes, may grow well before it is collected; with many
// providers that would be what they cost most.
func tuneRuntime(lookup func(string) (string, bool), providers int) {
	const (
		processors  = 1
		memoryLimit = 64 << 20
	)
	gcPercent := 250
	if providers > fewProviders {
		gcPercent = 100
	}
	isSet := func(name string) bool { v, ok := lookup(name); return ok && strings.TrimSpace(v) != "" }
	if !isSet("GOMAXPROCS") && runtime.GOMAXPROCS(0) > processors {
		runtime.GOMAXPROCS(processors)
	}
	if !isSet("GOGC") {
		debug.SetGCPercent(gcPercent)
	}
	if !isSet("GOMEMLIMIT") {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// fewProviders is how many are few.
const fewProviders = 4
