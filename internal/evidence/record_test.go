package evidence_test

import (
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
)

// A step is one outcome, at a number of seconds after the first contact.
type step struct {
	at   int
	op   evidence.Operation
	code cause.Code // 0: it worked
	due  bool       // a due check made the call, and began then
}

const worked cause.Code = 255 // no cause has this number

func at(seconds int) time.Time {
	return time.Unix(1_000_000, 0).Add(time.Duration(seconds) * time.Second)
}

func enter(r *evidence.Record, s step) {
	began := time.Time{}
	if s.due {
		began = at(s.at)
	}
	if s.code == worked {
		r.Enter(s.op, at(s.at), nil, began)
		return
	}
	r.Enter(s.op, at(s.at), &cause.Error{Code: s.code}, began)
}

// contacted is a record of a key that has encrypted and decrypted, at second 0.
func contacted() *evidence.Record {
	r := new(evidence.Record)
	for _, op := range evidence.Operations() {
		enter(r, step{op: op, code: worked})
	}
	return r
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	const enc, dec, reopen = evidence.Encrypt, evidence.Decrypt, evidence.Reopen
	for name, c := range map[string]struct {
		steps   []step
		want    evidence.State
		code    cause.Code // of the cause; worked: none
		inDoubt bool
		barred  bool // nothing may be encrypted
	}{
		"nothing fails":                          {nil, evidence.Healthy, worked, false, false},
		"one refusal changes nothing":            {[]step{{1, enc, cause.KeyDisabled, true}}, evidence.Healthy, cause.KeyDisabled, false, false},
		"two refusals of traffic change nothing": {[]step{{1, enc, cause.KeyDisabled, false}, {60, enc, cause.KeyDisabled, false}}, evidence.Healthy, cause.KeyDisabled, false, false},
		"a check soon after confirms nothing":    {[]step{{1, enc, cause.KeyDisabled, false}, {5, enc, cause.KeyDisabled, true}}, evidence.Healthy, cause.KeyDisabled, false, false},
		"a check five seconds later confirms":    {[]step{{1, enc, cause.KeyDisabled, false}, {6, enc, cause.KeyDisabled, true}}, evidence.Refused, cause.KeyDisabled, false, false},
		"a success between starts again":         {[]step{{1, enc, cause.KeyDisabled, true}, {3, enc, worked, false}, {7, enc, cause.KeyDisabled, true}}, evidence.Healthy, cause.KeyDisabled, false, false},
		"another operation's success does not":   {[]step{{1, enc, cause.KeyDisabled, true}, {3, dec, worked, false}, {7, enc, cause.KeyDisabled, true}}, evidence.Refused, cause.KeyDisabled, false, false},
		"one success ends a confirmed refusal":   {[]step{{1, enc, cause.KeyDisabled, true}, {6, enc, cause.KeyDisabled, true}, {7, enc, worked, false}}, evidence.Healthy, worked, false, false},
		"a refused key stays so in an outage":    {[]step{{1, enc, cause.KeyDisabled, true}, {6, enc, cause.KeyDisabled, true}, {50, enc, cause.TimedOut, true}}, evidence.Refused, cause.KeyDisabled, false, false},
		"a refused Decrypt bars Encrypt":         {[]step{{1, dec, cause.AccessDenied, true}, {6, dec, cause.AccessDenied, true}}, evidence.Refused, cause.AccessDenied, false, true},
		"what does not open, twice, bars it":     {[]step{{1, reopen, cause.RoundTripBroken, false}, {6, reopen, cause.RoundTripBroken, false}}, evidence.Outage, cause.RoundTripBroken, false, true},
		"once does not":                          {[]step{{1, reopen, cause.RoundTripBroken, true}}, evidence.Healthy, cause.RoundTripBroken, false, false},
		"two time-outs are no outage":            {[]step{{1, enc, cause.TimedOut, true}, {60, enc, cause.TimedOut, true}}, evidence.Healthy, cause.TimedOut, false, false},
		"three within 19 s are none":             {[]step{{1, enc, cause.TimedOut, true}, {2, enc, cause.TimedOut, true}, {20, enc, cause.TimedOut, true}}, evidence.Healthy, cause.TimedOut, false, false},
		"three over 20 s are one":                {[]step{{1, enc, cause.TimedOut, true}, {2, enc, cause.TimedOut, true}, {21, enc, cause.TimedOut, true}}, evidence.Outage, cause.TimedOut, false, false},
		"of no credentials, by its own name":     {[]step{{1, enc, cause.NoCredentials, true}, {2, enc, cause.NoCredentials, true}, {21, enc, cause.NoCredentials, true}}, evidence.Credentials, cause.NoCredentials, false, false},
		"bad data tells nothing":                 {[]step{{1, dec, cause.NoKeyMadeIt, false}, {2, dec, cause.NoKeyMadeIt, false}, {40, dec, cause.NoKeyMadeIt, false}}, evidence.Healthy, worked, false, false},
		"three mute checks put it in doubt":      {[]step{{1, enc, cause.InDoubt, true}, {31, enc, cause.InDoubt, true}, {61, enc, cause.InDoubt, true}}, evidence.Outage, cause.InDoubt, true, false},
		"checks that end as bad data do too":     {[]step{{1, dec, cause.NoKeyMadeIt, true}, {31, dec, cause.NoKeyMadeIt, true}, {61, dec, cause.NoKeyMadeIt, true}}, evidence.Outage, cause.NoKeyMadeIt, true, false},
		"the worst operation decides":            {[]step{{1, enc, cause.TimedOut, true}, {2, enc, cause.TimedOut, true}, {21, enc, cause.TimedOut, true}, {1, dec, cause.AccessDenied, true}, {6, dec, cause.AccessDenied, true}}, evidence.Refused, cause.AccessDenied, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := contacted()
			for _, s := range c.steps {
				enter(r, s)
			}
			v := r.Verdict()
			code := worked
			if v.Err != nil {
				code = v.Err.Code
			}
			if v.State != c.want || code != c.code || v.InDoubt != c.inDoubt {
				t.Errorf("state %s, code %v, in doubt %t; want %s, %v, %t", v.State, code, v.InDoubt, c.want, c.code, c.inDoubt)
			}
			if barred := r.Unreadable() != nil; barred != c.barred {
				t.Errorf("barred: %t, want %t", barred, c.barred)
			}
		})
	}
}

