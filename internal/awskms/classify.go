package awskms

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// situation is what the error itself does not say.
type situation struct {
	op, key    string
	limit      time.Duration
	fair       time.Duration // what that has to be for a time-out to be KMS's fault
	callerLeft bool
	from       *settings.Sources // of credentials, as last read; nil: not known
}

// classify says what a failed call means. It is the one place where errors of
// AWS, the SDK and the network are told apart.
func classify(err error, s situation) *cause.Error {
	e := &cause.Error{Op: s.op, Key: s.key, Err: err}
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		e.RequestID = requestID(resp.ServiceRequestID())
	}
	switch {
	case s.callerLeft:
		e.Code = cause.CallerLeft
	case transport.IsTimeout(err) && s.limit < s.fair:
		e.Code = cause.TooLittleTime
	default:
		identify(e, err, s.from)
		nameSource(e, s.from)
	}
	noteOrigin(e)
	sent := transport.SecretsIn(err)
	e.Said, e.Principal, e.Action = sent.From(e.Said), sent.From(e.Principal), sent.From(e.Action)
	e.AWSCode, e.RequestID = sent.ID(e.AWSCode), sent.ID(e.RequestID)
	if changed, ok := errors.AsType[*identity.CallerChangedError](err); ok {
		e.Note = changed.Note()
	}
	return e
}

// nameSource says where the credentials come from that AWS refuses.
func nameSource(e *cause.Error, from *settings.Sources) {
	switch e.Code { //nolint:exhaustive // the others are not about what credentials are worth
	case cause.CredentialsExpired, cause.CredentialsRefused, cause.SignatureRefused:
		if e.Source == "" && from != nil {
			e.Source = from.Top().String()
		}
	default:
	}
}

// identify fills in code and words of an error that is the other side's.
func identify(e *cause.Error, err error, from *settings.Sources) {
	nothing, noIdentity := errors.AsType[*identity.CredentialsError](err)
	_, noSettings := errors.AsType[*settings.Error](err)
	_, noRegion := errors.AsType[*settings.RegionError](err)
	api, isAPI := errors.AsType[smithy.APIError](err)
	strange, isStrange := errors.AsType[*transport.StrangeError](err)
	wrong, isWrong := errors.AsType[*wrongAnswerError](err)
	switch {
	case errors.Is(err, errPanicked):
		e.Code = cause.Panicked
	case noSettings:
		e.Code, e.Said = cause.SettingsUnreadable, settings.Said(err)
		if unread, ok := errors.AsType[*settings.UnreadError](err); ok {
			unread.Blame(e)
		}
	case noIdentity:
		identifyCredentials(e, nothing.Err, from)
	case noRegion:
		e.Code, e.Said = cause.RegionUnknown, transport.Innermost(err)
		if asked := settings.LastAsked(err); asked != nil {
			e.Source, e.Said = asked.Source.String(), asked.Said
		}
		if from != nil && from.Unread() != nil { // the Region may be in it
			from.Unread().Blame(e)
		}
	case isStrange:
		e.Code, e.Said = cause.NotKMS, strange.Error()
	case isWrong && wrong.requestID == "":
		e.Code, e.Said = cause.NotKMS, wrong.Error()
	case isWrong:
		e.Code, e.Said, e.RequestID = cause.WrongAnswer, wrong.what, wrong.requestID
	case transport.IsTimeout(err):
		e.Code = cause.TimedOut
	case isAPI:
		identifyAPI(e, api, statusOf(err))
	case strings.Contains(err.Error(), "Invalid Configuration: "):
		// The SDK's rules for endpoints, such as FIPS with an endpoint of one's own.
		e.Code, e.Said = cause.SettingsUnreadable, transport.Innermost(err)
	default:
		identifyNetwork(e, err)
	}
}

// identifyAPI knows the errors of KMS and those that every AWS service shares.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Encrypt.html#API_Encrypt_Errors
// https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
func identifyAPI(e *cause.Error, api smithy.APIError, status int) {
	e.AWSCode, e.Said = api.ErrorCode(), api.ErrorMessage()
	e.Principal, e.Action = whoAndWhat(api.ErrorMessage())
	switch code := api.ErrorCode(); code {
	case "DisabledException":
		e.Code = cause.KeyDisabled
	case "NotFoundException", "InvalidArnException":
		e.Code = cause.KeyNotFound
	case "AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "OptInRequired":
		e.Code, e.Denial = cause.AccessDenied, denialOf(api.ErrorMessage())
	case "InvalidGrantTokenException", "InvalidGrantIdException":
		e.Code = cause.GrantRefused
	case "InvalidKeyUsageException":
		e.Code = cause.KeyUsage
	case "KMSInvalidStateException":
		e.Code = stateRefusal(api.ErrorMessage())
	case "InvalidCiphertextException":
		e.Code = cause.CiphertextInvalid
	case "IncorrectKeyException":
		e.Code = cause.NoKeyMadeIt
	case "KMSInternalException", "InternalFailure", "ServiceUnavailable", "InternalServerError":
		e.Code = cause.KMSInternal
	case "DependencyTimeoutException", "KeyUnavailableException":
		e.Code = cause.KeyUnavailable
	case "LimitExceededException":
		e.Code = cause.Throttled
	default:
		e.Code = identifyShared(code, api.ErrorMessage(), status)
		if e.Code == cause.Unforeseen && e.RequestID == "" {
			e.Code = cause.NotKMS
		}
	}
	if e.Code == cause.NotKMS {
		e.AWSCode, e.Said = "", saidWithStatus(status, api)
	}
}

