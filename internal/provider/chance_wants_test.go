package provider_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/evidence"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/keyring"
	"sigs.k8s.io/aws-encryption-provider/internal/kmskey"
	"sigs.k8s.io/aws-encryption-provider/internal/provider"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// What is promised.
const (
	servesAgain    = 10 * time.Second // after KMS is well
	confirmedAfter = 5 * time.Second  // after the first refusal, and not earlier
	bars           = 11 * time.Second // the same, and a check that is due then
	staysOK        = 90 * time.Second // at most, in trouble: more than the grace, and than three checks
	readKeyTold    = 6 * time.Minute  // that one fails, or works again
	remembersNo    = 11 * time.Second // a refusal of an earlier key of an alias
)

// serve is an API server that polls, writes and reads.
func (g *gambler) serve(d time.Duration) {
	for end := time.Now().Add(d); !time.Now().After(end) && !g.t.Failed(); time.Sleep(7 * time.Second) {
		g.live()
		g.poll()
		g.write()
		if n := len(g.written); n > 0 && (g.release == nil || g.IntN(4) == 0) {
			g.read(g.IntN(n), g.allWellFor(remembersNo))
		}
		if g.release == nil {
			g.readForeign()
		}
	}
}

// rest is a time without traffic, after which all that is promised is told.
func (g *gambler) rest() {
	g.tell("no traffic")
	for end := time.Now().Add(readKeyTold); time.Now().Before(end); time.Sleep(5 * time.Second) {
		g.live()
	}
	g.live()
	if g.t.Failed() {
		return
	}
	g.judgeReadKeys()
	g.poll()
}

// live lets time do its work, on KMS and on the process.
func (g *gambler) live() {
	g.expire()
	g.noteRefusals()
	if g.dead.Load() {
		g.tell("the process was killed at a write of its file")
		g.tell(g.restart())
	}
}

func (g *gambler) noteRefusals() {
	g.kms.mu.Lock()
	defer g.kms.mu.Unlock()
	for what, err := range g.kms.fails {
		if _, arn, _ := strings.Cut(what, " "); cause.ClassOf(err) == cause.Refused {
			g.refused[arn] = time.Now()
		}
	}
}

// writer is what the key that writes was answered.
func (g *gambler) writer() *witness { return g.keys[g.names[0]].saw }

// wellFor reports whether a key has done all its work for some time.
func (g *gambler) wellFor(arn string, d time.Duration) bool {
	return g.release == nil && !g.garbled && g.kms.trouble("Encrypt", arn) == nil && g.kms.trouble("Decrypt", arn) == nil &&
		time.Since(g.changed[arn]) >= d
}

func (g *gambler) allWellFor(d time.Duration) bool {
	return !slices.ContainsFunc(arns(), func(arn string) bool { return !g.wellFor(arn, d) })
}

// mustServe reports whether the process has had the time in which it serves again.
func (g *gambler) mustServe(contacted bool) bool {
	if time.Since(g.since) < servesAgain {
		return false
	}
	if !contacted {
		return g.allWellFor(servesAgain) && g.inTurnUntil.IsZero()
	}
	return g.wellFor(keyref.ParseState(g.ring.Health().KeyID).Key, servesAgain)
}

// poll asks for Status, and judges the answer.
func (g *gambler) poll() {
	synctest.Wait() // else the witness may know more than the record
	before := g.ring.Contacted()
	st, err := g.ring.Status(g.t.Context())
	contacted := g.ring.Contacted()
	switch {
	case g.dead.Load(): // nobody was answered
		return
	case (err != nil || st.Healthz != provider.OK) && g.mustServe(contacted):
		g.t.Errorf("Status %+v, %v, while KMS is well", st, err)
	case !contacted:
		g.judgeBeforeContact(st, err)
	case before:
		g.judgeStatus(st, err)
	}
	g.erred = contacted && err != nil
	if err != nil {
		return
	}
	g.hear(st.KeyID)
}

