package kmsemulator

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

const (
	sigAlgorithm  = "AWS4-HMAC-SHA256"
	sigDateLayout = "20060102T150405Z"

	mismatchText = "The request signature we calculated does not match the signature you provided. " +
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	unknownTokenText = "The security token included in the request is invalid."
	expiredTokenText = "The security token included in the request is expired"
)

// A scope is the credential scope of a signature: who signed, for what.
type scope struct {
	accessKey, date, region, service, terminator string
}

// An authorization is a parsed Authorization header.
type authorization struct {
	algorithm     string
	credential    string
	signedHeaders []string
	signature     string
}

// A caller is who an authenticated request comes from.
type caller struct {
	principal string // ARN of a user, or of a session
	role      string // ARN of the session's role; "" for a user
	accessKey string
	region    string
}

// signers knows the credentials and keeps what is derived from them.
type signers struct {
	anyone bool // no credentials were given: every signature passes

	mu    sync.RWMutex
	known map[string]Credential       // access key → credential
	keys  map[scope][sha256.Size]byte // scope → derived signing key, of known credentials
}

func newSigners(given []Credential) (*signers, error) {
	s := &signers{
		anyone: len(given) == 0,
		known:  make(map[string]Credential), keys: make(map[scope][sha256.Size]byte),
	}
	for _, c := range given {
		if c.AccessKeyID == "" || c.SecretAccessKey == "" {
			return nil, fmt.Errorf("kmsemulator: credential without access key or secret")
		}
		s.known[c.AccessKeyID] = c
	}
	return s, nil
}

// add makes a credential known, replacing one of the same access key.
func (s *signers) add(c Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[c.AccessKeyID] = c
	for k := range s.keys {
		if k.accessKey == c.AccessKeyID {
			delete(s.keys, k)
		}
	}
}

func (s *signers) find(accessKey string) (Credential, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.known[accessKey]
	return c, ok
}

// maxSigningKeys bounds the cache; a scope lives a day, so only a test that
// roams over Regions ever fills it.
const maxSigningKeys = 1024

func (s *signers) signingKey(c Credential, sc scope) [sha256.Size]byte {
	s.mu.RLock()
	key, ok := s.keys[sc]
	s.mu.RUnlock()
	if ok {
		return key
	}
	sum := mac([]byte("AWS4"+c.SecretAccessKey), sc.date)
	sum = mac(sum[:], sc.region)
	sum = mac(sum[:], sc.service)
	sum = mac(sum[:], sc.terminator)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxSigningKeys {
		clear(s.keys)
	}
	if s.known[sc.accessKey] == c { // not replaced meanwhile
		s.keys[sc] = sum
	}
	return sum
}

func mac(key []byte, text string) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	h.Sum(sum[:0])
	return sum
}

func incomplete(format string, args ...any) *apiError {
	return refuse("IncompleteSignatureException", format, args...)
}

func badSignature(format string, args ...any) *apiError {
	return refuse("InvalidSignatureException", format, args...)
}

// skewAllowed is how far a request's date may be from the clock: five minutes
// in KMS, fifteen in STS.
func skewAllowed(service string) time.Duration {
	if service == "kms" {
		return 5 * time.Minute
	}
	return 15 * time.Minute
}

// authenticate checks a request's signature as AWS's front ends do and in
// their order: presence, form, date, signed headers, algorithm, scope, access
// key, signature, session token.
//
// See https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
func (e *Emulator) authenticate(r *http.Request, body []byte, service string, now time.Time) (caller, error) {
	header := r.Header.Get("Authorization")
	if !strings.HasPrefix(header, "AWS4-") {
		return caller{}, refuse("MissingAuthenticationTokenException", "Request is missing Authentication Token")
	}
	auth, date, err := parseSigned(header, r.Header)
	if err != nil {
		return caller{}, err
	}
	if err := checkDate(date, now, skewAllowed(service)); err != nil {
		return caller{}, err
	}
	if err := checkSignedHeaders(auth.signedHeaders, r.Header); err != nil {
		return caller{}, err
	}
	if auth.algorithm != sigAlgorithm {
		return caller{}, incomplete("Unsupported AWS 'algorithm': '%s' (only AWS4-HMAC-SHA256 for now). ", auth.algorithm)
	}
	sc, err := parseScope(auth.credential)
	if err != nil {
		return caller{}, err
	}
	if err := checkScope(sc, service, date); err != nil {
		return caller{}, err
	}
	return e.checkCredential(r, body, auth, sc, date, now)
}

