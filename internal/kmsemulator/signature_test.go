package kmsemulator_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func signedAt() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) }

const mismatch = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."

func replaceInAuth(old, with string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, with, 1))
	}
}

func TestSignaturesAreCheckedAsAWSDoes(t *testing.T) {
	now := signedAt()
	temporary := kmsemulator.Credential{AccessKeyID: "ASIATEMPORARY", SecretAccessKey: "s", SessionToken: "token"}
	expired := kmsemulator.Credential{AccessKeyID: "ASIAEXPIRED", SecretAccessKey: "s", SessionToken: "token", Expires: now}
	s := kmstest.Start(t, kmsemulator.Options{
		Clock: func() time.Time { return now }, Credentials: []kmsemulator.Credential{kmstest.Credential(), temporary, expired},
	})
	withoutToken, wrongToken := temporary, temporary
	withoutToken.SessionToken, wrongToken.SessionToken = "", "guess"
	stranger := kmsemulator.Credential{AccessKeyID: "AKIASTRANGER", SecretAccessKey: "s"}
	wrongSecret := kmstest.Credential()
	wrongSecret.SecretAccessKey += "x"
	invalidSignature := func(text string) refusal { return kmsRefusal("InvalidSignatureException", text) }
	unknown := kmsRefusal("UnrecognizedClientException", "The security token included in the request is invalid.")
	for name, tc := range map[string]struct {
		credential kmsemulator.Credential // zero: the good one
		how        signing
		tamper     func(*http.Request) // after signing
		want       refusal             // zero: accepted
		prefix     bool                // want.message is only the beginning
	}{
		"right":                             {},
		"right, five minutes early or late": {how: signing{at: now.Add(-5 * time.Minute)}},
		"right, in another Region":          {how: signing{region: "eu-central-1"}},
		"temporary credentials":             {credential: temporary},
		"none": {
			tamper: func(r *http.Request) { r.Header.Del("Authorization") },
			want:   kmsRefusal("MissingAuthenticationTokenException", "Request is missing Authentication Token"),
		},
		"another scheme": {
			tamper: func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") },
			want:   kmsRefusal("MissingAuthenticationTokenException", "Request is missing Authentication Token"),
		},
		"nothing in it": {
			tamper: func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") },
			want: kmsRefusal("IncompleteSignatureException", "Authorization header requires 'Credential' parameter. "+
				"Authorization header requires 'Signature' parameter. Authorization header requires 'SignedHeaders' parameter. "+
				"Authorization=AWS4-HMAC-SHA256 x"),
		},
		"no date": {
			tamper: func(r *http.Request) { r.Header.Del("X-Amz-Date") },
			want:   kmsRefusal("IncompleteSignatureException", "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "),
			prefix: true,
		},
		"a date of another form": {
			tamper: func(r *http.Request) { r.Header.Set("X-Amz-Date", "2026-03-04") },
			want:   kmsRefusal("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'. Got '2026-03-04'. See http://en.wikipedia.org/wiki/ISO_8601"),
		},
		"stale": {
			how:  signing{at: now.Add(-5*time.Minute - time.Second)},
			want: invalidSignature("Signature expired: 20260304T115459Z is now earlier than 20260304T115500Z (20260304T120000Z - 5 min.)"),
		},
		"from the future": {
			how:  signing{at: now.Add(5*time.Minute + time.Second)},
			want: invalidSignature("Signature not yet current: 20260304T120501Z is still later than 20260304T120500Z (20260304T120000Z + 5 min.)"),
		},
		"host not signed": {
			tamper: replaceInAuth("host;", ""),
			want:   invalidSignature("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."),
		},
		"target not signed": {
			tamper: replaceInAuth(";x-amz-target", ""),
			want:   invalidSignature("'x-amz-target' must be a 'SignedHeader' in the AWS Authorization."),
		},
		"a confused deputy's header not signed": {
			tamper: func(r *http.Request) { r.Header.Set("X-Amz-Source-Account", "111122223333") },
			want:   invalidSignature("'x-amz-source-account' must be a 'SignedHeader' in the AWS Authorization."),
		},
		"signed header missing": {
			tamper: func(r *http.Request) {
				replaceInAuth("host;", "host;x-absent;")(r)
			},
			want: invalidSignature("'x-absent' is named as a SignedHeader, but it does not exist in the HTTP request"),
		},
		"another algorithm": {
			tamper: replaceInAuth("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
			want:   kmsRefusal("IncompleteSignatureException", "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512' (only AWS4-HMAC-SHA256 for now). "),
		},
		"scope of four parts": {
			tamper: replaceInAuth("/aws4_request", ""),
			want: kmsRefusal("IncompleteSignatureException", "Credential must have exactly 5 slash-delimited elements, "+
				"e.g. keyid/date/region/service/term, got 'AKIAIOSFODNN7EXAMPLE/20260304/us-west-2/kms'"),
		},
		"scope of no Region": {
			how:  signing{region: "mars"},
			want: invalidSignature("Credential should be scoped to a valid region. "),
		},
		"scope of another service": {
			how:  signing{service: "s3"},
			want: invalidSignature("Credential should be scoped to correct service: 'kms'. "),
		},
		"scope of another day and end": {
			tamper: replaceInAuth("20260304/us-west-2/kms/aws4_request", "20260303/us-west-2/kms/aws5_request"),
			want: invalidSignature("Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'. " +
				"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20260303' != '20260304', from '20260304T120000Z'."),
		},
		"unknown access key": {credential: stranger, want: unknown},
		"wrong secret":       {credential: wrongSecret, want: invalidSignature(mismatch)},
		"signature cut":      {tamper: func(r *http.Request) { a := r.Header.Get("Authorization"); r.Header.Set("Authorization", a[:len(a)-2]) }, want: invalidSignature(mismatch)},
		"a header changed":   {tamper: func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.ListAliases") }, want: invalidSignature(mismatch)},
		"without its token":  {credential: withoutToken, want: unknown},
		"with another token": {credential: wrongToken, want: unknown},
		"expired":            {credential: expired, want: kmsRefusal("ExpiredTokenException", "The security token included in the request is expired")},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.credential.AccessKeyID == "" {
				tc.credential = s.Credential
			}
			if tc.how.at.IsZero() {
				tc.how.at = now
			}
			body := []byte("{}")
			req := newRequest(t, s, "ListKeys", body)
			sign(t, req, body, tc.credential, tc.how)
			if tc.tamper != nil {
				tc.tamper(req)
			}
			a := send(t, req)
			switch {
			case tc.want.status == 0:
				if a.status != http.StatusOK {
					t.Errorf("refused: %d %s", a.status, a.body)
				}
			case tc.prefix:
				if !strings.Contains(a.body, tc.want.code) || !strings.Contains(a.body, tc.want.message) {
					t.Errorf("refused with %s, want %+v ...", a.body, tc.want)
				}
			default:
				checkRefusal(t, name, a, tc.want)
			}
		})
	}
}

