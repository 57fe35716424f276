package awskms

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// identifyCredentials says why there was nothing to sign with, and which source
// was asked. from is what the SDK's settings say of it; nil: not known.
func identifyCredentials(e *cause.Error, err error, from *settings.Sources) {
	if from == nil {
		from = settings.Nowhere()
	}
	asked := settings.LastAsked(err)
	process, isProcess := errors.AsType[*settings.ProcessError](err)
	token, said, isToken := settings.TokenOf(err)
	switch {
	case isProcess:
		s := from.Process()
		e.Code, e.Said, e.Source, e.Check = cause.NoCredentials, "it "+process.Said, s.String(), s.Check()
		if process.Silent {
			e.Code = cause.CredentialsSilent
		}
	case isToken:
		e.Code, e.Said, e.Source = cause.TokenUnreadable, said, token
	case asked != nil:
		identifyAsked(e, asked)
	case isOfTheInstance(err):
		identifyInstance(e, err, from.Metadata())
	default:
		identifyUnasked(e, err, from)
	}
	if from.Unread() != nil && from.SearchedInVain(asked) {
		from.Unread().Blame(e)
	}
}

// identifyUnasked knows failures that are of no call.
func identifyUnasked(e *cause.Error, err error, from *settings.Sources) {
	api, isAPI := errors.AsType[smithy.APIError](err)
	switch {
	case isAPI:
		e.AWSCode, e.Said = api.ErrorCode(), api.ErrorMessage()
		e.Code = cause.SourceRefused
		if known, ok := credentialsCode(api.ErrorCode()); ok {
			e.Code = known
		}
	case errors.Is(err, identity.ErrExpiredAlready):
		e.Code, e.Said = cause.CredentialsExpired, transport.Innermost(err)
	case transport.IsTimeout(err), askedAService(err):
		e.Code, e.Said = cause.CredentialsSilent, transport.Innermost(err)
	default:
		e.Code, e.Said = cause.NoCredentials, transport.Innermost(err)
		if s := from.Base(); s.NeedsAPerson() { // whose session is a file
			e.Source, e.Check = s.String(), s.Check()
		}
		return
	}
	e.Source = from.Slowest().String()
}

// identifyInstance knows what the metadata service can answer in place of
// credentials.
func identifyInstance(e *cause.Error, err error, s settings.Source) {
	e.Source = s.String()
	api, isAPI := errors.AsType[smithy.APIError](err)
	switch {
	case isAPI: // the role is attached, and EC2 may not use it
		e.Code, e.AWSCode, e.Said = cause.SourceRefused, api.ErrorCode(), api.ErrorMessage()
		e.Check = "check that the role of the instance profile exists, and trusts ec2.amazonaws.com"
	case strings.Contains(err.Error(), "empty EC2 IMDS role list"):
		e.Code, e.Said = cause.NoRoleAttached, "it lists no role"
	default:
		e.Code, e.Said = cause.NotASource, "something else than the JSON of credentials"
	}
}

// identifyAsked knows what a source that was asked can answer.
func identifyAsked(e *cause.Error, a *settings.AskedError) {
	e.Source, e.Said = a.Source.String(), a.Said
	api, isAPI := errors.AsType[smithy.APIError](a.Err)
	code := ""
	if isAPI {
		code = api.ErrorCode()
		e.AWSCode = code
	}
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	switch {
	case transport.IsTimeout(a.Err), errors.Is(a.Err, context.Canceled):
		e.Code = cause.CredentialsSilent
	case !a.Sent: // endpoint rules, an address that is none, a parameter that cannot be
		e.Code = cause.SettingsUnreadable
	case throttled, a.Status == http.StatusTooManyRequests, a.Status >= http.StatusInternalServerError:
		e.Code = cause.CredentialsSilent
	case transport.IsA[*transport.StrangeError](a.Err):
		e.Code, e.AWSCode = cause.NotASource, ""
	case a.Op == settings.GetMetadata:
		identifyMetadata(e, a)
	case a.Op == settings.GetCredentials:
		identifyContainer(e, a)
	case a.Status == 0:
		e.Code = cause.CredentialsSilent
	case !isAPI, code == unknownError:
		e.Code, e.AWSCode = cause.NotASource, ""
	default:
		identifyExchange(e, a, api)
	}
	if e.Code == cause.CredentialsSilent || e.Code == cause.NotASource {
		e.Source = a.Source.Service()
	}
}