// judgeStatus judges what is said of a key that has worked in this process.
func (g *gambler) judgeStatus(st provider.Status, err error) {
	saw := g.writer()
	if err != nil {
		first := saw.firstRefusal(keyref.ParseState(g.ring.Health().KeyID).Key)
		if !g.erred && (first.IsZero() || time.Since(first) < confirmedAfter) {
			g.t.Errorf("Status is an error %s after the first refusal: %v", time.Since(first), err)
		}
		return
	}
	arn := keyref.ParseState(st.KeyID).Key
	if st.Healthz == provider.OK {
		if !g.wellFor(arn, 0) && g.steady(arn) > staysOK {
			g.t.Errorf("Status is ok after %s of trouble with %s", g.steady(arn), arn)
		}
		return
	}
	if g.garbled || time.Since(g.ungarbledAt) < servesAgain {
		return // what counts is whether what was just sealed opens, and the witness does not know
	}
	oldest := min(saw.of("Encrypt "+arn).ok.UnixNano(), saw.of("Decrypt "+arn).ok.UnixNano())
	if lasted := time.Since(time.Unix(0, oldest)); lasted < chanceGrace {
		g.t.Errorf("Status %+v %s after the last success: want ok within the grace", st, lasted)
	}
}

// judgeBeforeContact judges what is said of a key that this process has not reached:
// what the process before would say, where it left that, or an error.
func (g *gambler) judgeBeforeContact(st provider.Status, err error) {
	known := g.known
	switch {
	case err != nil:
		if g.mustInherit() {
			g.t.Errorf("Status is an error, although the process before would say %+v: %v", *known, err)
		}
	case known == nil || st.KeyID != g.lastTold || !g.writer().firstRefusal(g.ring.Address()).IsZero():
		g.t.Errorf("Status %+v of a process that has not reached KMS; callers were told %s last, and it knows %+v", st, g.lastTold, known)
	case (st.Healthz == provider.OK) != time.Now().Before(known.LastOK.Add(chanceGrace)):
		g.t.Errorf("Status %+v %s after the key last worked", st, time.Since(known.LastOK))
	}
}

// mustInherit reports whether the process knows what the one before said, and has
// met nothing but an outage.
func (g *gambler) mustInherit() bool {
	if g.known == nil || g.garbled || time.Since(g.started) < 7*time.Second || g.writer().wasRefused() {
		return false
	}
	for _, arn := range arns() {
		e := g.kms.trouble("Encrypt", arn)
		outage := e != nil && e.Class() != cause.Refused || slices.Contains(g.hung, "Encrypt")
		if !outage || g.changed[arn].After(g.started) {
			return false
		}
	}
	return true
}

// judgeKept judges what a process finds that another one has left.
func (g *gambler) judgeKept() {
	if g.known.KeyID != g.lastTold {
		g.t.Errorf("the file says key_id %s, callers were told %s last", g.known.KeyID, g.lastTold)
	}
	if g.known.LastOK.After(time.Now()) {
		g.t.Errorf("the file says that the key works in %s", time.Until(g.known.LastOK))
	}
}

// write writes, and judges what was acknowledged.
func (g *gambler) write() {
	if g.release != nil && g.IntN(4) > 0 {
		return
	}
	synctest.Wait()
	contacted := g.ring.Contacted()
	seed := "seed" + strconv.Itoa(len(g.written))
	ctx, cancel := g.caller()
	defer cancel()
	e, err := g.ring.Encrypt(ctx, secret.Bytes(seed))
	switch {
	case g.dead.Load():
		return
	case err != nil:
		if g.mustServe(contacted) {
			g.t.Errorf("Encrypt while KMS is well: %v", err)
		}
		return
	}
	g.hear(e.KeyID)
	arn := keyref.ParseState(e.KeyID).Key
	g.judgeAcknowledged(arn)
	if string(e.Ciphertext[1:]) == garbledBlob {
		return // lost, which nobody could know yet
	}
	if !strings.HasPrefix(string(e.Ciphertext[1:]), arn) {
		g.t.Errorf("ciphertext %q is not under key_id %s", e.Ciphertext, e.KeyID)
	}
	g.written = append(g.written, e)
}

