package model

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// What is promised.
const (
	servesAgain    = 10 * time.Second // after KMS is well
	aTrip          = 6 * time.Second  // at most, from its Encrypt to the end of its Decrypt
	confirmedAfter = 5 * time.Second  // after the first refusal, and not earlier
	bars           = 11 * time.Second // the same, and a check that is due then
	staysOK        = 90 * time.Second // at most, in trouble: more than the grace, and than three checks
	readKeyTold    = 6 * time.Minute  // that one fails, or works again
	remembersNo    = 11 * time.Second // a refusal of an earlier key of an alias
)

// serve is an API server that polls, writes and reads.
func (m *Model) serve(d time.Duration) {
	for end := time.Now().Add(d); !time.Now().After(end) && !m.t.Failed(); time.Sleep(m.pace.Poll) {
		m.live()
		m.poll()
		m.write()
		if n := len(m.written); n > 0 && (m.hung == nil || m.IntN(4) == 0) {
			m.read(m.IntN(n), m.allWellFor(m.pace.limit(remembersNo)))
		}
		if m.hung == nil {
			m.readForeign()
		}
	}
}

// rest is a time without traffic, after which all that is promised is told.
func (m *Model) rest() {
	m.tell("no traffic")
	for end := time.Now().Add(readKeyTold); time.Now().Before(end); time.Sleep(5 * time.Second) {
		m.live()
	}
	m.live()
	if m.t.Failed() {
		return
	}
	m.judgeReadKeys()
	m.poll()
}

// live lets time do its work, on KMS and on the process.
func (m *Model) live() {
	m.expire()
	m.noteRefusals()
	if m.died() {
		m.tell("the process was killed at a write of its file")
		m.tell(m.restart())
	}
}

func (m *Model) noteRefusals() {
	for _, arn := range m.kms.refused() {
		m.refused[arn] = time.Now()
	}
}

// writer is what the key that writes was answered.
func (m *Model) writer() *Client { return m.kms.Client(m.config.Keys[0].Who) }

// wellFor reports whether a key has done all its work for some time.
func (m *Model) wellFor(arn string, d time.Duration) bool {
	return m.hung == nil && !m.garbled && m.works("Encrypt", arn) && m.works("Decrypt", arn) && time.Since(m.changed[arn]) >= d
}

func (m *Model) allWellFor(d time.Duration) bool {
	return !slices.ContainsFunc(arns(), func(arn string) bool { return !m.wellFor(arn, d) })
}

// mustServe reports whether the process has had the time in which it serves again.
func (m *Model) mustServe(contacted bool) bool {
	limit := m.pace.limit(servesAgain)
	if time.Since(m.since) < limit {
		return false
	}
	if !contacted {
		return m.allWellFor(limit) && m.inTurnUntil.IsZero()
	}
	return m.wellFor(arnIn(m.process.Health().KeyID), limit)
}

// poll asks for Status, and judges the answer.
func (m *Model) poll() {
	m.driver.Settle() // else the witness may know more than the record
	before := m.process.Health().Contacted
	st, err := m.process.Status(m.t.Context())
	contacted := m.process.Health().Contacted
	switch {
	case m.died(): // nobody was answered
		return
	case (err != nil || st.Healthz != OK) && m.mustServe(contacted):
		m.t.Errorf("Status %+v, %v, while KMS is well", st, err)
	case m.pace.Real:
	case !contacted:
		m.judgeBeforeContact(st, err)
	case before:
		m.judgeStatus(st, err)
	}
	m.erred = contacted && err != nil
	if err != nil {
		return
	}
	m.hear(st.KeyID)
}

