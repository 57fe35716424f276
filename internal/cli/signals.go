package cli

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
)

// wait serves signals: SIGTERM and SIGINT end the process, a second one at once;
// SIGHUP loads a file of --config again, and is like them where there is none;
// SIGUSR1 toggles debug logging. An error of tried ends it too, and nil does not.
func wait(s Streams, d *daemon.Daemon, cfg *config.Config, log *slog.Logger, level *slog.LevelVar, tried <-chan error) error {
	for {
		select {
		case err := <-d.Failed():
			end(s, d, cfg, 0, log)
			return err
		case err := <-tried:
			if err != nil {
				end(s, d, cfg, 0, log)
				return err
			}
			tried = nil
		case sig := <-s.Signals:
			switch {
			case sig == syscall.SIGUSR1:
				toggleDebug(log, level, cfg.Log.Level)
				continue
			case !ends(sig, cfg):
				log.Info("loading the configuration again", "signal", sig.String(), "file", cfg.File)
				d.Reload()
				continue
			}
			delay := d.ShutdownDelay()
			log.Info("shutting down", "signal", sig.String(), "delay", delay.String())
			end(s, d, cfg, delay, log)
			log.Info("stopped")
			return nil
		}
	}
}

// parseUntilEnded makes a configuration, whose file may hang. It reports whether a
// signal ended that.
func parseUntilEnded(s Streams, parse func() (*config.Config, error)) (cfg *config.Config, ended bool, err error) {
	type parsed struct {
		cfg *config.Config
		err error
	}
	done := make(chan parsed, 1)
	go func() { // ends with parse
		cfg, err := parse()
		done <- parsed{cfg, err}
	}()
	var early []os.Signal
	for {
		select {
		case sig := <-s.Signals:
			if sig != syscall.SIGHUP && sig != syscall.SIGUSR1 {
				return nil, true, nil
			}
			early = append(early, sig)
		case p := <-done:
			ended := p.err == nil && slices.ContainsFunc(early, func(sig os.Signal) bool { return ends(sig, p.cfg) })
			return p.cfg, ended, p.err
		}
	}
}

// ends reports whether a signal is one to end by.
func ends(sig os.Signal, cfg *config.Config) bool {
	return sig != syscall.SIGUSR1 && (sig != syscall.SIGHUP || cfg.File == "")
}

// end serves for the delay and then shuts down. A signal cuts both short.
func end(s Streams, d *daemon.Daemon, cfg *config.Config, delay time.Duration, log *slog.Logger) {
	hurry, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	var hurrying sync.WaitGroup
	defer hurrying.Wait()
	defer close(done)
	hurrying.Go(func() {
		for {
			select {
			case again := <-s.Signals:
				if ends(again, cfg) && hurry.Err() == nil {
					log.Warn("second signal: running calls are cut", "signal", again.String())
					cancel()
				}
			case <-done:
				return
			}
		}
	})
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-hurry.Done():
	}
	d.Shutdown(hurry)
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

// untilSignal returns a context that the first signal ends.
func untilSignal(ctx context.Context, s Streams) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	go func() { // ends with the context
		select {
		case <-s.Signals:
			stop()
		case <-ctx.Done():
		}
	}()
	return ctx, stop
}
