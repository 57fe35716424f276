package model

import (
	"fmt"
	"strconv"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// happen makes one thing happen, and notes it.
func (m *Model) happen() {
	arn := arns()[m.IntN(3)]
	var what string
	switch m.IntN(26) {
	case 0, 1:
		m.rotated[arn]++
		what = m.show(arn, m.rotated[arn])
	case 2:
		what = m.showBefore(arn)
	case 3, 4, 5:
		what = m.moveAlias(arn)
	case 6, 7:
		what = m.breakOne(arn)
	case 8, 9:
		what = m.setState(arn)
	case 10:
		what = m.denyDecrypt()
	case 11:
		what = m.garble()
	case 12:
		what = m.hangSome()
	case 13:
		what = m.pause()
	case 14:
		what = m.restart()
	case 15:
		what = m.restartInAnOutage()
	case 16:
		what = m.dieAtWrite()
	case 17:
		what = m.fillDisk()
	case 18, 19:
		what = m.mendOne(arn)
	case 20, 21, 22:
		what = m.mend()
	default:
		what = m.reload()
	}
	if what != "" {
		m.tell(what)
	}
}

// spell is for how long something lasts: less than so many seconds.
func (m *Model) spell(most int) time.Duration {
	return m.pace.spell(time.Duration(m.IntN(most)) * time.Second)
}

func (m *Model) show(arn string, material int) string {
	m.kms.rotate(arn, "m"+strconv.Itoa(material))
	return fmt.Sprintf("%s shows material m%d", arn, material)
}

// showBefore makes a key answer from before its rotation. What was never told cannot
// be known to be from before.
func (m *Model) showBefore(arn string) string {
	before := m.rotated[arn] - 1
	if !m.told[arn+"?material=m"+strconv.Itoa(before)] {
		return ""
	}
	return m.show(arn, before)
}

// moveAlias moves the alias, which names the key before as well for up to three
// minutes, half of the times.
func (m *Model) moveAlias(arn string) string {
	m.propagated()
	if m.IntN(2) == 0 {
		m.kms.moveAlias(arn, false)
		return "alias at " + arn
	}
	took := m.spell(180)
	before := m.kms.moveAlias(arn, true)
	m.inTurnUntil = time.Now().Add(took)
	return fmt.Sprintf("alias at %s, and for %s at %s in turn", arn, took, before)
}

// propagated makes the alias's move known everywhere.
func (m *Model) propagated() {
	m.kms.propagate()
	m.inTurnUntil = time.Time{}
}

// breakOne makes one operation of a key fail.
func (m *Model) breakOne(arn string) string {
	codes := []cause.Code{cause.AccessDenied, cause.KMSInternal, cause.CredentialsExpired}
	return m.fail([]string{"Encrypt", "Decrypt"}[m.IntN(2)], arn, codes[m.IntN(len(codes))])
}

func (m *Model) fail(op, arn string, code cause.Code) string {
	m.kms.fail(op, arn, code)
	m.touch(arn)
	return fmt.Sprintf("%s %s fails: %s", op, arn, code)
}

// setState puts a key in a state of KMS in which it does nothing.
func (m *Model) setState(arn string) string {
	state := []string{"Disabled", "PendingDeletion"}[m.IntN(2)]
	m.kms.set(arn, state)
	m.touch(arn)
	return arn + " is " + state
}

// denyDecrypt makes the key that writes one that only encrypts.
func (m *Model) denyDecrypt() string {
	arn := arnIn(m.lastTold)
	if arn == "" {
		return ""
	}
	m.kms.mend("Encrypt", arn)
	return m.fail("Decrypt", arn, cause.AccessDenied)
}

// garble makes KMS seal what does not open.
func (m *Model) garble() string {
	m.garbled = true
	m.kms.garble(true)
	m.touch(arns()...)
	return "what is sealed does not open"
}

// hangSome makes calls ignore their time for up to five minutes.
func (m *Model) hangSome() string {
	m.unhang()
	m.hang([][]string{{"Encrypt"}, {"Decrypt"}, {"Encrypt", "Decrypt"}}[m.IntN(3)]...)
	took := m.spell(300)
	m.hungUntil = time.Now().Add(took)
	return fmt.Sprintf("%s hang for %s", m.hung, took)
}

func (m *Model) hang(ops ...string) {
	m.hung = ops
	m.kms.hang(ops...)
	m.touch(arns()...)
}

func (m *Model) unhang() {
	if m.hung == nil {
		return
	}
	m.kms.release()
	m.driver.Settle() // what hung ends as things are now
	m.hung = nil
	m.touch(arns()...)
}

// expire ends what was to last for a while.
func (m *Model) expire() {
	now := time.Now()
	if m.hung != nil && now.After(m.hungUntil) {
		m.unhang()
		m.tell("nothing hangs")
	}
	if !m.inTurnUntil.IsZero() && now.After(m.inTurnUntil) {
		m.propagated()
	}
}

// pause is a process that does not run for up to an hour. No time can pass here in
// which only it stands still: so its evidence is made older, at the end of the
// shortest time without a turn that counts as a pause.
func (m *Model) pause() string {
	took := time.Duration(m.IntN(3600)) * time.Second
	p, ok := m.process.(Pauser)
	if !ok {
		return ""
	}
	p.Freeze()
	time.Sleep(11*time.Second + time.Nanosecond)
	for _, arn := range arns() {
		first := m.writer().firstRefusal(arn)
		m.erred = m.erred || !first.IsZero() && time.Since(first) >= confirmedAfter // before the pause
	}
	p.Thaw(took)
	m.pausedAt = time.Now()
	m.kms.each(func(c *Client) { c.forgetRefusals() })
	m.poll()
	return fmt.Sprintf("the process did not run for %s", took)
}

// restartInAnOutage begins a process that cannot reach KMS.
func (m *Model) restartInAnOutage() string {
	what := "outage"
	if m.IntN(3) == 0 {
		m.unhang()
		m.hang("Encrypt", "Decrypt")
		m.hungUntil = time.Now().Add(m.spell(180))
		what = "nothing answers"
	} else {
		code := []cause.Code{cause.Unreachable, cause.CredentialsExpired}[m.IntN(2)]
		for _, arn := range arns() {
			m.fail("Encrypt", arn, code)
			m.fail("Decrypt", arn, code)
		}
	}
	m.tell(what)
	return m.restart()
}

// dieAtWrite kills the process when its file is about to say another key_id, or has
// just been made to.
func (m *Model) dieAtWrite() string {
	before := m.IntN(2) == 0
	p, ok := m.process.(Mortal)
	if !ok {
		return ""
	}
	p.DieAtWrite(before)
	return fmt.Sprintf("the process will be killed as it writes its file, before that: %t", before)
}

func (m *Model) fillDisk() string {
	d, ok := m.driver.(Disk)
	if !ok {
		return ""
	}
	d.SetFull(true)
	return "the file cannot be written"
}

func (m *Model) mendOne(arn string) string {
	if m.works("Encrypt", arn) && m.works("Decrypt", arn) {
		return ""
	}
	m.kms.set(arn, "")
	m.touch(arn)
	return arn + " is well"
}

func (m *Model) works(op, arn string) bool {
	_, fails := m.kms.trouble(op, arn)
	return !fails
}

func (m *Model) mend() string {
	for _, arn := range arns() {
		m.kms.rotate(arn, "m"+strconv.Itoa(m.rotated[arn]))
		m.mendOne(arn)
	}
	m.unhang()
	if m.garbled {
		m.garbled, m.ungarbledAt = false, time.Now()
		m.kms.garble(false)
		m.touch(arns()...)
		m.kms.each(func(c *Client) { c.forgetBroken() })
	}
	if d, ok := m.driver.(Disk); ok {
		d.SetFull(false)
	}
	return "all is well"
}

// touch notes that keys fail otherwise from now on, or work.
func (m *Model) touch(arns ...string) {
	for _, arn := range arns {
		m.changed[arn] = time.Now()
		if how := m.howDecryptFails(arn); how != "" {
			if m.troubles[arn] == nil {
				m.troubles[arn] = map[string]bool{}
			}
			m.troubles[arn][how] = true
		}
	}
}