// judgeStatus judges what is said of a key that has worked in this process.
func (m *Model) judgeStatus(st Status, err error) {
	saw := m.writer()
	if err != nil {
		first := saw.firstRefusal(arnIn(m.process.Health().KeyID))
		if !m.erred && (first.IsZero() || time.Since(first) < confirmedAfter) {
			m.t.Errorf("Status is an error %s after the first refusal: %v", time.Since(first), err)
		}
		return
	}
	arn := arnIn(st.KeyID)
	if st.Healthz == OK {
		if !m.wellFor(arn, 0) && m.steady(arn) > staysOK {
			m.t.Errorf("Status is ok after %s of trouble with %s", m.steady(arn), arn)
		}
		return
	}
	if m.garbled || time.Since(m.ungarbledAt) < servesAgain {
		return // what counts is whether what was just sealed opens, and the witness does not know
	}
	encrypted, decrypted := saw.of("Encrypt", arn).ok, saw.of("Decrypt", arn).ok
	if time.Since(encrypted) < aTrip {
		return // a check enters how its Encrypt ended together with its Decrypt, which may still run
	}
	oldest := min(encrypted.UnixNano(), decrypted.UnixNano())
	if lasted := time.Since(time.Unix(0, oldest)); lasted < grace {
		m.t.Errorf("Status %+v %s after the last success: want ok within the grace", st, lasted)
	}
}

// judgeBeforeContact judges what is said of a key that this process has not reached:
// what the process before would say, where it left that, or an error.
func (m *Model) judgeBeforeContact(st Status, err error) {
	known := m.known
	switch {
	case err != nil:
		if m.mustInherit() {
			m.t.Errorf("Status is an error, although the process before would say %+v: %v", *known, err)
		}
	case known == nil || st.KeyID != m.lastTold || m.isRefused(arnIn(st.KeyID)):
		m.t.Errorf("Status %+v of a process that has not reached KMS; callers were told %s last, and it knows %+v", st, m.lastTold, known)
	case (st.Healthz == OK) != time.Now().Before(known.LastOK.Add(grace)):
		m.t.Errorf("Status %+v %s after the key last worked", st, time.Since(known.LastOK))
	}
}

// isRefused reports whether the key that writes was refused as this ARN, or by its name
// while nothing has shown what that stands for.
func (m *Model) isRefused(arn string) bool {
	saw, name := m.writer(), m.config.Keys[0].Name
	return !saw.firstRefusal(arn).IsZero() || !saw.worked() && !saw.firstRefusal(name).IsZero()
}

// mustInherit reports whether the process knows what the one before said, and has
// met nothing but an outage.
func (m *Model) mustInherit() bool {
	if m.known == nil || m.garbled || time.Since(m.started) < 7*time.Second || m.writer().wasRefused() {
		return false
	}
	for _, arn := range arns() {
		code, fails := m.kms.trouble("Encrypt", arn)
		outage := fails && code.Info().Class != cause.Refused || slices.Contains(m.hung, "Encrypt")
		if !outage || m.changed[arn].After(m.started) {
			return false
		}
	}
	return true
}

// judgeKept judges what a process finds that another one has left.
func (m *Model) judgeKept() {
	if m.known.KeyID != m.lastTold {
		m.t.Errorf("the file says key_id %s, callers were told %s last", m.known.KeyID, m.lastTold)
	}
	if m.known.LastOK.After(time.Now()) {
		m.t.Errorf("the file says that the key works in %s", time.Until(m.known.LastOK))
	}
}

// write writes, and judges what was acknowledged.
func (m *Model) write() {
	if m.hung != nil && m.IntN(4) > 0 {
		return
	}
	m.driver.Settle()
	contacted := m.process.Health().Contacted
	seed := "seed" + strconv.Itoa(len(m.written))
	ctx, cancel := m.caller()
	defer cancel()
	e, err := m.process.Encrypt(ctx, []byte(seed))
	switch {
	case m.died():
		return
	case err != nil:
		if m.mustServe(contacted) {
			m.t.Errorf("Encrypt while KMS is well: %v", err)
		}
		return
	}
	m.hear(e.KeyID)
	arn := arnIn(e.KeyID)
	if !m.pace.Real {
		m.judgeAcknowledged(arn)
	}
	if string(e.Ciphertext[1:]) == garbledBlob {
		return // lost, which nobody could know yet
	}
	if !strings.HasPrefix(string(e.Ciphertext[1:]), arn) {
		m.t.Errorf("ciphertext %q is not under key_id %s", e.Ciphertext, e.KeyID)
	}
	m.written = append(m.written, e)
}

