package kmsemulator

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func FuzzAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKIA/20150830/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date, Signature=5d67")
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=;;,Signature==")
	f.Add("AWS4-")
	f.Add("")
	f.Fuzz(func(t *testing.T, header string) {
		auth, missing := parseAuthorization(header)
		complete := auth.credential != "" && auth.signature != "" && len(auth.signedHeaders) > 0
		if complete != (missing == "") {
			t.Errorf("complete is %t, but missing is %q", complete, missing)
		}
		sc, err := parseScope(auth.credential)
		if err != nil {
			return
		}
		again := strings.Join([]string{sc.accessKey, sc.date, sc.region, sc.service, sc.terminator}, "/")
		if again != auth.credential {
			t.Errorf("credential %q was read as %q", auth.credential, again)
		}
		// Whatever parses must go through all checks without a panic, and no
		// made-up header may pass them against a known credential.
		e, err := New(Options{Credentials: []Credential{{AccessKeyID: "AKIA", SecretAccessKey: "s"}}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://kms/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().UTC()
		r.Header.Set("Authorization", header)
		r.Header.Set("X-Amz-Date", now.Format(sigDateLayout))
		if who, err := e.authenticate(r, nil, "kms", now); err == nil {
			t.Errorf("%q passes as %s", header, who.principal)
		}
	})
}

func TestIsRegion(t *testing.T) {
	for name, want := range map[string]bool{
		"us-west-2": true, "eu-central-1": true, "us-gov-east-1": true, "ap-southeast-7": true, "cn-north-1": true, "us-iso-east-1": true,
		"": false, "mars": false, "us-west": false, "us-west-": false, "us-west-0": false, "us-west-22": false, "US-WEST-2": false,
		"us--2": false, "u-w-2": false, "us-west-2/kms": false, "us west-2": false,
	} {
		if got := isRegion(name); got != want {
			t.Errorf("isRegion(%q) = %t, want %t", name, got, want)
		}
	}
}
