package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/status"
)

// callRefused makes a call with a disabled key, which fails by that or by the
// fault.
func (c *nthCase) callRefused() {
	c.t.Helper()
	err := c.write(c.t.Context(), v2API)
	if err == nil {
		c.t.Error("Encrypt with a disabled key succeeded")
		return
	}
	if words := status.Convert(err).Message(); !names(words, c.causes(disabledCause)) || !strings.Contains(words, c.key) {
		c.t.Errorf("Encrypt with a disabled key: %v", err)
	}
}

// saysDisabled is nil when Status is an error that says that the key is
// disabled, and /readyz agrees.
func (c *nthCase) saysDisabled(ctx context.Context) error {
	_, err := c.status(ctx, 0)
	words := status.Convert(err).Message()
	if err == nil || !strings.Contains(words, disabledCause) || !strings.Contains(words, c.key) {
		return fmt.Errorf("Status does not say it: code %v, %q", status.Code(err), words)
	}
	return c.readyzSays(disabledCause)(ctx)
}

// readyzSays is nil when /readyz is 503 and names one of the causes.
func (c *nthCase) readyzSays(causes ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		code, body, err := c.get(ctx, "/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !names(body, causes)) {
			err = fmt.Errorf("/readyz is %d %q", code, body)
		}
		return err
	}
}

// causes are what an answer may name: the fault's, and more.
func (c *nthCase) causes(more ...string) []string { return append(more, c.fault.cause) }

// formForGood is what Status becomes when the fault lasts: a refusal is an
// error, an outage a text as soon as the grace is over.
func (c *nthCase) formForGood() form {
	switch {
	case c.fault.refused():
		return refusal
	case c.op.grace > 0:
		return ok
	}
	return text
}

// fails checks the error of a call, if there is one: it is the fault's own and
// names what an operator needs. A time-out of the caller, or a connection that
// went away, is none.
func (c *nthCase) fails(err error) {
	c.t.Helper()
	if err == nil {
		return
	}
	st := status.Convert(err)
	if st.Code() != c.fault.code || !strings.Contains(st.Message(), c.fault.cause) || !strings.Contains(st.Message(), c.key) {
		c.t.Errorf("the call failed by %s %q; want %s, %s and %s", st.Code(), st.Message(), c.fault.code, c.fault.cause, c.key)
	}
}

// hold waits until a fault that is for good has been declared: /readyz is 503
// and names it, and Status has the form that it is to have. call, if not nil, is
// traffic meanwhile, which fails by the fault.
func (c *nthCase) hold(in *injection, want form, call func() error) {
	c.t.Helper()
	firstHit, _ := in.times()
	causes := c.causes()
	if want == refusal && (c.op.name == "enable" || c.op.name == "disable") {
		causes = c.causes(disabledCause) // the last that KMS said of the key
	}
	var last time.Time
	c.eventually(declared, "the fault is declared", func(ctx context.Context) error {
		if call != nil && time.Since(last) > 500*time.Millisecond {
			last = time.Now()
			if err := call(); err == nil {
				c.t.Error("a call succeeded while every attempt fails")
			} else {
				c.fails(err)
			}
		}
		if err := c.readyzSays(causes...)(ctx); err != nil {
			return err
		}
		if in.hits() < 3 {
			return errors.New("too few calls have failed")
		}
		if a := c.ask(ctx, c.plugin, 0, c.key, true); a.form != want || a.form != ok && !names(a.words, causes) {
			return fmt.Errorf("Status is %v, want %s", a, want)
		}
		return nil
	})
	// It stays so while the fault lasts.
	from, hits := time.Now(), in.hits()
	c.eventually(recovery, "more calls fail", func(context.Context) error {
		if failed := in.hits() - hits; failed < 2 {
			return fmt.Errorf("%d more", failed)
		}
		return nil
	})
	c.judge(c.w, from, causes, want)
	failing := firstHit
	if !c.failing.IsZero() {
		failing = c.failing
	}
	if a, found := first(c.w.between(firstHit, time.Now()), text); found && a.start.Sub(failing) < earliest {
		c.t.Errorf("Status became a text %v after the first failure, want at least 20 s: %v", a.start.Sub(failing).Round(time.Millisecond), a)
	}
	c.alive(c.plugin)
}