// saidWithStatus is what a stranger says: its code is none of AWS's.
func saidWithStatus(status int, api smithy.APIError) string {
	parts := []string{transport.Status(status)}
	for _, part := range []string{api.ErrorCode(), api.ErrorMessage()} {
		if part != "" && part != unknownError {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// noteOrigin says of a throttled call that something between may have said so: KMS
// gives each answer an id.
func noteOrigin(e *cause.Error) {
	if e.Code == cause.Throttled && e.RequestID == "" {
		e.Note = "the answer has no request id of KMS, so a proxy or gateway in between may have given it: look at the limits of that first"
	}
}

// unknownError is the SDK's word for a body without an error type.
const unknownError = "UnknownError"

func identifyShared(code, message string, status int) cause.Code {
	if known, ok := signatureOrCredentials(code, message); ok {
		return known
	}
	if _, throttled := retry.DefaultThrottleErrorCodes[code]; throttled || status == http.StatusTooManyRequests {
		return cause.Throttled
	}
	if status >= http.StatusInternalServerError {
		return cause.KMSInternal
	}
	if code == unknownError {
		return cause.NotKMS
	}
	return cause.Unforeseen
}

func credentialsCode(code string) (cause.Code, bool) {
	switch code {
	case "ExpiredTokenException", "ExpiredToken", "RequestExpired":
		return cause.CredentialsExpired, true
	case "UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "MissingAuthenticationTokenException",
		"MissingAuthenticationToken", "NotAuthorized":
		return cause.CredentialsRefused, true
	case "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "IncompleteSignatureException",
		"RequestTimeTooSkewed":
		return cause.SignatureRefused, true
	}
	return cause.Unforeseen, false
}

// stateRefusal tells the states in which the key's owner says no from those
// that pass, and from custom key stores, which report any trouble this way.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
func stateRefusal(message string) cause.Code {
	m := strings.ToLower(strings.ReplaceAll(message, " ", ""))
	switch {
	case strings.Contains(m, "pendingdeletion"), strings.Contains(m, "pendingreplicadeletion"):
		return cause.KeyPendingDeletion
	case strings.Contains(m, "pendingimport"):
		return cause.KeyPendingImport
	case strings.Contains(m, "disabled"):
		return cause.KeyDisabled
	}
	return cause.KeyUnavailable
}

func identifyNetwork(e *cause.Error, err error) {
	status := statusOf(err)
	_, garbled := errors.AsType[*smithy.DeserializationError](err)
	switch {
	case status == http.StatusTooManyRequests:
		e.Code, e.Said = cause.Throttled, transport.Status(status)
	case status >= http.StatusInternalServerError:
		e.Code = cause.KMSInternal
		e.Said = http.StatusText(status)
	case garbled:
		e.Code, e.Said = cause.NotKMS, transport.Status(status)
	case isTLS(err):
		e.Code, e.Said = cause.TLSFailed, transport.Innermost(err)
	case transport.IsA[*net.DNSError](err):
		e.Code, e.Said = cause.NameResolution, transport.Innermost(err)
	case transport.IsA[*smithyhttp.RequestSendError](err), transport.IsA[*net.OpError](err):
		e.Code, e.Said = cause.Unreachable, transport.Innermost(err)
	default:
		e.Code, e.Said = cause.Unforeseen, transport.Innermost(err)
	}
}

func isTLS(err error) bool {
	return transport.IsA[*tls.CertificateVerificationError](err) || transport.IsA[x509.UnknownAuthorityError](err) ||
		transport.IsA[x509.HostnameError](err) || transport.IsA[x509.CertificateInvalidError](err) || transport.IsA[tls.RecordHeaderError](err) ||
		transport.IsA[tls.AlertError](err)
}

func statusOf(err error) int {
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return resp.HTTPStatusCode()
	}
	return 0
}

// whoAndWhat reads principal and action out of the sentence that IAM answers.
// Its wording is stable enough to help, and nothing depends on it.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func whoAndWhat(message string) (principal, action string) {
	rest, ok := strings.CutPrefix(strings.Join(strings.Fields(message), " "), "User: ")
	if !ok {
		return "", ""
	}
	principal, rest, ok = strings.Cut(rest, " is not authorized to perform: ")
	if !ok {
		return "", ""
	}
	action, _, _ = strings.Cut(rest, " ")
	return principal, strings.TrimRight(action, ".,")
}
