package kmsserver

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

func TestFailuresOfAMinuteAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f := newFailureLog(slog.New(slog.NewTextHandler(&out, nil)))
		fail := func(code cause.Code, key string, times int) {
			e := &cause.Error{Code: code, Key: key}
			for range times {
				f.record(t.Context(), v2Encrypt, e, e, time.Second)
			}
		}
		fail(cause.KeyDisabled, "a", 3)
		fail(cause.KeyDisabled, "b", 1)
		fail(cause.TimedOut, "a", 2)
		fail(cause.NoKeyMadeIt, "hostile-1", 1)
		fail(cause.NoKeyMadeIt, "hostile-2", 1)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		fail(cause.KeyDisabled, "a", 2)
		f.close()
		want := map[string]int{"msg=\"call failed\"": 5, "count=2": 1, "count=1": 3}
		for text, times := range want {
			if got := strings.Count(out.String(), text); got != times {
				t.Errorf("%q stands %d times, want %d", text, got, times)
			}
		}
		if t.Failed() {
			t.Log(out.String())
		}
	})
}
