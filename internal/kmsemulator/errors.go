package kmsemulator

import (
	"fmt"
	"net/http"
	"strings"
)

// An apiError is a refusal as a client sees it. Its code and text are those of
// the real KMS where they are known.
type apiError struct {
	status  int
	code    string // value of the member __type; empty for an answer without one
	message string // left out of the body where it is empty
	member  string // name of the member that holds the message; "" is "message"
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s (%d): %s", e.code, e.status, e.message)
}

// refuse makes the usual kind of refusal: KMS answers 400 to everything that a
// caller can be blamed for, denied and throttled calls included.
func refuse(code, format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, code: code, message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *apiError {
	return refuse("NotFoundException", format, args...)
}

func invalid(format string, args ...any) *apiError {
	return refuse("ValidationException", format, args...)
}

func unsupported(format string, args ...any) *apiError {
	return refuse("UnsupportedOperationException", format, args...)
}

func badState(format string, args ...any) *apiError {
	return refuse("KMSInvalidStateException", format, args...)
}

// badCiphertext has no text in KMS either: it must not say what was wrong.
func badCiphertext() *apiError { return refuse("InvalidCiphertextException", "") }

func wrongKey() *apiError {
	return refuse("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
}

// denied is KMS's answer to a principal without the permission. The layer that
// decides it writes "Message" with a capital letter, unlike the operations.
func denied(principal, operation, resource, because string) *apiError {
	e := refuse("AccessDeniedException", "%s", notAuthorized(principal, "kms:"+operation, resource, because))
	e.member = "Message"
	return e
}

// deniedSTS is STS's.
func deniedSTS(principal, action, resource, because string) *apiError {
	return &apiError{status: http.StatusForbidden, code: "AccessDenied", message: notAuthorized(principal, action, resource, because)}
}

// notAuthorized is the sentence of all services. AWS does not always say because
// of what.
func notAuthorized(principal, action, resource, because string) string {
	return strings.TrimSpace(fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s %s", principal, action, resource, because))
}

// deniedBlob is what Decrypt without a usable KeyId says of a blob whose key the
// caller cannot reach: KMS does not tell "not there" from "not yours".
func deniedBlob() *apiError {
	return refuse("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
}

// malformed is the answer to JSON of the wrong shape.
func malformed(text string) *apiError {
	e := refuse("SerializationException", "%s", text)
	e.member = "Message"
	return e
}

func internal() *apiError {
	return &apiError{
		status: http.StatusInternalServerError, code: "KMSInternalException",
		message: "AWS KMS rejected the request because of an internal failure. Retry your request.",
	}
}
