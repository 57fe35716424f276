// Package liveness asks whether the process answers on its own sockets: the one thing
// that a restart could mend.
package liveness

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"k8s.io/kms/apis/v1beta1"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/unixsocket"
)

const (
	// Timeout bounds one question.
	Timeout = 2 * time.Second
	// answerMisses is how many times running the process has to be silent before
	// a restart is worth it.
	answerMisses = 3
)

// Answering is whether the process answers on one of its own sockets. It is the
// only thing that a restart could mend, so liveness asks for nothing else.
type Answering struct {
	pauses *bounded.Pauses // nil: none

	mu     sync.Mutex
	misses int
	err    error
	every  time.Duration // between questions; 0: none are asked
	turned time.Time     // when the last question ended, or Watch began
}

// New returns an Answering of which nothing is known. pauses are those of the process;
// nil: none.
func New(pauses *bounded.Pauses) *Answering { return &Answering{pauses: pauses} }

// Watch asks the socket until ctx ends.
func (a *Answering) Watch(ctx context.Context, every time.Duration, ask func(context.Context) error, log *slog.Logger) {
	a.turn(every)
	defer a.turn(0)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		if a.note(began, ask(ctx)) == answerMisses && ctx.Err() == nil {
			log.Error("this process does not answer on its own socket", "error", a.Problem().Error())
		}
	}
}

// turn notes that questions are asked from now on, or no more.
func (a *Answering) turn(every time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.every, a.turned = every, time.Now()
}

// note enters how a question ended. One that the process slept through shows
// nothing, nor do those before it.
func (a *Answering) note(began time.Time, err error) (misses int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || a.pauses.Since(a.turned) {
		a.misses = 0
	}
	if err != nil && !a.pauses.Since(began) {
		a.misses++
	}
	a.err, a.turned = err, time.Now()
	return a.misses
}

// Problem returns why the process should be restarted, nil where it should not:
// three questions running were not answered, or none was even asked for as long as
// that, which is no better.
func (a *Answering) Problem() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	since := a.turned
	switch paused := a.pauses.Last(); {
	case paused.After(since): // what was counted before shows nothing
		since = paused
	case a.misses >= answerMisses:
		return a.err
	}
	if a.every == 0 {
		return nil
	}
	if silent := time.Since(since); silent > answerMisses*(a.every+Timeout) {
		return fmt.Errorf("the process has not asked its own socket for %s", silent.Round(time.Second))
	}
	return nil
}

// Ask asks a socket for its version, as a caller would, over the connections that dial
// makes.
func Ask(ctx context.Context, path string, dial func(context.Context) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := unixsocket.ConnectBy(dial)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := v1beta1.NewKeyManagementServiceClient(conn).Version(ctx, &v1beta1.VersionRequest{Version: "v1beta1"}); err != nil {
		return fmt.Errorf("asking %s for its version: %w", path, err)
	}
	return nil
}