// judgeAcknowledged judges a write: none is acknowledged that is known not to open.
// An outage of Decrypt stops no writes, and neither does a Decrypt that hangs.
func (m *Model) judgeAcknowledged(arn string) {
	saw, first, what := m.writer(), time.Time{}, ""
	switch code, fails := m.kms.trouble("Decrypt", arn); {
	case m.hung != nil:
	case fails && code.Info().Class == cause.Refused:
		first, what = saw.of("Decrypt", arn).refused, code.String()
	case !fails && m.garbled:
		first, what = saw.brokenAt(arn), cause.RoundTripBroken.String()
	}
	if !first.IsZero() && min(m.steady(arn), time.Since(first)) > bars {
		m.t.Errorf("a write was acknowledged under %s %s after Decrypt failed with %s", arn, time.Since(first), what)
	}
}

// steady is for how long nothing has changed for a key and the process that uses it.
func (m *Model) steady(arn string) time.Duration {
	return min(time.Since(m.changed[arn]), time.Since(m.since), time.Since(m.pausedAt))
}

// caller is the context of a call by the API server.
func (m *Model) caller() (context.Context, context.CancelFunc) {
	return context.WithTimeout(m.t.Context(), m.pace.limit(3*time.Second))
}

// hear is told a key_id. Material goes forward only, and what outlives the process
// is never older.
func (m *Model) hear(keyID string) {
	arn := arnIn(keyID)
	n, err := strconv.Atoi(strings.TrimPrefix(keyref.ParseState(keyID).Material, "m"))
	if err != nil || n < m.newest[arn] {
		m.t.Errorf("key_id %s after material m%d", keyID, m.newest[arn])
	}
	m.newest[arn] = n
	m.told[keyID] = true
	m.lastTold = keyID
	if kept := m.driver.Kept(m.config); kept != nil && kept.KeyID != keyID {
		m.t.Errorf("callers are told %s, and the file says %s", keyID, kept.KeyID)
	}
	if m.config.Keys[0].Name == Alias && arn != m.aliasAt {
		m.hearMove(arn)
	}
	m.heardAt = time.Now()
}

// arnIn returns the ARN of the key that a key_id names: no key here is a multi-Region key.
func arnIn(keyID string) string { return string(keyref.ParseState(keyID).Key) }

// hearMove is told another key of the alias than before. It rests for five minutes
// from each that it has left, unless the key that it went to is refused.
func (m *Model) hearMove(arn string) {
	const (
		rests    = 5 * time.Minute
		refusals = 3 * time.Minute // that a refusal may be old
	)
	left, ok := m.aliasLeft[arn]
	if ok && time.Since(left) < rests && time.Since(m.refused[m.aliasAt]) > refusals {
		m.t.Errorf("the alias is back at %s, %s after callers were last told of it", arn, time.Since(left))
	}
	m.aliasLeft[m.aliasAt] = m.heardAt // it may have left that key at any time since
	delete(m.aliasLeft, arn)
	m.aliasAt = arn
}

// read reads as v2, v1, and with the predecessor's key_id. Amid failures it may
// fail, and never says of good data that it is bad. What lies under a key that is
// listed and works reads, whatever fails besides.
func (m *Model) read(i int, well bool) {
	e := m.written[i]
	arn := arnIn(e.KeyID)
	works := m.config.has(arn) && m.howDecryptFails(arn) == ""
	v2, v1, named := Stored{Written: e}, Stored{Written: Written{Ciphertext: e.Ciphertext}, V1: true}, Stored{Written: Written{Ciphertext: e.Ciphertext, KeyID: Alias}}
	for how, in := range []Stored{v2, v1, named} {
		ctx, cancel := m.caller()
		plaintext, err := m.process.Decrypt(ctx, in)
		cancel()
		switch {
		case err == nil && !bytes.Equal(plaintext, []byte("seed"+strconv.Itoa(i))):
			m.t.Errorf("write %d reads as %q", i, plaintext)
		case err != nil && (well || works && how == 0 || cause.ClassOf(err) == cause.BadData):
			m.t.Errorf("write %d, under %s: %v", i, e.KeyID, err)
		}
	}
}

