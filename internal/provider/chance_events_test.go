package provider_test

import (
	"fmt"
	"strconv"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
)

// happen makes one thing happen, and notes it.
func (g *gambler) happen() {
	arn := arns()[g.IntN(3)]
	var what string
	switch g.IntN(26) {
	case 0, 1:
		g.rotated[arn]++
		what = g.show(arn, g.rotated[arn])
	case 2:
		what = g.showBefore(arn)
	case 3, 4, 5:
		what = g.moveAlias(arn)
	case 6, 7:
		what = g.breakOne(arn)
	case 8, 9:
		what = g.setState(arn)
	case 10:
		what = g.denyDecrypt()
	case 11:
		what = g.garble()
	case 12:
		what = g.hangSome()
	case 13:
		what = g.pause()
	case 14:
		what = g.restart()
	case 15:
		what = g.restartInAnOutage()
	case 16:
		what = g.killAtAWrite()
	case 17:
		g.file.setFull(true)
		what = "the file cannot be written"
	case 18, 19:
		what = g.mendOne(arn)
	case 20, 21, 22:
		what = g.mend()
	default:
		what = g.reload()
	}
	if what != "" {
		g.tell(what)
	}
}

func (g *gambler) show(arn string, material int) string {
	g.kms.rotate(arn, "m"+strconv.Itoa(material))
	return fmt.Sprintf("%s shows material m%d", arn, material)
}

// showBefore makes a key answer from before its rotation. What was never told cannot
// be known to be from before.
func (g *gambler) showBefore(arn string) string {
	before := g.rotated[arn] - 1
	if !g.told[arn+"?material=m"+strconv.Itoa(before)] {
		return ""
	}
	return g.show(arn, before)
}

// moveAlias moves the alias, which names the key before as well for up to three
// minutes, half of the times.
func (g *gambler) moveAlias(arn string) string {
	g.propagated()
	before := g.kms.aliases[alias]
	g.kms.moveAliasTo(arn)
	if g.IntN(2) == 0 {
		return "alias at " + arn
	}
	took := time.Duration(g.IntN(180)) * time.Second
	g.kms.answerInTurn(before)
	g.inTurnUntil = time.Now().Add(took)
	return fmt.Sprintf("alias at %s, and for %s at %s in turn", arn, took, before)
}

// propagated makes the alias's move known everywhere.
func (g *gambler) propagated() {
	g.kms.answerInTurn()
	g.inTurnUntil = time.Time{}
}

// breakOne makes one operation of a key fail.
func (g *gambler) breakOne(arn string) string {
	codes := []cause.Code{cause.AccessDenied, cause.KMSInternal, cause.CredentialsExpired}
	return g.fail([]string{"Encrypt ", "Decrypt "}[g.IntN(2)], arn, codes[g.IntN(len(codes))])
}

func (g *gambler) fail(op, arn string, code cause.Code) string {
	if g.kms.inState(arn) {
		g.kms.set(arn, "Enabled")
	}
	g.kms.fail(op+arn, code)
	g.touch(arn)
	return fmt.Sprintf("%s%s fails: %s", op, arn, code)
}

// setState puts a key in a state of KMS in which it does nothing.
func (g *gambler) setState(arn string) string {
	state := []string{"Disabled", "PendingDeletion"}[g.IntN(2)]
	g.kms.set(arn, state)
	g.touch(arn)
	return arn + " is " + state
}

// denyDecrypt makes the key that writes one that only encrypts.
func (g *gambler) denyDecrypt() string {
	arn := keyref.ParseState(g.lastTold).Key
	if arn == "" {
		return ""
	}
	g.kms.mend("Encrypt " + arn)
	return g.fail("Decrypt ", arn, cause.AccessDenied)
}

// garble makes KMS seal what does not open.
func (g *gambler) garble() string {
	g.garbled = true
	g.kms.garble(true)
	g.touch(arns()...)
	return "what is sealed does not open"
}