func TestChangedBodyBreaksTheSignature(t *testing.T) {
	s := kmstest.Start(t)
	req := newRequest(t, s, "ListKeys", []byte(`{"Limit":2}`))
	sign(t, req, []byte(`{"Limit":1}`), s.Credential, signing{})
	checkRefusal(t, "changed body", send(t, req), kmsRefusal("InvalidSignatureException", mismatch))
}

func TestSignatureOfSpacedAndRepeatedHeaders(t *testing.T) {
	s := kmstest.Start(t)
	body := []byte("{}")
	req := newRequest(t, s, "ListKeys", body)
	req.Header.Set("X-Amz-Source-Arn", "  arn:aws:eks:us-west-2:111122223333:cluster/a    b ")
	req.Header["X-Note"] = []string{"one", "two"}
	sign(t, req, body, s.Credential, signing{})
	if a := send(t, req); a.status != http.StatusOK {
		t.Errorf("refused: %d %s", a.status, a.body)
	}
}

func TestWithoutCredentialsAnySignatureButNoFormPasses(t *testing.T) {
	e, err := kmsemulator.New(kmsemulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := kmstest.StartEmulator(t, e)
	body := []byte("{}")
	for name, tc := range map[string]struct {
		how    signing
		tamper func(*http.Request)
		want   refusal
	}{
		"anybody": {},
		"a made-up signature": {tamper: func(r *http.Request) {
			a := r.Header.Get("Authorization")
			r.Header.Set("Authorization", a[:strings.LastIndex(a, "=")]+"=00")
		}},
		"wrong service": {how: signing{service: "sts"}, want: kmsRefusal("InvalidSignatureException", "Credential should be scoped to correct service: 'kms'. ")},
		"unsigned": {
			tamper: func(r *http.Request) { r.Header.Del("Authorization") },
			want:   kmsRefusal("MissingAuthenticationTokenException", "Request is missing Authentication Token"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := newRequest(t, s, "ListKeys", body)
			sign(t, req, body, kmsemulator.Credential{AccessKeyID: "any", SecretAccessKey: "thing"}, tc.how)
			if tc.tamper != nil {
				tc.tamper(req)
			}
			a := send(t, req)
			if tc.want.status == 0 {
				if a.status != http.StatusOK {
					t.Errorf("refused: %d %s", a.status, a.body)
				}
				return
			}
			checkRefusal(t, name, a, tc.want)
		})
	}
}

func TestOptionsThatMakeNoSenseAreErrors(t *testing.T) {
	for name, o := range map[string]kmsemulator.Options{
		"account":      {Account: "12"},
		"delay":        {PropagationDelay: -1},
		"no secret":    {Credentials: []kmsemulator.Credential{{AccessKeyID: "a"}}},
		"no key":       {Credentials: []kmsemulator.Credential{{SecretAccessKey: "a"}}},
		"no directory": {Dir: "/dev/null/here"},
	} {
		if e, err := kmsemulator.New(o); err == nil {
			t.Errorf("%s: no error", name)
			_ = e.Close()
		}
	}
}
