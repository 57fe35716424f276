package cli

import (
	"log/slog"
	"net"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"sigs.k8s.io/aws-encryption-provider/internal/daemon"
)

// statusInterval is how often the line of `systemctl status` is looked at.
const statusInterval = 5 * time.Second

// notifying tells a service manager that waits for it what the process does:
// ready once every socket is served, alive as long as it answers on them, and how
// its keys are doing. KMS has no part in the first two: a restart would mend
// nothing. What it returns waits for the last word, after the daemon's shutdown,
// though no longer than a moment.
//
// https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
func notifying(s Streams, d *daemon.Daemon, log *slog.Logger) (wait func()) {
	path, ok := s.LookupEnv("NOTIFY_SOCKET")
	if !ok {
		return func() {}
	}
	n := notifier{daemon: d, log: log, path: path}
	done := make(chan struct{})
	go func() { // ends with the daemon's shutdown, or soon after
		defer close(done)
		n.run()
	}()
	return func() {
		timer := time.NewTimer(lastWord)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		}
	}
}

const (
	// notifyTime is how long the service manager may take for one message: it may
	// have stopped to read, and the process goes on without it.
	notifyTime = time.Second
	lastWord   = 100 * time.Millisecond
)

type notifier struct {
	daemon *daemon.Daemon
	log    *slog.Logger
	path   string // of the service manager's socket, or @name
	said   string // of the keys
	failed bool
}

func (n *notifier) run() {
	defer n.say(systemd.SdNotifyStopping)
	watchdog, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the service manager's watchdog is not fed: its variables make no sense", "error", err.Error())
	}
	select {
	case <-n.daemon.Serving():
	case <-n.daemon.Stopping():
		return
	}
	n.say(systemd.SdNotifyReady)
	every := statusInterval
	if watchdog > 0 { // twice within its time, as its manual asks for
		every = min(every, watchdog/2)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		n.sayStates()
		if watchdog > 0 && n.daemon.Silent() == nil {
			n.say(systemd.SdNotifyWatchdog)
		}
		select {
		case <-ticker.C:
		case <-n.daemon.Stopping():
			return
		}
	}
}

func (n *notifier) sayStates() {
	if states := n.daemon.States(); states != n.said {
		n.said = states
		n.say("STATUS=" + fitting(states))
	}
}

// fitting is as much of a text as the service manager takes: it ignores a message of
// more than 4,096 bytes (NOTIFY_BUFFER_MAX in systemd's sources).
func fitting(text string) string {
	const most = 3500
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// say sends one message. That nobody hears it must end nothing.
func (n *notifier) say(message string) {
	err := notify(n.path, message)
	if err != nil && !n.failed {
		n.log.Warn("the service manager cannot be told what the process does", "message", message, "error", err.Error())
	}
	n.failed = err != nil
}

// notify is SdNotify with a limit.
func notify(path, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTime)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}