func (e *Emulator) checkCredential(r *http.Request, body []byte, auth authorization, sc scope, date, now time.Time) (caller, error) {
	cred, known := e.signers.find(sc.accessKey)
	if !known {
		if !e.signers.anyone {
			return caller{}, refuse("UnrecognizedClientException", unknownTokenText)
		}
		return caller{principal: e.arn("iam", "", "user/anyone"), accessKey: sc.accessKey, region: sc.region}, nil
	}
	key := e.signers.signingKey(cred, sc)
	want := mac(key[:], stringToSign(r, body, auth.signedHeaders, sc, date))
	got, err := hex.DecodeString(auth.signature)
	if err != nil || subtle.ConstantTimeCompare(got, want[:]) != 1 {
		return caller{}, badSignature(mismatchText)
	}
	if r.Header.Get("X-Amz-Security-Token") != cred.SessionToken {
		return caller{}, refuse("UnrecognizedClientException", unknownTokenText)
	}
	if !cred.Expires.IsZero() && !now.Before(cred.Expires) {
		return caller{}, refuse("ExpiredTokenException", expiredTokenText)
	}
	principal := cred.Principal
	if principal == "" {
		principal = e.arn("iam", "", "user/"+cred.AccessKeyID)
	}
	role := cred.role
	if role == "" {
		role = roleOf(principal)
	}
	return caller{principal: principal, role: role, accessKey: sc.accessKey, region: sc.region}, nil
}

// parseSigned parses the Authorization header and the request's date.
func parseSigned(header string, h http.Header) (authorization, time.Time, error) {
	auth, missing := parseAuthorization(header)
	stamp := h.Get("X-Amz-Date")
	if stamp == "" {
		stamp = h.Get("Date")
	}
	if stamp == "" {
		missing += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
	}
	if missing != "" {
		return auth, time.Time{}, incomplete("%sAuthorization=%s", missing, header)
	}
	date, err := time.Parse(sigDateLayout, stamp)
	if err != nil {
		if date, err = http.ParseTime(stamp); err != nil || h.Get("X-Amz-Date") != "" {
			return auth, time.Time{}, incomplete("Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", stamp)
		}
	}
	return auth, date.UTC(), nil
}

// parseAuthorization takes the header apart. The second result names what is
// missing in it, in AWS's words, and is empty for a complete header.
func parseAuthorization(header string) (authorization, string) {
	algorithm, rest, _ := strings.Cut(header, " ")
	auth := authorization{algorithm: algorithm}
	var signed string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "Credential":
			auth.credential = value
		case "SignedHeaders":
			signed = value
		case "Signature":
			auth.signature = value
		}
	}
	var missing strings.Builder
	for _, p := range []struct{ name, value string }{
		{"Credential", auth.credential}, {"Signature", auth.signature}, {"SignedHeaders", signed},
	} {
		if p.value == "" {
			fmt.Fprintf(&missing, "Authorization header requires '%s' parameter. ", p.name)
		}
	}
	if signed != "" {
		auth.signedHeaders = strings.Split(signed, ";")
	}
	return auth, missing.String()
}

// scopeOf reads the scope out of an Authorization header without judging it.
func scopeOf(header string) (scope, error) {
	auth, _ := parseAuthorization(header)
	return parseScope(auth.credential)
}

func parseScope(credential string) (scope, error) {
	p := strings.Split(credential, "/")
	if len(p) != 5 {
		return scope{}, incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'", credential)
	}
	return scope{accessKey: p[0], date: p[1], region: p[2], service: p[3], terminator: p[4]}, nil
}

func checkDate(date, now time.Time, skew time.Duration) error {
	now = now.UTC()
	show := func(t time.Time) string { return t.Format(sigDateLayout) }
	if earliest := now.Add(-skew); date.Before(earliest.Truncate(time.Second)) {
		return badSignature("Signature expired: %s is now earlier than %s (%s - %d min.)",
			show(date), show(earliest), show(now), int(skew.Minutes()))
	}
	if latest := now.Add(skew); date.After(latest) {
		return badSignature("Signature not yet current: %s is still later than %s (%s + %d min.)",
			show(date), show(latest), show(now), int(skew.Minutes()))
	}
	return nil
}

