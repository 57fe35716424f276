package kmsemulator_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A line of connections, each kept open, that ask for the same thing.
type connections struct {
	s       *kmstest.Server
	c       *clock
	clients []*http.Client
}

func connect(t *testing.T, s *kmstest.Server, c *clock, n int) connections {
	t.Helper()
	cs := connections{s: s, c: c}
	for range n {
		transport := &http.Transport{MaxConnsPerHost: 1}
		t.Cleanup(transport.CloseIdleConnections)
		cs.clients = append(cs.clients, &http.Client{Transport: transport})
	}
	return cs
}

// see makes a call on each connection and returns what ask makes of the answers.
func (cs connections) see(t *testing.T, operation string, in m, ask func(m) string) []string {
	t.Helper()
	var got []string
	for _, client := range cs.clients {
		body := []byte(mustJSON(t, in))
		req := newRequest(t, cs.s, operation, body)
		sign(t, req, body, cs.s.Credential, signing{at: cs.c.Now()})
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var out m
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		got = append(got, ask(out))
	}
	return got
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

func TestEachConnectionSeesAChangeAfterItsOwnDelay(t *testing.T) {
	const limit = time.Minute
	outcome := func(out m) string {
		if code, ok := out["__type"]; ok {
			return fmt.Sprint(code)
		}
		return fmt.Sprint(out["KeyId"])
	}
	for name, tc := range map[string]struct {
		change func(s *kmstest.Server, a, b string) error
		key    string
		before func(a, b string) string
		after  func(a, b string) string
	}{
		"key state": {
			change: func(s *kmstest.Server, a, _ string) error { return s.DisableKey(a) }, key: "alias/x",
			before: func(a, _ string) string { return a }, after: func(string, string) string { return "DisabledException" },
		},
		"moved alias": {
			change: func(s *kmstest.Server, _, b string) error { return s.UpdateAlias(here, "alias/x", b) }, key: "alias/x",
			before: func(a, _ string) string { return a }, after: func(_, b string) string { return b },
		},
		"new alias": {
			change: func(s *kmstest.Server, a, _ string) error { return s.CreateAlias(here, "alias/new", a) }, key: "alias/new",
			before: func(string, string) string { return "NotFoundException" }, after: func(a, _ string) string { return a },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := startAt(t, kmsemulator.Options{PropagationDelay: limit, Seed: 3})
			a, b := mustCreate(t, s, kmsemulator.KeyOptions{}), mustCreate(t, s, kmsemulator.KeyOptions{})
			if err := s.CreateAlias(here, "alias/x", a); err != nil {
				t.Fatal(err)
			}
			s.Settle()
			c.advance(time.Second)
			before, after := tc.before(a, b), tc.after(a, b)
			lines := connect(t, s, c, 12)
			in := m{"KeyId": tc.key, "Plaintext": "aa=="}
			if got := lines.see(t, "Encrypt", in, outcome); count(got, before) != 12 {
				t.Fatalf("before the change: %v", got)
			}
			if err := tc.change(s, a, b); err != nil {
				t.Fatal(err)
			}
			seen := 0
			for step := time.Duration(0); step <= limit; step += limit / 12 {
				got := lines.see(t, "Encrypt", in, outcome)
				n := count(got, after)
				if n < seen || n+count(got, before) != 12 {
					t.Fatalf("after %s: %v", step, got)
				}
				if step == limit/2 && (n == 0 || n == 12) {
					t.Errorf("half-way %d of 12 connections see it", n)
				}
				seen = n
				c.advance(limit / 12)
			}
			if seen != 12 {
				t.Errorf("in the end %d of 12 connections see it", seen)
			}
		})
	}
}

func TestMaterialPropagatesButOpensEverywhere(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{PropagationDelay: time.Minute, Seed: 5})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	s.Settle()
	c.advance(time.Second)
	lines := connect(t, s, c, 12)
	old := s.CurrentMaterial(arn)
	dataKey := m{"KeyId": arn, "KeySpec": "AES_256"}
	material := func(out m) string { return fmt.Sprint(out["KeyMaterialId"]) }
	lines.see(t, "GenerateDataKey", dataKey, material)
	if err := s.RotateKey(arn); err != nil {
		t.Fatal(err)
	}
	c.advance(30 * time.Second)
	var blobs []string
	got := lines.see(t, "GenerateDataKey", dataKey, func(out m) string {
		blobs = append(blobs, out["CiphertextBlob"].(string))
		return material(out)
	})
	if n := count(got, old); n == 0 || n == 12 || n+count(got, s.CurrentMaterial(arn)) != 12 {
		t.Errorf("half-way %d of 12 connections use the old material", n)
	}
	if got := lines.see(t, "DescribeKey", m{"KeyId": arn}, func(out m) string {
		return fmt.Sprint(out["KeyMetadata"].(m)["CurrentKeyMaterialId"])
	}); count(got, old) == 0 || count(got, old) == 12 {
		t.Errorf("DescribeKey shows %v", got)
	}
	for i, blob := range blobs {
		seen := lines.see(t, "Decrypt", m{"CiphertextBlob": blob}, material)
		if count(seen, got[i]) != 12 {
			t.Errorf("a blob of material %s opens with %v", got[i], seen)
		}
	}
	s.Settle()
	if got := lines.see(t, "GenerateDataKey", dataKey, material); count(got, s.CurrentMaterial(arn)) != 12 {
		t.Errorf("settled: %v", got)
	}
}

func TestNewKeysAreSeenAtOnce(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{PropagationDelay: time.Hour})
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	got := connect(t, s, c, 8).see(t, "Encrypt", m{"KeyId": arn, "Plaintext": "aa=="}, func(out m) string { return fmt.Sprint(out["KeyId"]) })
	if count(got, arn) != 8 {
		t.Errorf("saw %v", got)
	}
}