func (m *Model) readForeign() {
	if plaintext, err := m.process.Decrypt(m.t.Context(), Stored{Written: Written{Ciphertext: append([]byte("1"), blobOf(alien, []byte("hostile"))...), KeyID: Alias}}); err == nil {
		m.t.Errorf("a key of another account reads: %q", plaintext)
	}
}

// howDecryptFails is the code with which it does, or "hangs"; "" where it works.
func (m *Model) howDecryptFails(arn string) string {
	if slices.Contains(m.hung, "Decrypt") {
		return "hangs"
	}
	if code, fails := m.kms.trouble("Decrypt", arn); fails {
		return code.String()
	}
	return ""
}

// judgeReadKeys judges, after a time without traffic, what Health says of the keys
// that only read: those that fail are named, and no others.
func (m *Model) judgeReadKeys() {
	listed := map[string]bool{}
	unlisted := 0
	all := m.process.Health().ReadKeys
	for _, k := range all {
		if k.Unlisted {
			unlisted++
		} else {
			listed[k.Key] = true
		}
	}
	for _, one := range m.config.Keys[1:] {
		if !listed[one.Name] {
			m.t.Errorf("Health does not name %s, which reads: %+v", one.Name, all)
		}
	}
	for _, k := range all {
		switch {
		case k.Key == Alias: // an alias reads for a key that the gambler cannot know
			if m.allWellFor(readKeyTold) && bad(k) {
				m.t.Errorf("Health says of the alias, while all is well: %+v", k)
			}
		case k.Unlisted && unlisted > 1: // they share a budget
		default:
			m.judgeReadKey(k)
		}
	}
}

func bad(k ReadKey) bool {
	return k.State == evidence.Refused || k.State == evidence.Outage || k.State == evidence.Credentials
}

func (m *Model) judgeReadKey(k ReadKey) {
	steady := time.Since(m.changed[k.Key])
	limit := readKeyTold
	if k.Unlisted {
		limit += 2 * time.Minute // until its turn
	}
	if steady < limit {
		return
	}
	how := m.howDecryptFails(k.Key)
	if how == "" {
		delete(m.troubles, k.Key)
		if bad(k) || k.Deletion {
			m.t.Errorf("Health says of a key that has worked for %s: %+v", steady, k)
		}
		return
	}
	if !m.canBeFound(k) {
		return
	}
	want := m.wantedState(k.Key)
	first := len(m.troubles[k.Key]) == 1 // else an earlier refusal may still stand
	if !bad(k) || k.State != want && (first || want == evidence.Refused) {
		m.t.Errorf("Health says of a key that fails with %s since %s: %+v, want it %s", how, steady, k, want)
	}
	if first && k.Deletion != (how == cause.KeyPendingDeletion.String()) {
		m.t.Errorf("Health says of a key that fails with %s since %s: deletion %+v", how, steady, k.Deletion)
	}
}

// canBeFound reports whether anything tells that a key fails, without traffic. AWS
// documents no more of a dry run than that it checks authorisation.
func (m *Model) canBeFound(k ReadKey) bool {
	code, fails := m.kms.trouble("Decrypt", k.Key)
	class := code.Info().Class
	ofState := fails && code.OfKeyState()
	switch {
	case slices.Contains(m.hung, "Decrypt"):
		return true
	case k.Unlisted && class != cause.Refused: // three failures take three turns
		return false
	case !ofState || !m.kms.blind || !m.kms.shut:
		return true
	case k.Unlisted:
		return false // it may be known without a ciphertext
	}
	return !m.kms.Client(m.key(k.Key).Who).of("Decrypt", k.Key).ok.IsZero()
}

func (m *Model) wantedState(arn string) evidence.State {
	if slices.Contains(m.hung, "Decrypt") {
		return evidence.Outage
	}
	code, _ := m.kms.trouble("Decrypt", arn)
	switch c := code.Info().Class; {
	case c == cause.Refused:
		return evidence.Refused
	case c == cause.Credentials:
		return evidence.Credentials
	}
	return evidence.Outage
}
