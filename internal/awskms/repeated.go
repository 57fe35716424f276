package awskms

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

	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
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

// secrets are values that no text may show.
type secrets []string

// from returns s without the parts of secrets that are in it, cut to a length that
// is worth looking through.
func (all secrets) from(s string) string {
	if len(all) == 0 {
		return s
	}
	cut := clipped(s)
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

// id is from for what is of no use in part.
func (all secrets) id(s string) string {
	if all.from(s) != s {
		return ""
	}
	return s
}

// secretsOf is what is secret in a request.
func secretsOf(req *http.Request, body []byte) (all secrets) {
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
func ofAuthorization(header string) (all secrets) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(header), " ")
	switch {
	case !ok:
		return secrets{scheme}
	case !strings.HasPrefix(scheme, "AWS4-"):
		return secrets{strings.TrimSpace(rest)}
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
func ofBody(body []byte) (all secrets) {
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

func ofJSON(name string, value any) (all secrets) {
	switch value := value.(type) {
	case string:
		if isSecretName(name) {
			return secrets{value}
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

	secrets secrets
}

func (e *repeatedError) Unwrap() error { return e.error }

// secretsIn is what may be repeated in the words of an error.
func secretsIn(err error) (all secrets) {
	for {
		e, ok := errors.AsType[*repeatedError](err)
		if !ok {
			return all
		}
		all, err = append(all, e.secrets...), e.error
	}
}

// A sentRequest is kept until its call has ended.
type sentRequest struct {
	request *http.Request
	body    []byte
}

// secrets are those that it holds; none where nothing was sent.
func (s sentRequest) secrets() secrets {
	if s.request == nil {
		return nil
	}
	return secretsOf(s.request, s.body)
}

// ofCall is what was secret in the requests that a call has sent so far. It is for
// the goroutine of the call.
func ofCall(ctx context.Context) (all secrets) {
	state, _ := ctx.Value(attemptsKey{}).(*attempts)
	if state == nil {
		return nil
	}
	for _, sent := range state.sent {
		all = append(all, sent.secrets()...)
	}
	return all
}

// repeating notes with the failure of a call what it has sent.
func repeating(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if all := ofCall(ctx); len(all) > 0 {
		return &repeatedError{err, all}
	}
	return err
}

// foreignKey is the name of a key that an answer gives. Nearly always it is the one
// that was asked for, or of KMS's own form, which has no place for anything else.
func foreignKey(ctx context.Context, asked, got string) string {
	if got == asked || isPlainKey(got) {
		return got
	}
	return ofCall(ctx).from(got)
}

func isPlainKey(arn string) bool {
	ref, err := keyref.Parse(arn)
	if err != nil || ref.Alias != "" {
		return false
	}
	_, err = keyref.Parse(ref.ID)
	return err == nil
}

// foreignID is the id of a request or of key material that an answer gives, and ""
// where it is a part of what was sent: it would be kept for years.
func foreignID(ctx context.Context, id string) string {
	state, _ := ctx.Value(attemptsKey{}).(*attempts)
	if state == nil || len(id) < shortestPart || isUUID(id) {
		return id
	}
	for _, sent := range state.sent {
		if sent.request == nil {
			continue
		}
		header := sent.request.Header
		if strings.Contains(header.Get("Authorization"), id) || strings.Contains(header.Get("X-Amz-Security-Token"), id) ||
			bytes.Contains(sent.body, []byte(id)) {
			return ""
		}
	}
	return id
}

// isUUID knows the form of KMS's request ids, whose dashes leave no place for a part
// of a secret.
func isUUID(id string) bool {
	const uuid = 36
	return len(id) == uuid && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-'
}

// bodyOf reads what a request of the SDK is about to send.
func bodyOf(req *smithyhttp.Request) []byte {
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