func TestKeyIsUnknownUntilBothOperationsHaveWorked(t *testing.T) {
	t.Parallel()
	var r evidence.Record
	for _, op := range []evidence.Operation{evidence.Encrypt, evidence.Decrypt} {
		if v := r.Verdict(); v.State != evidence.Unknown || v.Contacted {
			t.Errorf("before %v has worked: %s, contacted %t", op, v.State, v.Contacted)
		}
		enter(&r, step{op: op, code: worked})
	}
	if v := r.Verdict(); v.State != evidence.Healthy || !v.Contacted {
		t.Errorf("%s, contacted %t", v.State, v.Contacted)
	}
	r.Forget()
	if v := r.Verdict(); v.State != evidence.Unknown {
		t.Errorf("forgotten: %s", v.State)
	}
}

// While the process does not run, no check can tell anything.
func TestPauseStartsTheCountAgain(t *testing.T) {
	t.Parallel()
	r := contacted()
	for _, second := range []int{1, 31} {
		enter(r, step{second, evidence.Encrypt, cause.InDoubt, true})
	}
	r.Resume(at(3600))
	enter(r, step{3601, evidence.Encrypt, cause.InDoubt, true})
	if v := r.Verdict(); v.State != evidence.Healthy || v.InDoubt {
		t.Errorf("%s, in doubt %t: what came before the pause was counted", v.State, v.InDoubt)
	}
	if v := r.Verdict(); v.GraceFrom.Before(at(3000)) {
		t.Errorf("the grace counts from %v, which includes the pause", v.GraceFrom)
	}
}

func TestStateThatWasReachedOutlastsAPause(t *testing.T) {
	t.Parallel()
	r := contacted()
	for _, second := range []int{1, 6} {
		enter(r, step{second, evidence.Encrypt, cause.KeyDisabled, true})
	}
	r.Resume(at(3600))
	if v := r.Verdict(); v.State != evidence.Refused {
		t.Errorf("%s", v.State)
	}
}

func TestPermissionEndsARefusalOfTheStateOnlyWhereItProvesTheState(t *testing.T) {
	t.Parallel()
	for code, c := range map[cause.Code]struct {
		proven bool
		want   evidence.State
	}{
		cause.KeyDisabled:  {false, evidence.Refused},
		cause.AccessDenied: {false, evidence.Healthy},
	} {
		r := contacted()
		for _, second := range []int{1, 6} {
			enter(r, step{second, evidence.Decrypt, code, true})
		}
		r.Allowed(c.proven)
		if state, _, _ := r.Reading(); state != c.want {
			t.Errorf("code %v: %s, want %s", code, state, c.want)
		}
		r.Allowed(true)
		if state, _, _ := r.Reading(); state != evidence.Healthy {
			t.Errorf("code %v, state proven: %s", code, state)
		}
	}
}

func TestEvidenceAges(t *testing.T) {
	t.Parallel()
	r := contacted()
	enter(r, step{20, evidence.Encrypt, worked, false})
	if until := r.FreshUntil(30*time.Second, 75*time.Second); !until.Equal(at(30)) { // Decrypt's
		t.Errorf("fresh until %v", until)
	}
	enter(r, step{20, evidence.Decrypt, worked, false})
	if until := r.FreshUntil(60*time.Second, 75*time.Second); !until.Equal(at(75)) { // Reopen's
		t.Errorf("fresh until %v", until)
	}
}