// checkSignedHeaders wants the host and every x-amz header signed: a header
// outside the signature could be changed on the way.
func checkSignedHeaders(signed []string, h http.Header) error {
	if !slices.Contains(signed, "host") {
		return badSignature("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	var unsigned []string
	for name := range h {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") && !slices.Contains(signed, lower) {
			unsigned = append(unsigned, lower)
		}
	}
	if len(unsigned) > 0 {
		sort.Strings(unsigned)
		return badSignature("'%s' must be a 'SignedHeader' in the AWS Authorization.", unsigned[0])
	}
	for _, name := range signed {
		if name != "host" && h.Values(name) == nil && name != "content-length" {
			return badSignature("'%s' is named as a SignedHeader, but it does not exist in the HTTP request", name)
		}
	}
	return nil
}

// isRegion tells whether a text has the form of an AWS Region's name.
func isRegion(s string) bool {
	p := strings.Split(s, "-")
	if len(p) < 3 || len(s) > 32 {
		return false
	}
	for _, word := range p[:len(p)-1] {
		if len(word) < 2 || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") != "" {
			return false
		}
	}
	last := p[len(p)-1]
	return len(last) == 1 && last[0] >= '1' && last[0] <= '9'
}

func checkScope(sc scope, service string, date time.Time) error {
	var wrong strings.Builder
	if !isRegion(sc.region) {
		wrong.WriteString("Credential should be scoped to a valid region. ")
	}
	if sc.service != service {
		fmt.Fprintf(&wrong, "Credential should be scoped to correct service: '%s'. ", service)
	}
	if sc.terminator != "aws4_request" {
		fmt.Fprintf(&wrong, "Credential should be scoped with a valid terminator: 'aws4_request', not '%s'. ", sc.terminator)
	}
	if day := date.Format("20060102"); sc.date != day {
		fmt.Fprintf(&wrong, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.",
			sc.date, day, date.Format(sigDateLayout))
	}
	if wrong.Len() > 0 {
		return badSignature("%s", wrong.String())
	}
	return nil
}

// stringToSign builds what the client has signed, from what arrived.
func stringToSign(r *http.Request, body []byte, signed []string, sc scope, date time.Time) string {
	var b bytes.Buffer
	b.WriteString(r.Method)
	b.WriteByte('\n')
	b.WriteString(canonicalPath(r.URL))
	b.WriteByte('\n')
	b.WriteString(canonicalQuery(r.URL.Query()))
	b.WriteByte('\n')
	for _, name := range signed {
		b.WriteString(name)
		b.WriteByte(':')
		b.WriteString(canonicalHeader(r, name))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(signed, ";"))
	b.WriteByte('\n')
	sum := sha256.Sum256(body)
	b.WriteString(hex.EncodeToString(sum[:]))
	sum = sha256.Sum256(b.Bytes())
	return sigAlgorithm + "\n" + date.Format(sigDateLayout) + "\n" +
		sc.date + "/" + sc.region + "/" + sc.service + "/" + sc.terminator + "\n" + hex.EncodeToString(sum[:])
}

func canonicalPath(u *url.URL) string {
	if u.Path == "" {
		return "/"
	}
	return strings.ReplaceAll(u.EscapedPath(), "%2f", "%2F")
}

func canonicalQuery(q url.Values) string {
	if len(q) == 0 {
		return ""
	}
	for _, values := range q {
		sort.Strings(values)
	}
	return strings.ReplaceAll(q.Encode(), "+", "%20")
}

func canonicalHeader(r *http.Request, name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		return fmt.Sprint(r.ContentLength)
	}
	values := r.Header.Values(name)
	trimmed := make([]string, len(values))
	for i, v := range values {
		trimmed[i] = strings.TrimSpace(v)
		if strings.Contains(trimmed[i], "  ") {
			trimmed[i] = regexp.MustCompile(` +`).ReplaceAllString(trimmed[i], " ")
		}
	}
	return strings.Join(trimmed, ",")
}
