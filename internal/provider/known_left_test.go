package provider_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Material goes forward only, also over a restart.
func TestRestartIsNotLedBackToOldMaterial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		p := begin(t, f, m, ringOptions{})
		wantMaterial(t, p, "m1")
		f.rotate(keyA, "m2")
		time.Sleep(5 * time.Minute)
		wantMaterial(t, p, "m2")
		if k := m.last(); k == nil || k.Material != "m2" {
			t.Fatalf("kept %+v, want material m2", k)
		}
		p.kill()
		f.rotate(keyA, "m1") // KMS answers from before for a while
		p = begin(t, f, m, ringOptions{})
		defer p.kill()
		for range 600 {
			time.Sleep(time.Second)
			wantMaterial(t, p, "m2")
		}
	})
}

func wantMaterial(t *testing.T, p life, want string) {
	t.Helper()
	s, err := p.Status(t.Context())
	if err != nil || !strings.HasSuffix(s.KeyID, "material="+want) {
		t.Fatalf("Status %+v, %v, want the key_id of material %s", s, err, want)
	}
}

// What is kept of the material that was left is the newest, over restarts too: KMS
// answers with no other.
func TestWhatIsKeptOfLeftMaterialIsTheNewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		p := begin(t, f, m, ringOptions{})
		defer func() { p.kill() }()
		wantMaterial(t, p, "m1")
		for i := 2; i <= 14; i++ {
			f.rotate(keyA, fmt.Sprint("m", i))
			time.Sleep(5 * time.Minute)
			wantMaterial(t, p, fmt.Sprint("m", i))
			if i == 9 {
				p.kill()
				p = begin(t, f, m, ringOptions{})
				time.Sleep(time.Minute)
			}
		}
		want := []string{"m13", "m12", "m11", "m10", "m9", "m8", "m7", "m6"}
		if k := m.last(); k == nil || !slices.Equal(k.Left, want) {
			t.Errorf("kept %+v, want %v as what was left", k, want)
		}
	})
}

// A rotation that came while no process ran is followed at once: callers were never
// told of that material, so it does not lead them back.
func TestRestartFollowsARotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		p := begin(t, f, m, ringOptions{})
		time.Sleep(time.Minute)
		wantMaterial(t, p, "m1")
		p.kill()
		f.rotate(keyA, "m2")
		p = begin(t, f, m, ringOptions{})
		defer p.kill()
		wantMaterial(t, p, "m2")
	})
}

// Unless the key that it went to is refused: then the alias may return at once.
func TestRestartReturnsToAnEarlierKeyWhereTheNewOneIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, m := rotating(), &fakeMemory{}
		o := ringOptions{write: alias, grace: time.Minute}
		p := begin(t, f, m, o)
		_ = keyIDOf(t, p.Provider)
		f.moveAlias()
		time.Sleep(2 * time.Minute)
		if id := keyIDOf(t, p.Provider); id != aliasB {
			t.Fatalf("told %s, want %s", id, aliasB)
		}
		p.kill()
		f.fail("Encrypt "+keyB, cause.KeyDisabled)
		f.fail("Decrypt "+keyB, cause.KeyDisabled)
		f.moveAliasTo(keyA)
		p = begin(t, f, m, o)
		time.Sleep(20 * time.Second)
		if s, err := p.Status(t.Context()); err != nil || s.KeyID != aliasA || s.Healthz != "ok" {
			t.Errorf("Status %+v, %v, want ok with key A", s, err)
		}
		p.kill()
	})
}

// While KMS shows an alias's old and new key in turn, a restart does not lead it back
// either: callers were told of the new one.
func TestRestartAmidAMoveDoesNotLeadAnAliasBack(t *testing.T) {
	t.Parallel()
	for offset := range 2 { // which answer the first check meets
		synctest.Test(t, func(t *testing.T) {
			f, m := rotating(), &fakeMemory{}
			o := ringOptions{write: alias, grace: time.Minute}
			p := begin(t, f, m, o)
			if id := keyIDOf(t, p.Provider); id != aliasA {
				t.Fatalf("told %s, want %s", id, aliasA)
			}
			f.moveAlias()
			time.Sleep(2 * time.Minute)
			told := keyIDOf(t, p.Provider)
			if told != aliasB {
				t.Fatalf("told %s, want %s", told, aliasB)
			}
			f.answerInTurn(keyA)
			for range 8 {
				p.kill()
				f.asked += offset
				p = begin(t, f, m, o)
				for range 15 {
					if s, err := p.Status(t.Context()); err != nil || s.Healthz != "ok" || s.KeyID != told {
						t.Fatalf("after a restart Status is %+v, %v, want ok and %s", s, err, told)
					}
					if e, err := p.Encrypt(t.Context(), secret.Bytes("seed")); err != nil || e.KeyID != told {
						t.Fatalf("Encrypt: %s, %v", e.KeyID, err)
					}
					time.Sleep(time.Second)
				}
			}
			p.kill()
		})
	}
}
