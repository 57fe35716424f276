package doctor_test

import (
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// Twenty calls that hang, one after the other, would take minutes: they have a bound
// together, and how many ended in it is told.
func TestCallsForTheLatencyEndByTime(t *testing.T) {
	for name, c := range map[string]struct {
		fault kmsemulator.Fault
		flags []string
		code  string
		says  string
	}{
		"a call hangs after some": { // the first call, one dry run and four round trips go before
			kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang, Skip: 6},
			[]string{"--kms-timeout=10m"},
			"KMS0705",
			"slow: 8 of 20 calls ended within 2s, and took ",
		},
		"the first of them hangs": {
			kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang, Skip: 2},
			[]string{"--kms-timeout=10m"},
			"KMS0203",
			"Encrypt fails, in a round trip; 0 of 20 calls ended",
		},
		"one fails by itself": {
			kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Internal, Skip: 6},
			nil, "KMS0202",
			"Encrypt fails, in a round trip; 8 of 20 calls ended",
		},
		"each is slow": {
			kmsemulator.Fault{Operation: "Decrypt", Kind: kmsemulator.Latency, Delay: 700 * time.Millisecond}, nil, "KMS0705", " of 20 calls ended within 2s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_MAX_ATTEMPTS", "1")
			n := newNode(t, kmstest.Start(t))
			n.options.Burst = 2 * time.Second
			n.flags = c.flags
			n.kms.Inject(c.fault)
			began := time.Now()
			n.finds([]string{c.code}, []string{c.says})
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestWhoIsWaitedForIsTold(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.run()
	var told []string
	n.options.Asks = func(whom string) { told = append(told, whom) }
	n.examine()
	for _, want := range []string{"KMS about provider \"0\", key " + n.key, n.socket} {
		if !strings.Contains(strings.Join(told, "\n")+"\n", want+"\n") {
			t.Errorf("want %q in %q", want, told)
		}
	}
}
