package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsserver"
)

func newServe(s Streams) *cobra.Command {
	set := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	set.SortFlags = false
	flags := config.NewFlags(set)
	cmd := &cobra.Command{Short: "Serve kube-apiserver's KMS v1 and v2 on unix sockets, backed by AWS KMS"}
	cmd.Flags().AddFlagSet(set) // so that cobra knows which of them take a value
	return parsed(cmd, func() { serveHelp(s, set) }, func(_ context.Context, args []string) error {
		cfg, err := flags.Parse(args, s.LookupEnv)
		if err != nil {
			return err
		}
		return serve(s, cfg)
	})
}

func serveHelp(s Streams, set *pflag.FlagSet) {
	fmt.Fprintf(s.Out, `%[1]s wraps kube-apiserver's keys with AWS KMS.

Usage:
  %[1]s [serve] --key=ARN [flags]
  %[1]s dev [--dir DIR]      try it out: the same, over a KMS emulator
  %[1]s version

One dash and two dashes mean the same. Each flag can be given as an environment
variable: --kms-endpoint as %[2]s.

Flags:
%[3]s`, programName, config.EnvName("kms-endpoint"), set.FlagUsages())
}

// serve runs the daemon until a signal or a failure ends it.
func serve(s Streams, cfg *config.Config) error {
	tuneRuntime(s.LookupEnv)
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log := newLogger(s, cfg.Log, level)
	logStart(log, cfg)
	d := daemon.Start(cfg, daemonOptions(log))
	return wait(s, d, cfg, log, level)
}

func daemonOptions(log *slog.Logger) daemon.Options {
	v := version()
	return daemon.Options{Log: log, Version: v.Version, Commit: v.Commit, GoVersion: v.Go}
}

// wait serves signals: SIGTERM and SIGINT end the process, a second one at once;
// SIGUSR1 toggles debug logging.
func wait(s Streams, d *daemon.Daemon, cfg *config.Config, log *slog.Logger, level *slog.LevelVar) error {
	for {
		select {
		case err := <-d.Failed():
			hurry, cancel := context.WithCancel(context.Background())
			defer cancel()
			d.Shutdown(hurry)
			return err
		case sig := <-s.Signals:
			if sig == syscall.SIGUSR1 {
				toggleDebug(log, level, cfg.Log.Level)
				continue
			}
			end(s, d, cfg, log, sig)
			return nil
		}
	}
}

func end(s Streams, d *daemon.Daemon, cfg *config.Config, log *slog.Logger, sig os.Signal) {
	log.Info("shutting down", "signal", sig.String(), "delay", cfg.ShutdownDelay)
	hurry, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() { // ends with the shutdown
		for {
			select {
			case again := <-s.Signals:
				if again != syscall.SIGUSR1 {
					cancel()
				}
			case <-done:
				return
			}
		}
	}()
	select {
	case <-time.After(cfg.ShutdownDelay):
	case <-hurry.Done():
	}
	d.Shutdown(hurry)
	log.Info("stopped")
}

func toggleDebug(log *slog.Logger, level *slog.LevelVar, configured slog.Level) {
	switch {
	case level.Level() != slog.LevelDebug:
		level.Set(slog.LevelDebug)
	case configured == slog.LevelDebug:
		level.Set(slog.LevelInfo)
	default:
		level.Set(configured)
	}
	log.Log(context.Background(), level.Level(), "log level changed by SIGUSR1", "level", level.Level().String())
}

func newLogger(s Streams, c config.Log, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(s.Err, options)
	if c.JSON {
		handler = slog.NewJSONHandler(s.Err, options)
	}
	return slog.New(kmsserver.NamingCalls(handler))
}

// logStart writes the one line that tells what runs and by which configuration.
func logStart(log *slog.Logger, cfg *config.Config) {
	v := version()
	providers := make([]any, 0, len(cfg.Providers))
	for _, p := range cfg.Providers {
		decryptKeys := make([]string, 0, len(p.DecryptKeys))
		for _, k := range p.DecryptKeys {
			decryptKeys = append(decryptKeys, k.Key)
		}
		providers = append(providers, slog.Group(p.Name,
			"key", p.Key, "decrypt_keys", decryptKeys, "socket", p.Listen, "region", p.Region, "endpoint", p.Endpoint,
			"encryption_context", p.EncryptionContext, "assume_role_arn", p.AssumeRoleARN, "source_arn", p.SourceARN))
	}
	log.Info("starting", "version", v.Version, "commit", v.Commit, "go", v.Go,
		"health_address", cfg.Health.Address, "socket_mode", fmt.Sprintf("%#o", cfg.Socket.Mode), "allow_uids", cfg.Socket.AllowUIDs,
		"kms_timeout", cfg.KMSTimeout.String(), "outage_grace", cfg.OutageGrace.String(), "shutdown_delay", cfg.ShutdownDelay.String(),
		slog.Group("providers", providers...))
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
}

// tuneRuntime sets what measurements favour, where the operator has set nothing:
// more than two processors cost more than they bring, and a heap of a few
// megabytes may grow before it is collected.
func tuneRuntime(lookup func(string) (string, bool)) {
	const (
		processors  = 2
		gcPercent   = 400
		memoryLimit = 64 << 20
	)
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
