package kmsemulator_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// signing says how a request is signed; zero fields are what is right.
type signing struct {
	service, region string
	at              time.Time
}

// newRequest makes an unsigned call.
func newRequest(t testing.TB, s *kmstest.Server, operation string, body []byte) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "TrentService."+operation)
	return req
}

func sign(t testing.TB, req *http.Request, body []byte, c kmsemulator.Credential, how signing) {
	t.Helper()
	if how.service == "" {
		how.service = "kms"
	}
	if how.region == "" {
		how.region = kmstest.Region
	}
	if how.at.IsZero() {
		how.at = time.Now()
	}
	sum := sha256.Sum256(body)
	cred := aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}
	if err := v4.NewSigner().SignHTTP(t.Context(), cred, req, hex.EncodeToString(sum[:]), how.service, how.region, how.at); err != nil {
		t.Fatal(err)
	}
}

// An answer is what came back for a raw request.
type answer struct {
	status int
	header http.Header
	body   string
}

func send(t testing.TB, req *http.Request) answer {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// raw signs and sends a call with the body as it is.
func raw(t testing.TB, s *kmstest.Server, region, operation, body string) answer {
	t.Helper()
	req := newRequest(t, s, operation, []byte(body))
	sign(t, req, []byte(body), s.Credential, signing{region: region})
	return send(t, req)
}

// m is a JSON object.
type m = map[string]any

// call makes a call in a Region that must succeed, and returns the members of
// its answer.
func call(t testing.TB, s *kmstest.Server, region, operation string, in m) m {
	t.Helper()
	a := raw(t, s, region, operation, mustJSON(t, in))
	if a.status != http.StatusOK {
		t.Fatalf("%s(%v) in %s: %d %s", operation, in, region, a.status, a.body)
	}
	if a.body == "" {
		return nil
	}
	var out m
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatalf("%s answered %q: %v", operation, a.body, err)
	}
	return out
}

// A refusal is what a call is refused with.
type refusal struct {
	status        int
	code, message string
}

func kmsRefusal(code, message string) refusal { return refusal{http.StatusBadRequest, code, message} }

// wantRefusal makes a call that must be refused so.
func wantRefusal(t testing.TB, s *kmstest.Server, region, operation string, in m, want refusal) {
	t.Helper()
	checkRefusal(t, operation, raw(t, s, region, operation, mustJSON(t, in)), want)
}

func checkRefusal(t testing.TB, what string, a answer, want refusal) {
	t.Helper()
	var body map[string]string
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%s: answered %d %q, want %+v", what, a.status, a.body, want)
	}
	got := refusal{a.status, body["__type"], body["message"] + body["Message"]}
	if got != want {
		t.Errorf("%s: refused with\n  %+v, want\n  %+v", what, got, want)
	}
	if a.header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("%s: refused without a request id", what)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/x-amz-json-1.1" {
		t.Errorf("%s: refused as %q", what, ct)
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// members returns the names of an object's members, sorted.
func members(o m) string { return strings.Join(slices.Sorted(maps.Keys(o)), " ") }

