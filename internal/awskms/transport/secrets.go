package transport

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Whatever answers a request may repeat it in what it says, and its words go into
// errors, logs and annotations. So each request is kept until its call has ended,
// and what was secret in it is taken out of the words.

const (
	// shortestSecret is the length from which a value counts as secret: to remove
	// less would make holes in words.
	shortestSecret = 4
	// shortestPart is how much of a longer one is removed where it stands alone. An
	// answer may repeat a part, cut where it likes.
	shortestPart = 12
	// removed stands for what was removed.
	removed = "[removed]"
)

// Secrets are values that no text may show.
type Secrets []string

// From returns s without the parts of secrets that are in it, cut to a length that
// is worth looking through.
func (all Secrets) From(s string) string {
	if len(all) == 0 {
		return s
	}
	cut := Clipped(s)
	hidden := make([]bool, len(cut))
	for _, secret := range all {
		part := min(len(secret), shortestPart)
		if len(secret) < shortestSecret {
			continue
		}
		for i := 0; i+part <= len(cut); i++ {
			if strings.Contains(secret, cut[i:i+part]) {
				for j := i; j < i+part; j++ {
					hidden[j] = true
				}
			}
		}
	}
	return without(cut, hidden)
}

func without(s string, hidden []bool) string {
	var b strings.Builder
	for i := range len(s) {
		switch {
		case !hidden[i]:
			b.WriteByte(s[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(removed)
		}
	}
	return b.String()
}

// ID is From for what is of no use in part.
func (all Secrets) ID(s string) string {
	if all.From(s) != s {
		return ""
	}
	return s
}

// secretsOf is what is secret in a request.
func secretsOf(req *http.Request, body []byte) (all Secrets) {
	for _, name := range []string{"X-Amz-Security-Token", "X-Aws-Ec2-Metadata-Token", "X-Amz-Sso_bearer_token"} {
		all = append(all, strings.TrimSpace(req.Header.Get(name)))
	}
	all = append(all, ofAuthorization(req.Header.Get("Authorization"))...)
	if password, ok := req.URL.User.Password(); ok {
		all = append(all, password)
	}
	for _, values := range req.URL.Query() {
		all = append(all, values...)
	}
	all = append(all, req.URL.RawQuery)
	if proxy, err := http.ProxyFromEnvironment(req); err == nil && proxy != nil {
		if password, ok := proxy.User.Password(); ok {
			all = append(all, password, base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)))
		}
	}
	return append(all, ofBody(body)...)
}

// ofAuthorization is what is secret in a header: of AWS's the id of the access key
// and the signature, since AWS's own sentences name the scope that stands between.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
func ofAuthorization(header string) (all Secrets) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(header), " ")
	switch {
	case !ok:
		return Secrets{scheme}
	case !strings.HasPrefix(scheme, "AWS4-"):
		return Secrets{strings.TrimSpace(rest)}
	}
	for part := range strings.SplitSeq(rest, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "Credential":
			id, _, _ := strings.Cut(value, "/")
			all = append(all, id)
		case "Signature":
			all = append(all, value)
		}
	}
	return all
}

// ofBody is what is secret in a body: JSON to KMS and IAM Identity Center, a form to
// STS.
func ofBody(body []byte) (all Secrets) {
	var document any
	if json.Unmarshal(body, &document) == nil {
		return ofJSON("", document)
	}
	form, _ := url.ParseQuery(string(body)) // what it can make of it
	for name, values := range form {
		if isSecretName(name) {
			all = append(all, values...)
		}
	}
	return all
}

func ofJSON(name string, value any) (all Secrets) {
	switch value := value.(type) {
	case string:
		if isSecretName(name) {
			return Secrets{value}
		}
	case map[string]any:
		for name, value := range value {
			all = append(all, ofJSON(name, value)...)
		}
	case []any:
		for _, value := range value {
			all = append(all, ofJSON(name, value)...)
		}
	}
	return all
}

// isSecretName knows the fields of the requests that are made here whose values are
// secret.
func isSecretName(name string) bool {
	switch name {
	case "Plaintext", "CiphertextBlob", // KMS
		"WebIdentityToken",                                                   // STS
		"clientSecret", "refreshToken", "code", "codeVerifier", "deviceCode": // sign-in
		return true
	}
	return false
}

// A repeatedError is a failure in whose words a request may be repeated.
type repeatedError struct {
	error

	secrets Secrets
}

func (e *repeatedError) Unwrap() error { return e.error }

// MayRepeat returns err as a failure in whose words these may be repeated.
func MayRepeat(err error, all Secrets) error { return &repeatedError{err, all} }

// SecretsIn is what may be repeated in the words of an error.
func SecretsIn(err error) (all Secrets) {
	for {
		e, ok := errors.AsType[*repeatedError](err)
		if !ok {
			return all
		}
		all, err = append(all, e.secrets...), e.error
	}
}

// A Sent is kept until its call has ended.
type Sent struct {
	Request *http.Request // nil: nothing was sent
	Body    []byte
}

// Secrets are those that it holds; none where nothing was sent.
func (s Sent) Secrets() Secrets {
	if s.Request == nil {
		return nil
	}
	return secretsOf(s.Request, s.Body)
}

// SentBy is what was secret in the requests that a call has sent so far. It is for
// the goroutine of the call.
func SentBy(ctx context.Context) (all Secrets) {
	state, _ := ctx.Value(attemptsKey{}).(*attempts)
	if state == nil {
		return nil
	}
	for _, sent := range state.sent {
		all = append(all, sent.Secrets()...)
	}
	return all
}

// Repeating notes with the failure of a call what it has sent.
func Repeating(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if all := SentBy(ctx); len(all) > 0 {
		return &repeatedError{err, all}
	}
	return err
}

// BodyOf reads what a request of the SDK is about to send.
func BodyOf(req *smithyhttp.Request) []byte {
	stream := req.GetStream()
	if stream == nil || !req.IsStreamSeekable() {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(stream, maxAnswer)) // what it can make of it
	if req.RewindStream() != nil {
		return nil
	}
	return body
}

// Repeats reports whether a text is a part of what a call has sent. Less than
// a part that counts is none. It is for the goroutine of the call.
func Repeats(ctx context.Context, text string) bool {
	state, _ := ctx.Value(attemptsKey{}).(*attempts)
	if state == nil || len(text) < shortestPart {
		return false
	}
	for _, sent := range state.sent {
		if sent.Request == nil {
			continue
		}
		header := sent.Request.Header
		if strings.Contains(header.Get("Authorization"), text) || strings.Contains(header.Get("X-Amz-Security-Token"), text) ||
			bytes.Contains(sent.Body, []byte(text)) {
			return true
		}
	}
	return false
}