// hangSome makes calls ignore their time for up to five minutes.
func (g *gambler) hangSome() string {
	g.unhang()
	g.hang([][]string{{"Encrypt"}, {"Decrypt"}, {"Encrypt", "Decrypt"}}[g.IntN(3)]...)
	took := time.Duration(g.IntN(300)) * time.Second
	g.hungUntil = time.Now().Add(took)
	return fmt.Sprintf("%s hang for %s", g.hung, took)
}

func (g *gambler) hang(ops ...string) {
	g.hung, g.release = ops, g.kms.stick(ops...)
	g.touch(arns()...)
}

func (g *gambler) unhang() {
	if g.release == nil {
		return
	}
	g.release()
	synctest.Wait() // what hung ends as things are now
	g.hung, g.release = nil, nil
	g.touch(arns()...)
}

// expire ends what was to last for a while.
func (g *gambler) expire() {
	now := time.Now()
	if g.release != nil && now.After(g.hungUntil) {
		g.unhang()
		g.tell("nothing hangs")
	}
	if !g.inTurnUntil.IsZero() && now.After(g.inTurnUntil) {
		g.propagated()
	}
}

// pause is a process that does not run for up to an hour. No time can pass here in
// which only it stands still: so its evidence is made older, at the end of the
// shortest time without a turn that counts as a pause.
func (g *gambler) pause() string {
	g.pauses.Turn()
	g.frozen.Store(true)
	time.Sleep(11*time.Second + time.Nanosecond)
	writer := g.writer()
	for _, arn := range arns() {
		first := writer.firstRefusal(arn)
		g.erred = g.erred || !first.IsZero() && time.Since(first) >= confirmedAfter // before the pause
	}
	took := time.Duration(g.IntN(3600)) * time.Second
	g.ring.Frozen(took)
	g.frozen.Store(false)
	g.pausedAt = time.Now()
	for _, k := range g.keys {
		k.saw.forgetRefusals()
	}
	g.poll()
	return fmt.Sprintf("the process did not run for %s", took)
}

// restartInAnOutage begins a process that cannot reach KMS.
func (g *gambler) restartInAnOutage() string {
	what := "outage"
	if g.IntN(3) == 0 {
		g.unhang()
		g.hang("Encrypt", "Decrypt")
		g.hungUntil = time.Now().Add(time.Duration(g.IntN(180)) * time.Second)
		what = "nothing answers"
	} else {
		code := []cause.Code{cause.Unreachable, cause.CredentialsExpired}[g.IntN(2)]
		for _, arn := range arns() {
			g.fail("Encrypt ", arn, code)
			g.fail("Decrypt ", arn, code)
		}
	}
	g.tell(what)
	return g.restart()
}

// killAtAWrite kills the process when its file is about to say another key_id, or
// has just been made to.
func (g *gambler) killAtAWrite() string {
	g.file.mu.Lock()
	defer g.file.mu.Unlock()
	g.killAt = beforeTheWrite + g.IntN(2)
	return fmt.Sprintf("the process will be killed as it writes its file, before that: %t", g.killAt == beforeTheWrite)
}

func (g *gambler) mendOne(arn string) string {
	if g.kms.trouble("Encrypt", arn) == nil && g.kms.trouble("Decrypt", arn) == nil {
		return ""
	}
	g.kms.set(arn, "Enabled")
	g.touch(arn)
	return arn + " is well"
}

func (g *gambler) mend() string {
	for _, arn := range arns() {
		g.kms.rotate(arn, "m"+strconv.Itoa(g.rotated[arn]))
		g.mendOne(arn)
	}
	g.unhang()
	if g.garbled {
		g.garbled, g.ungarbledAt = false, time.Now()
		g.kms.garble(false)
		g.touch(arns()...)
		for _, k := range g.keys {
			k.saw.forgetBroken()
		}
	}
	g.file.setFull(false)
	return "all is well"
}

// touch notes that keys fail otherwise from now on, or work.
func (g *gambler) touch(arns ...string) {
	for _, arn := range arns {
		g.changed[arn] = time.Now()
		if how := g.howDecryptFails(arn); how != "" {
			if g.troubles[arn] == nil {
				g.troubles[arn] = map[string]bool{}
			}
			g.troubles[arn][how] = true
		}
	}
}
