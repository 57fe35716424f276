package kmsemulator_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestFaultsAnswerAsTheirKind(t *testing.T) {
	for name, tc := range map[string]struct {
		fault  kmsemulator.Fault
		status int
		body   string
	}{
		"throttle":                {kmsemulator.Fault{Kind: kmsemulator.Throttle}, 400, `{"__type":"ThrottlingException","message":"You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."}`},
		"internal":                {kmsemulator.Fault{Kind: kmsemulator.Internal}, 500, `{"__type":"KMSInternalException","message":"AWS KMS rejected the request because of an internal failure. Retry your request."}`},
		"unavailable":             {kmsemulator.Fault{Kind: kmsemulator.Unavailable}, 503, "<html><body><h1>503 Service Unavailable</h1></body></html>\n"},
		"garbage":                 {kmsemulator.Fault{Kind: kmsemulator.Garbage}, 200, "<html>This is not the KMS you are looking for.\n"},
		"expired token":           {kmsemulator.Fault{Kind: kmsemulator.ExpiredToken}, 400, `{"__type":"ExpiredTokenException","message":"The security token included in the request is expired"}`},
		"any error":               {kmsemulator.Fault{Kind: kmsemulator.Error, Code: "DependencyTimeoutException", Message: "late", Status: 503}, 503, `{"__type":"DependencyTimeoutException","message":"late"}`},
		"an error's usual status": {kmsemulator.Fault{Kind: kmsemulator.Error, Code: "DisabledException", Message: "off"}, 400, `{"__type":"DisabledException","message":"off"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := kmstest.Start(t)
			remove := s.Inject(tc.fault)
			if a := raw(t, s, here, "ListKeys", "{}"); a.status != tc.status || a.body != tc.body {
				t.Errorf("answered %d %s", a.status, a.body)
			}
			remove()
			remove() // is harmless
			call(t, s, here, "ListKeys", m{})
			if n := s.Calls("ListKeys"); n != 2 {
				t.Errorf("counted %d calls, want 2", n)
			}
		})
	}
}

func TestFaultsChooseTheirCalls(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	other := mustCreate(t, s, kmsemulator.KeyOptions{})
	if err := s.CreateAlias(here, "alias/a", arn); err != nil {
		t.Fatal(err)
	}
	blob := sealed(t, s, arn, []byte("x"), nil)
	encrypt := func(key string) func() answer {
		return func() answer {
			return raw(t, s, here, "Encrypt", mustJSON(t, m{"KeyId": key, "Plaintext": "aa=="}))
		}
	}
	decrypt := func() answer { return raw(t, s, here, "Decrypt", mustJSON(t, m{"CiphertextBlob": blob})) }
	reEncrypt := func() answer {
		return raw(t, s, here, "ReEncrypt", mustJSON(t, m{"CiphertextBlob": blob, "DestinationKeyId": other}))
	}
	list := func() answer { return raw(t, s, here, "ListKeys", "{}") }
	pattern := func(calls ...func() answer) string {
		var got strings.Builder
		for _, c := range calls {
			got.WriteByte(map[bool]byte{true: '.', false: 'x'}[c().status == http.StatusOK])
		}
		return got.String()
	}
	all := []func() answer{encrypt(arn), encrypt("alias/a"), encrypt(other), decrypt, reEncrypt, list}
	five := []func() answer{list, list, list, list, list}
	for name, tc := range map[string]struct {
		fault kmsemulator.Fault
		calls []func() answer
		want  string
	}{
		"every call":        {kmsemulator.Fault{}, all, "xxxxxx"},
		"one operation":     {kmsemulator.Fault{Operation: "Encrypt"}, all, "xxx..."},
		"one key by ARN":    {kmsemulator.Fault{Key: arn}, all, "xx.xx."},
		"one key by id":     {kmsemulator.Fault{Key: idOf(arn)}, all, "xx.xx."},
		"key and operation": {kmsemulator.Fault{Key: arn, Operation: "Decrypt"}, all, "...x.."},
		"STS' operation":    {kmsemulator.Fault{Operation: "AssumeRole"}, all, "......"},
		"the first two":     {kmsemulator.Fault{Count: 2}, five, "xx..."},
		"after two":         {kmsemulator.Fault{Skip: 2}, five, "..xxx"},
		"the second":        {kmsemulator.Fault{Skip: 1, Count: 1}, five, ".x..."},
	} {
		t.Run(name, func(t *testing.T) {
			tc.fault.Kind = kmsemulator.Internal
			defer s.Inject(tc.fault)()
			if got := pattern(tc.calls...); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestFaultsOfARateAreRepeatable(t *testing.T) {
	run := func(seed uint64) string {
		s := kmstest.Start(t, kmsemulator.Options{Seed: seed})
		s.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle, Rate: 0.3})
		var got strings.Builder
		for range 100 {
			got.WriteByte(map[bool]byte{true: '.', false: 'x'}[raw(t, s, here, "ListKeys", "{}").status == http.StatusOK])
		}
		return got.String()
	}
	first, again, other := run(7), run(7), run(8)
	if first != again || first == other {
		t.Errorf("seed 7: %s, again %s, seed 8: %s", first, again, other)
	}
	if n := strings.Count(first, "x"); n < 10 || n > 55 {
		t.Errorf("%d of 100 calls failed at a rate of 0.3", n)
	}
}

func TestLatencyAddsToTheAnswer(t *testing.T) {
	s := kmstest.Start(t)
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Latency, Delay: 50 * time.Millisecond})
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle, Skip: 1})
	start := time.Now()
	call(t, s, here, "ListKeys", m{})
	if d := time.Since(start); d < 50*time.Millisecond {
		t.Errorf("answered after %s", d)
	}
	start = time.Now()
	if a := raw(t, s, here, "ListKeys", "{}"); a.status != 400 || time.Since(start) < 50*time.Millisecond {
		t.Errorf("answered %d after %s", a.status, time.Since(start))
	}
}

func TestHangEndsWithTheClientOrTheFault(t *testing.T) {
	s := kmstest.Start(t)
	remove := s.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})
	body := []byte("{}")
	request := func() *http.Request {
		req := newRequest(t, s, "ListKeys", body)
		sign(t, req, body, s.Credential, signing{})
		return req
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan error, 1)
	go func() { // ends when the client has left
		resp, err := client.Do(request().WithContext(ctx))
		if err == nil {
			_ = resp.Body.Close()
		}
		left <- err
	}()
	reached(t, s, 1)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the client saw %v", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer remove()
	for range 3 {
		wg.Go(func() {
			resp, err := client.Do(request())
			if err != nil {
				t.Errorf("after the fault: %v", err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("after the fault: %s", resp.Status)
			}
		})
	}
	reached(t, s, 4)
}

// reached waits until so many calls of ListKeys have reached the emulator.
func reached(t *testing.T, s *kmstest.Server, calls int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); s.Calls("ListKeys") < calls; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls have reached the emulator, want %d", s.Calls("ListKeys"), calls)
		}
	}
}

func TestResetCutsTheConnection(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...kmsemulator.Options) *kmstest.Server{
		"over HTTP": kmstest.Start, "over TLS": kmstest.StartTLS,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			client := sdkClient(t, s, here)
			defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Reset, Count: 1})()
			if _, err := client.ListKeys(t.Context(), nil); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
				t.Errorf("the client saw %v, want a reset connection", err)
			}
			if _, err := client.ListKeys(t.Context(), nil); err != nil {
				t.Errorf("after the reset: %v", err)
			}
		})
	}
}

func TestStopServingRefusesConnections(t *testing.T) {
	s := kmstest.Start(t)
	client := sdkClient(t, s, here)
	if _, err := client.ListKeys(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.StopServing()
	// The first call may still find the old connection, which is closed.
	_, _ = client.ListKeys(t.Context(), nil)
	if _, err := client.ListKeys(t.Context(), nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the client saw %v, want a refused connection", err)
	}
}
