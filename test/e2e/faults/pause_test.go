package faults

import (
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// TestPauseOfTheProcessIsNoTrouble: a process that is stopped for longer than
// everything that counts, and then goes on over a KMS that is well, has never been
// ill: Status is ok, and liveness sees no reason for a restart. Ten minutes of it
// are FAULTS_HANG=10m.
func TestPauseOfTheProcessIsNoTrouble(t *testing.T) {
	t.Parallel()
	for name, callers := range map[string]int{"without traffic": 0, "with traffic": 16} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stopped := usualHang
			if text := os.Getenv(hangEnv); text != "" {
				d, err := time.ParseDuration(text)
				if err != nil {
					t.Fatal(err)
				}
				stopped = d
			}
			m := newMachine(t, "--outage-grace=20s")
			m.launch()
			m.eventually(recovery, "all is well", m.well)
			stop := m.load(t, callers)
			for range 2 { // the second pause begins where the first may have left counts behind
				pause(t, 3*time.Second)
				m.must(m.program.Signal(syscall.SIGSTOP))
				pause(t, stopped/2)
				m.must(m.program.Signal(syscall.SIGCONT))
				m.staysWell(t, 40*time.Second)
			}
			stop()
			m.readsAll()
			m.end()
		})
	}
}

// TestStepOfTheClockIsNoTrouble: KMS refuses what is signed at another time than its
// own. Which of the two clocks was set makes no difference to that, so it is KMS's
// here.
func TestStepOfTheClockIsNoTrouble(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]time.Duration{"an hour forward": time.Hour, "an hour back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var offset atomic.Int64
			clock := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
			m := newMachineOver(t, kmstest.Start(t, kmsemulator.Options{Clock: clock}), "--outage-grace=0")
			m.launch()
			m.eventually(recovery, "all is well", m.well)
			stop := m.load(t, 2)
			offset.Store(int64(step))
			m.staysWell(t, 40*time.Second)
			stop()
			m.staysWell(t, 40*time.Second) // by its own checks
			m.end()
		})
	}
}

// staysWell demands that Status is ok and liveness is too, all the time.
func (m *machine) staysWell(t *testing.T, during time.Duration) {
	t.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); pause(t, 100*time.Millisecond) {
		if st, err := m.statusWithin(t.Context(), 0, time.Minute); err != nil || st.Healthz != "ok" {
			t.Fatalf("Status %v, %v, want ok", st, err)
		}
		if code, text, err := m.get(t.Context(), "/livez"); err != nil || code != http.StatusOK {
			t.Fatalf("/livez is %d %q, %v, want 200", code, text, err)
		}
	}
}
