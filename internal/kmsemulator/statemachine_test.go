package kmsemulator_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A model is what one key must be like, kept apart from the emulator's code.
type model struct {
	state     string
	deletion  time.Time
	materials int
	onDemand  int
	rotates   bool
	next      time.Time
	period    int
}

// pass lets time go by in the model.
func (mo *model) pass(now time.Time) {
	if mo.state == "PendingDeletion" && !now.Before(mo.deletion) {
		mo.state = "gone"
	}
	for mo.state == "Enabled" && mo.rotates && !now.Before(mo.next) {
		mo.materials++
		mo.next = mo.next.AddDate(0, 0, mo.period)
	}
}

// TestKeyStateMachine makes calls at random and compares each outcome, and what
// DescribeKey and ListKeyRotations tell afterwards, with the model.
func TestKeyStateMachine(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	rapid.Check(t, func(rt *rapid.T) {
		arn := mustCreate(t, s, kmsemulator.KeyOptions{})
		first := callAt(t, s, c, here, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="})["CiphertextBlob"]
		mo := &model{state: "Enabled", materials: 1}
		do := func(operation string, in m) string {
			in["KeyId"] = arn
			a := sendAt(t, s, c, here, operation, in)
			var body map[string]any
			_ = json.Unmarshal([]byte(a.body), &body)
			if a.status == 200 {
				return "ok"
			}
			return fmt.Sprint(body["__type"])
		}
		expect := func(operation, got string, allowed bool, effect func()) {
			want := "ok"
			switch {
			case mo.state == "gone":
				want = "NotFoundException"
			case allowed:
				effect()
			case mo.state == "Disabled" && operation != "CancelKeyDeletion":
				want = "DisabledException"
			default:
				want = "KMSInvalidStateException"
			}
			if got != want {
				rt.Fatalf("%s in state %s: %s, want %s", operation, mo.state, got, want)
			}
		}
		works := func() bool { return mo.state == "Enabled" }
		exists := func() bool { return mo.state == "Enabled" || mo.state == "Disabled" }
		rt.Repeat(map[string]func(*rapid.T){
			"Enable": func(*rapid.T) {
				got := do("EnableKey", m{})
				expect("EnableKey", got, exists(), func() {
					if mo.state == "Disabled" && mo.rotates && mo.next.Before(c.Now()) {
						mo.next = c.Now()
					}
					mo.state = "Enabled"
				})
			},
			"Disable": func(*rapid.T) {
				expect("DisableKey", do("DisableKey", m{}), exists(), func() { mo.state = "Disabled" })
			},
			"Schedule": func(rt *rapid.T) {
				days := rapid.IntRange(7, 30).Draw(rt, "days")
				expect("ScheduleKeyDeletion", do("ScheduleKeyDeletion", m{"PendingWindowInDays": days}), exists(), func() {
					mo.state, mo.deletion = "PendingDeletion", c.Now().AddDate(0, 0, days)
				})
			},
			"Cancel": func(*rapid.T) {
				expect("CancelKeyDeletion", do("CancelKeyDeletion", m{}), mo.state == "PendingDeletion", func() { mo.state = "Disabled" })
			},
			"Rotate": func(*rapid.T) {
				got := do("RotateKeyOnDemand", m{})
				if works() && mo.onDemand == 25 {
					if got != "LimitExceededException" {
						rt.Fatalf("a 26th rotation: %s", got)
					}
					return
				}
				expect("RotateKeyOnDemand", got, works(), func() { mo.onDemand++; mo.materials++ })
			},
			"EnableRotation": func(rt *rapid.T) {
				days := rapid.IntRange(90, 400).Draw(rt, "days")
				expect("EnableKeyRotation", do("EnableKeyRotation", m{"RotationPeriodInDays": days}), works(), func() {
					mo.rotates, mo.period, mo.next = true, days, c.Now().AddDate(0, 0, days)
				})
			},
			"DisableRotation": func(*rapid.T) {
				expect("DisableKeyRotation", do("DisableKeyRotation", m{}), works(), func() { mo.rotates = false })
			},
			"Encrypt": func(*rapid.T) {
				expect("Encrypt", do("Encrypt", m{"Plaintext": "aa=="}), works(), func() {})
			},
			"DecryptTheFirst": func(*rapid.T) {
				expect("Decrypt", do("Decrypt", m{"CiphertextBlob": first}), works(), func() {})
			},
			"Wait": func(rt *rapid.T) {
				c.advance(time.Duration(rapid.IntRange(1, 120).Draw(rt, "days")) * day)
				mo.pass(c.Now())
			},
			"": func(rt *rapid.T) {
				mo.pass(c.Now())
				if mo.state == "gone" {
					if s.HasKey(arn) {
						rt.Fatal("the key outlives its deletion")
					}
					return
				}
				if got := callAt(t, s, c, here, "DescribeKey", m{"KeyId": arn})["KeyMetadata"].(m)["KeyState"]; got != mo.state {
					rt.Fatalf("the key is %s, want %s", got, mo.state)
				}
				all := callAt(t, s, c, here, "ListKeyRotations", m{"KeyId": arn, "IncludeKeyMaterial": "ALL_KEY_MATERIAL", "Limit": 1000})
				if n := len(all["Rotations"].([]any)); n != mo.materials {
					rt.Fatalf("%d materials, want %d", n, mo.materials)
				}
			},
		})
	})
}

// TestCallsAndChangesSideBySide is for the race detector: what it demands is
// only that each call is answered as one of the states allows.
func TestCallsAndChangesSideBySide(t *testing.T) {
	s := kmstest.Start(t, kmsemulator.Options{PropagationDelay: 2 * time.Millisecond})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{MultiRegion: true})
	if err := s.CreateAlias(here, "alias/a", arn); err != nil {
		t.Fatal(err)
	}
	s.Settle()
	blob := sealed(t, s, arn, []byte("x"), nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 40 {
				for _, in := range []m{{"KeyId": "alias/a", "Plaintext": "aa=="}, {"CiphertextBlob": blob}} {
					operation := "Encrypt"
					if in["CiphertextBlob"] != nil {
						operation = "Decrypt"
					}
					a := raw(t, s, here, operation, mustJSON(t, in))
					if a.status != 200 && a.body != mustJSON(t, m{"__type": "DisabledException", "message": arn + " is disabled."}) {
						t.Errorf("%s: %d %s", operation, a.status, a.body)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			remove := s.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: time.Millisecond, Rate: 0.5})
			s.Deny("", "ListKeys")
			for _, change := range []func() error{
				func() error { return s.DisableKey(arn) }, func() error { return s.EnableKey(arn) }, func() error { return s.RotateKey(arn) },
				func() error { return s.CreateAlias(here, fmt.Sprintf("alias/%d", i), arn) },
			} {
				if err := change(); err != nil {
					t.Error(err)
				}
			}
			s.Allow("", "")
			remove()
		}
	})
	wg.Wait()
	if a := raw(t, s, here, "ListKeys", "{}"); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}