// judgeAcknowledged judges a write: none is acknowledged that is known not to open.
// An outage of Decrypt stops no writes, and neither does a Decrypt that hangs.
func (g *gambler) judgeAcknowledged(arn string) {
	saw, first, what := g.writer(), time.Time{}, ""
	switch e := g.kms.trouble("Decrypt", arn); {
	case g.release != nil:
	case e != nil && e.Class() == cause.Refused:
		first, what = saw.of("Decrypt "+arn).refused, e.Code.String()
	case e == nil && g.garbled:
		first, what = saw.brokenAt(arn), cause.RoundTripBroken.String()
	}
	if !first.IsZero() && min(g.steady(arn), time.Since(first)) > bars {
		g.t.Errorf("a write was acknowledged under %s %s after Decrypt failed with %s", arn, time.Since(first), what)
	}
}

// steady is for how long nothing has changed for a key and the process that uses it.
func (g *gambler) steady(arn string) time.Duration {
	return min(time.Since(g.changed[arn]), time.Since(g.since), time.Since(g.pausedAt))
}

// caller is the context of a call by the API server.
func (g *gambler) caller() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithValue(g.t.Context(), callersContext{}, true), 3*time.Second)
}

// hear is told a key_id. Material goes forward only, and what outlives the process
// is never older.
func (g *gambler) hear(keyID string) {
	s := keyref.ParseState(keyID)
	n, err := strconv.Atoi(strings.TrimPrefix(s.Material, "m"))
	if err != nil || n < g.newest[s.Key] {
		g.t.Errorf("key_id %s after material m%d", keyID, g.newest[s.Key])
	}
	g.newest[s.Key] = n
	g.told[keyID] = true
	g.lastTold = keyID
	if kept, _ := g.file.read(); kept != nil && kept.KeyID != keyID {
		g.t.Errorf("callers are told %s, and the file says %s", keyID, kept.KeyID)
	}
	if g.names[0] == alias && s.Key != g.aliasAt {
		g.hearMove(s.Key)
	}
	g.heardAt = time.Now()
}

// hearMove is told another key of the alias than before. It rests for five minutes
// from each that it has left, unless the key that it went to is refused.
func (g *gambler) hearMove(arn string) {
	const (
		rests    = 5 * time.Minute
		refusals = 3 * time.Minute // that a refusal may be old
	)
	left, ok := g.aliasLeft[arn]
	if ok && time.Since(left) < rests && time.Since(g.refused[g.aliasAt]) > refusals {
		g.t.Errorf("the alias is back at %s, %s after callers were last told of it", arn, time.Since(left))
	}
	g.aliasLeft[g.aliasAt] = g.heardAt // it may have left that key at any time since
	delete(g.aliasLeft, arn)
	g.aliasAt = arn
}

// read reads as v2, v1, and with the predecessor's key_id. Amid failures it may
// fail, and never says of good data that it is bad. What lies under a key that is
// listed and works reads, whatever fails besides.
func (g *gambler) read(i int, well bool) {
	e := g.written[i]
	arn := keyref.ParseState(e.KeyID).Key
	works := slices.Contains(g.names, arn) && g.howDecryptFails(arn) == ""
	for how, in := range []keyring.Stored{read(e), {Ciphertext: e.Ciphertext, Bare: true}, {Ciphertext: e.Ciphertext, KeyID: alias}} {
		ctx, cancel := g.caller()
		plaintext, err := g.ring.Decrypt(ctx, in)
		cancel()
		switch {
		case err == nil && !bytes.Equal(plaintext, []byte("seed"+strconv.Itoa(i))):
			g.t.Errorf("write %d reads as %q", i, plaintext)
		case err != nil && (well || works && how == 0 || cause.ClassOf(err) == cause.BadData):
			g.t.Errorf("write %d, under %s: %v", i, e.KeyID, err)
		}
	}
}

