package patch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
)

// A status is what an API server says where it does not do what it is asked.
type status struct {
	Message string
	Reason  string
	Details struct {
		RetryAfterSeconds int64
		Causes            []struct{ Reason, Field string }
	}
}

// refusalOf says in words of our own what an answer means.
func refusalOf(code int, header http.Header, body []byte) *rewrite.RefusalError {
	var s status
	_ = json.Unmarshal(body, &s) // a proxy's page has no status
	r := &rewrite.RefusalError{Code: code, RetryAfter: retryAfter(header, s)}
	switch {
	case admission(r, s):
	case code == http.StatusUnauthorized:
		r.Cause, r.Next = "the API server does not know who asks (401)", "Credentials of the kubeconfig may have ended: kubectl auth whoami tells"
	case code == http.StatusForbidden && missingRight(s) != "":
		r.Cause = "this user may not " + missingRight(s)
		r.Next = "Let a ClusterRole allow it: docs/kubectl-kms.md has one that is enough"
	case unreadable().MatchString(s.Message):
		r.Cause, r.Next = "the API server cannot read what is stored", "Its encryption configuration lacks the provider or key, or its plugin does not answer: look at kubectl kms audit, and at the plugin's log"
		if kms := regexp.MustCompile(`\bKMS[0-9]{4}\b`).FindString(s.Message); kms != "" {
			r.Cause += " (" + kms + ")"
			r.Next = "aws-encryption-provider explain " + kms + " says what to do"
		}
	case code == http.StatusUnprocessableEntity:
		r.Cause = "validation refuses it as it is stored" + causes(s)
		r.Next = "Correct it with kubectl edit, which shows the whole reason, then run this again"
	default:
		r.Cause = fmt.Sprintf("the API server answers %d", code)
		if slices.Contains(reasons(), s.Reason) {
			r.Cause += " " + s.Reason
		}
		r.Next = "kubectl annotate of the object with an annotation of your own shows the whole reason; then run this again"
		if code >= http.StatusInternalServerError || code == http.StatusTooManyRequests {
			r.Next = "Run this again when the API server is well: kubectl get --raw '/readyz?verbose' tells"
		}
	}
	return r
}

func retryAfter(header http.Header, s status) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	const most = 1 << 20
	return time.Duration(min(max(s.Details.RetryAfterSeconds, 0), most)) * time.Second
}

// admission recognises what webhooks and policies answer. Only their names are kept.
//
// k8s.io/apiserver pkg/admission/plugin/webhook/errors/statuserror.go and
// pkg/admission/plugin/policy.
func admission(r *rewrite.RefusalError, s status) bool {
	const name = `([a-z0-9][a-z0-9.-]{0,252})`
	for _, known := range []struct {
		pattern, cause, next string
		denies               bool
	}{
		{`^admission webhook "` + name + `" denied the request`, "webhook %s refuses it", "Whoever runs the webhook knows why: correct the object, or let the webhook pass it, then run this again", true},
		{`^(?:Internal error occurred: )?failed calling webhook "` + name + `": `, "webhook %s does not answer", "Mend the webhook, then run this again. Do not delete its configuration for this: it guards what is written", false},
		{`^[^"]*"[^"]*" is forbidden: (?:ValidatingAdmissionPolicy|MutatingAdmissionPolicy|policy) '` + name + `'`, "policy %s refuses it", "Correct the object, or the policy, then run this again", true},
	} {
		if found := regexp.MustCompile(known.pattern).FindStringSubmatch(s.Message); found != nil {
			r.Cause, r.Next = fmt.Sprintf(known.cause, found[1]), known.next
			r.Denied = known.denies
			r.Hangs = strings.Contains(s.Message, "context deadline exceeded") || strings.Contains(s.Message, "Client.Timeout")
			return true
		}
	}
	return false
}

// missingRight names the right that an authorizer found missing, such as "patch secrets",
// and "" where the message is not one's.
//
// k8s.io/apiserver pkg/endpoints/handlers/responsewriters/errors.go.
func missingRight(s status) string {
	found := regexp.MustCompile(`^[^"]*(?:"[^"]*" )?is forbidden: User "(?:[^"\\]|\\.)*" cannot ([a-z]{1,32}) resource "([a-z0-9./-]{1,253})" in API group "([a-z0-9.-]{0,253})"`).FindStringSubmatch(s.Message)
	if found == nil {
		return ""
	}
	return strings.TrimSuffix(found[1]+" "+found[2]+"."+found[3], ".")
}

// unreadable is what an API server says of a value that none of its providers opens.
//
// k8s.io/apiserver pkg/storage/errors.go and pkg/storage/etcd3.
func unreadable() *regexp.Regexp {
	return regexp.MustCompile(`not transformable|StorageError: corrupt object|unable to transform key`)
}

// causes are those of a validation: which kind of mistake, and in which part of the object.
// What follows in the path may be a key that somebody chose.
func causes(s status) string {
	var out []string
	for _, c := range s.Details.Causes {
		part := regexp.MustCompile(`^[a-zA-Z]*`).FindString(c.Field)
		text := "a mistake"
		if slices.Contains(kinds(), c.Reason) {
			text = c.Reason
		}
		if slices.Contains([]string{"metadata", "spec", "status", "data", "stringData", "binaryData", "type", "immutable"}, part) {
			text += " in " + part
		}
		if len(out) < 3 && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, ", ")
}

// kinds are the mistakes of validation. k8s.io/apimachinery, pkg/util/validation/field.
func kinds() []string {
	return []string{
		"FieldValueNotFound", "FieldValueRequired", "FieldValueDuplicate", "FieldValueInvalid", "FieldValueNotSupported",
		"FieldValueForbidden", "FieldValueTooLong", "FieldValueTooMany", "InternalError", "FieldValueTypeInvalid",
	}
}

// reasons are those of k8s.io/apimachinery, pkg/apis/meta/v1. A webhook may say others.
func reasons() []string {
	return []string{
		"Unauthorized", "Forbidden", "NotFound", "AlreadyExists", "Conflict", "Gone", "Invalid", "ServerTimeout", "StoreReadError", "StorageReadError", "Timeout",
		"TooManyRequests", "BadRequest", "MethodNotAllowed", "NotAcceptable", "RequestEntityTooLarge", "UnsupportedMediaType",
		"InternalError", "Expired", "ServiceUnavailable",
	}
}