// identifyMetadata knows the answers of the instance metadata service, and of
// what stands in front of it in a cluster: kube2iam and kiam answer in text.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-returns.html
// https://github.com/jtblin/kube2iam/blob/master/server/server.go
func identifyMetadata(e *cause.Error, a *settings.AskedError) {
	const list = "/iam/security-credentials"
	role := a.Path[strings.LastIndex(a.Path, list)+len(list):]
	switch {
	case a.Status == 0: // where every search ends that has found nothing else
		e.Code = cause.NoCredentials
	case strings.Contains(role, "<"): // a page, taken for the name of a role
		e.Code, e.Said = cause.NotASource, "a page of HTML"
	case a.Status == http.StatusNotFound && strings.Trim(role, "/") == "":
		e.Code = cause.NoRoleAttached
	case a.Status >= http.StatusBadRequest:
		e.Code, e.Check = cause.SourceRefused, a.Source.Check()
	default:
		e.Code = cause.NotASource
	}
}

// identifyContainer knows the answers of ECS, in JSON, and of the EKS Pod Identity
// agent, in text.
//
// https://github.com/aws/eks-pod-identity-agent/blob/main/pkg/errors/errors.go
func identifyContainer(e *cause.Error, a *settings.AskedError) {
	switch {
	case a.Status == 0:
		e.Code, e.Check = cause.NoCredentials, a.Source.Check()
	case a.HTML, a.Status < http.StatusBadRequest, transport.IsA[*smithy.DeserializationError](a.Err):
		e.Code, e.AWSCode = cause.NotASource, ""
	default:
		e.Code, e.Check = cause.SourceRefused, a.Source.Check()
	}
}

// identifyExchange knows what STS and its like answer to who wants other
// credentials.
//
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
func identifyExchange(e *cause.Error, a *settings.AskedError, api smithy.APIError) {
	code := api.ErrorCode()
	e.Principal, e.Action = whoAndWhat(api.ErrorMessage())
	known, isKnown := signatureOrCredentials(code, api.ErrorMessage())
	byToken := a.Op == settings.AssumeByToken
	switch {
	case byToken && (code == "InvalidIdentityToken" || code == "IDPRejectedClaim"),
		byToken && code == "ValidationError" && strings.Contains(api.ErrorMessage(), "'webIdentityToken'"):
		e.Code = cause.TokenRefused
	case byToken && (code == "ExpiredTokenException" || code == "ExpiredToken"):
		e.Code = cause.TokenExpired
	case code == "IDPCommunicationError": // STS could not ask the issuer for its keys
		e.Code = cause.CredentialsSilent
	case isKnown:
		e.Code = known
	case byToken, a.Op == settings.AssumeRole:
		e.Code, e.Check = cause.RoleRefused, a.Source.Check()
		e.Denial = denialOfRole(api.ErrorMessage(), a.Source.Role())
	default:
		e.Code, e.Check = cause.SourceRefused, a.Source.Check()
	}
}

// signatureOrCredentials knows the errors about a signature and what it was made
// with, which all services share.
func signatureOrCredentials(code, message string) (cause.Code, bool) {
	known, ok := credentialsCode(code)
	if known == cause.SignatureRefused && strings.Contains(message, " scoped to ") {
		// "Credential should be scoped to a valid region" or "to correct service":
		// AWS looks at this before the clock and the secret.
		return cause.ScopeRefused, true
	}
	return known, ok
}

// askedAService reports whether credentials were to come from a service that was
// chosen by settings. An instance metadata service that is not there is where
// every search without credentials ends.
func askedAService(err error) bool {
	op, ok := errors.AsType[*smithy.OperationError](err)
	return ok && op.ServiceID != "ec2imds"
}

// isOfTheInstance reports whether an error is about what the metadata service gave
// when it had answered: the SDK's own text is all that tells. A service that the
// settings disable was not asked.
func isOfTheInstance(err error) bool {
	text := err.Error()
	return strings.Contains(text, "EC2 IMDS role") && !strings.Contains(text, "access disabled to EC2 IMDS")
}
