package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	watchEvery = 100 * time.Millisecond
	// statusLimit is far above what Status may take while KMS fails, 50 ms: a
	// machine with 48 plugins on two cores stands still for a second or two. What
	// it takes is measured elsewhere; here it must only not wait for KMS, whose
	// calls have 2.5 s.
	statusLimit = 2400 * time.Millisecond
)

// A form is how Status answered.
type form string

const (
	ok      form = "ok"
	text    form = "a text"
	refusal form = "a gRPC error"
)

// An answer is one Status as the API server would have seen it.
type answer struct {
	start, end time.Time
	form       form
	words      string // of a text or an error
	code       codes.Code
}

func (a answer) String() string {
	return fmt.Sprintf("%s %s %q after %v", a.form, a.code, a.words, a.end.Sub(a.start).Round(time.Millisecond))
}

// ask asks Status once and checks what holds at all times: a text leaves key_id
// as it was, no answer is without one, the version never changes, and nobody
// waits.
func (m *machine) ask(ctx context.Context, p *plugin, socket int, key string, contacted bool) answer {
	m.t.Helper()
	a := answer{start: time.Now()}
	st, err := p.status(ctx, socket)
	a.end = time.Now()
	a.code = status.Code(err)
	switch {
	case err != nil:
		a.form, a.words = refusal, status.Convert(err).Message()
	case st.Healthz == "ok":
		a.form = ok
	default:
		a.form, a.words = text, st.Healthz
	}
	if want := m.keyID(key); err == nil && (st.KeyId != want || st.Version != "v2beta1") {
		m.t.Errorf("Status is %q with key_id %q and version %q, want %q and v2beta1", st.Healthz, st.KeyId, st.Version, want)
	}
	limit := statusLimit
	if !contacted {
		limit = deadline // it may wait two seconds for the first contact
	}
	if a.end.Sub(a.start) > limit || a.code == codes.DeadlineExceeded {
		m.t.Errorf("Status took longer than %v: %v", limit, a)
	}
	return a
}

// A watch polls Status and /livez of one life of a plugin until it is stopped.
type watch struct {
	stop func() // returns when the last poll is over

	mu      sync.Mutex
	answers []answer
}

// watch begins to poll. The first socket's Status names the key and its material,
// unless it is an error, and /livez is 200 throughout.
func (m *machine) watch() *watch {
	p := m.plugin
	quit, done := make(chan struct{}), make(chan struct{})
	w := &watch{stop: sync.OnceFunc(func() { close(quit); <-done })}
	m.t.Cleanup(w.stop)
	go func() { // ends by stop
		defer close(done)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		contacted := false
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-p.program.Exited():
				m.t.Errorf("the plugin has ended by itself: %v\n%s", p.program.ExitError(), p.program.Tail(40))
				return
			case <-tick.C:
			}
			a := m.ask(context.Background(), p, 0, m.key, contacted)
			contacted = contacted || a.form == ok
			w.mu.Lock()
			w.answers = append(w.answers, a)
			w.mu.Unlock()
			if i%5 == 0 {
				m.alive(p)
			}
		}
	}()
	return w
}

// alive demands that /livez is 200.
func (m *machine) alive(p *plugin) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if code, body, err := p.get(ctx, "/livez"); err != nil || code != http.StatusOK {
		m.t.Errorf("/livez is %d %q, %v; want 200", code, body, err)
	}
}

// between returns the answers that lie within a time, both ends included.
func (w *watch) between(from, to time.Time) []answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	var in []answer
	for _, a := range w.answers {
		if !a.start.Before(from) && !a.end.After(to) {
			in = append(in, a)
		}
	}
	return in
}

// first returns the first answer of a form.
func first(answers []answer, f form) (answer, bool) {
	if i := slices.IndexFunc(answers, func(a answer) bool { return a.form == f }); i >= 0 {
		return answers[i], true
	}
	return answer{}, false
}

// judge demands that Status had one of these forms since from, and that each
// answer that is not ok names one of the causes.
func (m *machine) judge(w *watch, from time.Time, causes []string, allowed ...form) {
	m.t.Helper()
	for _, a := range w.between(from, time.Now()) {
		if !slices.Contains(allowed, a.form) {
			m.t.Errorf("%v on, Status is %v; want %q", a.start.Sub(from).Round(time.Millisecond), a, allowed)
			return
		}
		if a.form != ok && !names(a.words, causes) {
			m.t.Errorf("%v on, Status is %v; want one of the causes %q", a.start.Sub(from).Round(time.Millisecond), a, causes)
			return
		}
	}
}

func names(words string, causes []string) bool {
	return slices.ContainsFunc(causes, func(c string) bool { return strings.Contains(words, c) })
}