func TestWhatIsNoCallIsAnsweredHarmlessly(t *testing.T) {
	s := kmstest.Start(t)
	for name, tc := range map[string]struct{ method, path, contentType string }{
		"GET":                  {http.MethodGet, "/", ""},
		"PUT":                  {http.MethodPut, "/", "application/x-amz-json-1.1"},
		"another path":         {http.MethodPost, "/keys", "application/x-amz-json-1.1"},
		"JSON 1.0":             {http.MethodPost, "/", "application/x-amz-json-1.0"},
		"a form":               {http.MethodPost, "/", "application/x-www-form-urlencoded"},
		"without content type": {http.MethodPost, "/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			before := s.Connections()
			for range 2 {
				req, err := http.NewRequestWithContext(t.Context(), tc.method, s.URL+tc.path, strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				if tc.contentType != "" {
					req.Header.Set("Content-Type", tc.contentType)
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusNotFound || string(body) != "<UnknownOperationException/>\n" {
					t.Errorf("answered %d %q", resp.StatusCode, body)
				}
			}
			if n := s.Connections() - before; n != 1 {
				t.Errorf("two requests took %d connections, want 1 that was kept", n)
			}
		})
	}
}

func TestMalformedBodiesAreRefused(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	id := arn[strings.LastIndex(arn, "/")+1:]
	for name, tc := range map[string]struct{ body, text string }{
		"nothing":                {"", ""},
		"no JSON":                {"{", ""},
		"trailing rubbish":       {"{}x", ""},
		"an array":               {"[]", ""},
		"null":                   {"null", ""},
		"a number for a text":    {`{"KeyId":7}`, "NUMBER_VALUE can not be converted to a String"},
		"a text for a flag":      {`{"KeyId":"` + id + `","Plaintext":"aa==","DryRun":"yes"}`, "STRING_VALUE can not be converted to a Boolean"},
		"an object for a text":   {`{"KeyId":{}}`, "Start of structure or map found where not expected."},
		"a list for a blob":      {`{"Plaintext":["x"]}`, "Start of list found where not expected"},
		"a list for a text":      {`{"KeyId":["x"]}`, "Start of list found where not expected"},
		"base64 that is none":    {`{"Plaintext":"a*b="}`, ""},
		"unpadded base64":        {`{"Plaintext":"YQ"}`, ""},
		"a text for a map":       {`{"EncryptionContext":"x"}`, "STRING_VALUE can not be converted to a Map"},
		"numbers in the context": {`{"EncryptionContext":{"a":1}}`, "NUMBER_VALUE can not be converted to a String"},
	} {
		t.Run(name, func(t *testing.T) {
			checkRefusal(t, name, raw(t, s, kmstest.Region, "Encrypt", tc.body), kmsRefusal("SerializationException", tc.text))
		})
	}
}

func TestMembersAreReadAsAWSReadsThem(t *testing.T) {
	s := kmstest.Start(t)
	arn := mustCreate(t, s, kmsemulator.KeyOptions{})
	// An unknown member is ignored, null is absent, and case counts.
	call(t, s, kmstest.Region, "Encrypt", m{"KeyId": arn, "Plaintext": "aa==", "Unheard": m{"of": 1}, "DryRun": nil})
	wantRefusal(t, s, kmstest.Region, "Encrypt", m{"keyid": arn, "Plaintext": "aa=="},
		kmsRefusal("ValidationException", "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null"))
}

func TestOperationsThatAreNotHereAreUnknown(t *testing.T) {
	s := kmstest.Start(t)
	for _, target := range []string{"TrentService.ListGrants", "TrentService.Nonsense", "DynamoDB_20120810.ListTables", "Encrypt", ""} {
		req := newRequest(t, s, "", []byte("{}"))
		req.Header.Set("X-Amz-Target", target)
		sign(t, req, []byte("{}"), s.Credential, signing{})
		checkRefusal(t, target, send(t, req), kmsRefusal("UnknownOperationException", ""))
	}
	if n := s.Calls("*"); n != 0 {
		t.Errorf("counted %d calls, want none", n)
	}
}

func TestOversizedRequestsGet413(t *testing.T) {
	s := kmstest.Start(t)
	a := raw(t, s, kmstest.Region, "Encrypt", `{"KeyId":"`+strings.Repeat("x", 200_000)+`"}`)
	if a.status != http.StatusRequestEntityTooLarge || a.body != `{"message":"HTTP content length exceeded 200000 bytes."}` {
		t.Errorf("answered %d %q", a.status, a.body)
	}
}

func TestAnswersCarryRequestIDAndTheClocksDate(t *testing.T) {
	now := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	s := kmstest.Start(t, kmsemulator.Options{Clock: func() time.Time { return now }})
	body := []byte("{}")
	ids := map[string]bool{}
	for range 2 {
		req := newRequest(t, s, "ListKeys", body)
		sign(t, req, body, s.Credential, signing{at: now})
		a := send(t, req)
		if a.status != http.StatusOK || a.header.Get("Date") != "Mon, 03 Feb 2031 04:05:06 GMT" {
			t.Errorf("answered %d, Date %q, %s", a.status, a.header.Get("Date"), a.body)
		}
		ids[a.header.Get("X-Amzn-Requestid")] = true
	}
	if len(ids) != 2 || ids[""] {
		t.Errorf("request ids are %v, want two", ids)
	}
}
