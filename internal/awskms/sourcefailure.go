package awskms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// identifyCredentials says why there was nothing to sign with, and which source
// was asked. from is what the SDK's settings say of it; nil: not known.
func identifyCredentials(e *cause.Error, err error, from *sourceSettings) {
	if from == nil {
		from = &sourceSettings{profiles: []config.SharedConfig{{}}}
	}
	asked := lastAsked(err)
	process, isProcess := errors.AsType[*processError](err)
	token, said, isToken := tokenOf(err)
	switch {
	case isProcess:
		s := from.base()
		s.kind = processSource
		e.Code, e.Said, e.Source, e.Check = cause.NoCredentials, "it "+process.said, s.String(), s.check()
		if process.silent {
			e.Code = cause.CredentialsSilent
		}
	case isToken:
		e.Code, e.Said, e.Source = cause.TokenUnreadable, said, token
	case asked != nil:
		identifyAsked(e, asked)
	case isOfTheInstance(err):
		identifyInstance(e, err, from.metadata())
	default:
		identifyUnasked(e, err, from)
	}
	if from.unread != nil && from.searchedInVain(asked) {
		from.unread.blame(e)
	}
}

// searchedInVain reports whether the search for credentials went past the shared files
// to what comes after them: a container's credentials, where the file that may not be
// read was named, and in the end the instance metadata service. What it ended with there
// says nothing about the source that a file may name. asked is the call that failed;
// nil: none did.
func (o *sourceSettings) searchedInVain(asked *askedError) bool {
	kind := o.base().kind
	past := kind == metadataSource || kind == containerSource && o.unread.named
	return past && o.last().CredentialSource == "" && (asked == nil || asked.source.kind == kind)
}

// lastAsked is the call that failed by itself, and not for want of credentials of
// its own; nil: none did.
func lastAsked(err error) (last *askedError) {
	for {
		a, ok := errors.AsType[*askedError](err)
		if !ok {
			break
		}
		last, err = a, a.err
	}
	// The SDK has no type for it.
	if last != nil && !last.sent && strings.Contains(last.err.Error(), "get identity: ") {
		return nil
	}
	return last
}

// identifyUnasked knows failures that are of no call.
func identifyUnasked(e *cause.Error, err error, from *sourceSettings) {
	api, isAPI := errors.AsType[smithy.APIError](err)
	switch {
	case isAPI:
		e.AWSCode, e.Said = api.ErrorCode(), api.ErrorMessage()
		e.Code = cause.SourceRefused
		if known, ok := credentialsCode(api.ErrorCode()); ok {
			e.Code = known
		}
	case errors.Is(err, errExpiredAlready):
		e.Code, e.Said = cause.CredentialsExpired, transport.Innermost(err)
	case transport.IsTimeout(err), askedAService(err):
		e.Code, e.Said = cause.CredentialsSilent, transport.Innermost(err)
	default:
		e.Code, e.Said = cause.NoCredentials, transport.Innermost(err)
		if s := from.base(); s.kind == ssoSource || s.kind == loginSource { // whose session is a file
			e.Source, e.Check = s.String(), s.check()
		}
		return
	}
	e.Source = from.slowest().String()
}