func (g *gambler) readForeign() {
	if plaintext, err := g.ring.Decrypt(g.t.Context(), stored(alien, "hostile", alias)); err == nil {
		g.t.Errorf("a key of another account reads: %q", plaintext)
	}
}

// howDecryptFails is the code with which it does, or "hangs"; "" where it works.
func (g *gambler) howDecryptFails(arn string) string {
	if slices.Contains(g.hung, "Decrypt") {
		return "hangs"
	}
	if e := g.kms.trouble("Decrypt", arn); e != nil {
		return e.Code.String()
	}
	return ""
}

// judgeReadKeys judges, after a time without traffic, what Health says of the keys
// that only read: those that fail are named, and no others.
func (g *gambler) judgeReadKeys() {
	listed := map[string]bool{}
	unlisted := 0
	all := g.ring.Health().ReadKeys
	for _, k := range all {
		if k.Unlisted {
			unlisted++
		} else {
			listed[k.Key] = true
		}
	}
	for _, name := range g.names[1:] {
		if !listed[name] {
			g.t.Errorf("Health does not name %s, which reads: %+v", name, all)
		}
	}
	for _, k := range all {
		switch {
		case k.Key == alias: // an alias reads for a key that the gambler cannot know
			if g.allWellFor(readKeyTold) && bad(k) {
				g.t.Errorf("Health says of the alias, while all is well: %+v", k)
			}
		case k.Unlisted && unlisted > 1: // they share a budget
		default:
			g.judgeReadKey(k)
		}
	}
}

func bad(k kmskey.Health) bool {
	return k.State == evidence.Refused || k.State == evidence.Outage || k.State == evidence.Credentials
}

func (g *gambler) judgeReadKey(k kmskey.Health) {
	steady := time.Since(g.changed[k.Key])
	limit := readKeyTold
	if k.Unlisted {
		limit += 2 * time.Minute // until its turn
	}
	if steady < limit {
		return
	}
	how := g.howDecryptFails(k.Key)
	if how == "" {
		delete(g.troubles, k.Key)
		if bad(k) || k.Deletion != nil {
			g.t.Errorf("Health says of a key that has worked for %s: %+v", steady, k)
		}
		return
	}
	if !g.canBeFound(k) {
		return
	}
	want := g.wantedState(k.Key)
	first := len(g.troubles[k.Key]) == 1 // else an earlier refusal may still stand
	if !bad(k) || k.State != want && (first || want == evidence.Refused) {
		g.t.Errorf("Health says of a key that fails with %s since %s: %+v, want it %s", how, steady, k, want)
	}
	if first && (k.Deletion != nil) != (how == cause.KeyPendingDeletion.String()) {
		g.t.Errorf("Health says of a key that fails with %s since %s: deletion %+v", how, steady, k.Deletion)
	}
}

// canBeFound reports whether anything tells that a key fails, without traffic. AWS
// documents no more of a dry run than that it checks authorisation.
func (g *gambler) canBeFound(k kmskey.Health) bool {
	e := g.kms.trouble("Decrypt", k.Key)
	ofState := e != nil && (e.Code == cause.KeyDisabled || e.Code == cause.KeyPendingDeletion)
	switch {
	case slices.Contains(g.hung, "Decrypt"):
		return true
	case k.Unlisted && e.Class() != cause.Refused: // three failures take three turns
		return false
	case !ofState || !g.kms.blind || !g.kms.shut:
		return true
	case k.Unlisted:
		return false // it may be known without a ciphertext
	}
	return !g.keys[k.Key].saw.of("Decrypt " + k.Key).ok.IsZero()
}

func (g *gambler) wantedState(arn string) evidence.State {
	if slices.Contains(g.hung, "Decrypt") {
		return evidence.Outage
	}
	switch c := g.kms.trouble("Decrypt", arn).Class(); {
	case c == cause.Refused:
		return evidence.Refused
	case c == cause.Credentials:
		return evidence.Credentials
	}
	return evidence.Outage
}