// identifyInstance knows what the metadata service can answer in place of
// credentials.
func identifyInstance(e *cause.Error, err error, s source) {
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
func identifyAsked(e *cause.Error, a *askedError) {
	e.Source, e.Said = a.source.String(), a.said
	api, isAPI := errors.AsType[smithy.APIError](a.err)
	code := ""
	if isAPI {
		code = api.ErrorCode()
		e.AWSCode = code
	}
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	switch {
	case transport.IsTimeout(a.err), errors.Is(a.err, context.Canceled):
		e.Code = cause.CredentialsSilent
	case !a.sent: // endpoint rules, an address that is none, a parameter that cannot be
		e.Code = cause.SettingsUnreadable
	case throttled, a.status == http.StatusTooManyRequests, a.status >= http.StatusInternalServerError:
		e.Code = cause.CredentialsSilent
	case transport.IsA[*transport.StrangeError](a.err):
		e.Code, e.AWSCode = cause.NotASource, ""
	case a.op == getMetadata:
		identifyMetadata(e, a)
	case a.op == getCredentials:
		identifyContainer(e, a)
	case a.status == 0:
		e.Code = cause.CredentialsSilent
	case !isAPI, code == unknownError:
		e.Code, e.AWSCode = cause.NotASource, ""
	default:
		identifyExchange(e, a, api)
	}
	if e.Code == cause.CredentialsSilent || e.Code == cause.NotASource {
		e.Source = a.source.service()
	}
}

// identifyMetadata knows the answers of the instance metadata service, and of
// what stands in front of it in a cluster: kube2iam and kiam answer in text.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-returns.html
// https://github.com/jtblin/kube2iam/blob/master/server/server.go
func identifyMetadata(e *cause.Error, a *askedError) {
	const list = "/iam/security-credentials"
	role := a.path[strings.LastIndex(a.path, list)+len(list):]
	switch {
	case a.status == 0: // where every search ends that has found nothing else
		e.Code = cause.NoCredentials
	case strings.Contains(role, "<"): // a page, taken for the name of a role
		e.Code, e.Said = cause.NotASource, "a page of HTML"
	case a.status == http.StatusNotFound && strings.Trim(role, "/") == "":
		e.Code = cause.NoRoleAttached
	case a.status >= http.StatusBadRequest:
		e.Code, e.Check = cause.SourceRefused, a.source.check()
	default:
		e.Code = cause.NotASource
	}
}

// identifyContainer knows the answers of ECS, in JSON, and of the EKS Pod Identity
// agent, in text.
//
// https://github.com/aws/eks-pod-identity-agent/blob/main/pkg/errors/errors.go
func identifyContainer(e *cause.Error, a *askedError) {
	switch {
	case a.status == 0:
		e.Code, e.Check = cause.NoCredentials, a.source.check()
	case a.html, a.status < http.StatusBadRequest, transport.IsA[*smithy.DeserializationError](a.err):
		e.Code, e.AWSCode = cause.NotASource, ""
	default:
		e.Code, e.Check = cause.SourceRefused, a.source.check()
	}
}

// identifyExchange knows what STS and its like answer to who wants other
// credentials.
//
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
func identifyExchange(e *cause.Error, a *askedError, api smithy.APIError) {
	code := api.ErrorCode()
	e.Principal, e.Action = whoAndWhat(api.ErrorMessage())
	known, isKnown := signatureOrCredentials(code, api.ErrorMessage())
	byToken := a.op == assumeByToken
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
	case byToken, a.op == assumeRole:
		e.Code, e.Check = cause.RoleRefused, a.source.check()
		e.Denial = denialOfRole(api.ErrorMessage(), a.source.role)
	default:
		e.Code, e.Check = cause.SourceRefused, a.source.check()
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

// isProfileMissing reports whether a profile was looked for and not found.
func isProfileMissing(err error) bool {
	return transport.IsA[config.SharedConfigProfileNotExistError](err) || transport.IsA[config.SharedConfigAssumeRoleError](err)
}

// saidOfSettings says which settings cannot be read, and why.
func saidOfSettings(err error) string {
	if e, ok := errors.AsType[config.SharedConfigAssumeRoleError](err); ok {
		if _, missing := errors.AsType[config.SharedConfigProfileNotExistError](e.Err); missing {
			return fmt.Sprintf("source_profile %q is in none of %s", e.Profile, strings.Join(sharedFiles(), ", "))
		}
		return fmt.Sprintf("source_profile %q has no credentials, or leads back to itself, in %s", e.Profile, strings.Join(sharedFiles(), ", "))
	}
	if e, ok := errors.AsType[config.SharedConfigProfileNotExistError](err); ok {
		return fmt.Sprintf("profile %q is in none of %s", e.Profile, strings.Join(sharedFiles(), ", "))
	}
	if transport.IsA[*url.Error](err) && os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" { // whose text may hold a token
		return "AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL"
	}
	return transport.Innermost(err)
}
