package settings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// The SDK's calls by which credentials are asked for, by their names in it.
const (
	GetMetadata       = "GetMetadata"    // of the instance metadata service
	GetCredentials    = "GetCredentials" // of a container's endpoint
	AssumeRole        = "AssumeRole"     // of STS
	AssumeByToken     = "AssumeRoleWithWebIdentity"
	getRoleByIdentity = "GetRoleCredentials" // of IAM Identity Center
	createToken       = "CreateToken"        //nolint:gosec // the same's
	createLoginToken  = "CreateOAuth2Token"  // of aws login
	getRegion         = "GetRegion"          // of the instance metadata service, which needs no credentials
	getToken          = "getToken"           // part of each of its calls
	getCaller         = "GetCallerIdentity"  // of STS, with credentials that were found
)

// An AskedError is a call to a source of credentials that failed. Where one source
// needs another's credentials first, the innermost one is that which failed.
type AskedError struct {
	Op     string
	Source Source
	Sent   bool   // the request left the process
	Status int    // of the answer; 0: there was none
	HTML   bool   // the answer is a page for people
	Path   string // of the request
	Said   string
	Err    error
}

func (e *AskedError) Error() string { return e.Source.String() + ": " + e.Err.Error() }

// Unwrap returns how it failed.
func (e *AskedError) Unwrap() error { return e.Err }

// tokenError is a file with a token that cannot be read, or has none in it.
type tokenError struct {
	path string
	err  error
}

func (e *tokenError) Error() string { return cause.Quote(e.path) + ": " + transport.Innermost(e.err) }
func (e *tokenError) Unwrap() error { return e.err }

var errNoToken = errors.New("the file is empty")

// A tokenFile is a file with a web identity token. It is read at each renewal.
type tokenFile string

// GetIdentityToken reads the file.
func (f tokenFile) GetIdentityToken() ([]byte, error) {
	token, err := os.ReadFile(string(f)) // the SDK's own way keeps only the text of an error
	switch {
	case err != nil:
		return nil, &tokenError{string(f), err}
	case strings.TrimSpace(string(token)) == "":
		return nil, &tokenError{string(f), errNoToken}
	}
	return token, nil
}

// A reading is one reading of the SDK's settings: it hooks into what the SDK makes
// of them.
type reading struct {
	settings *Sources // filled in when the SDK has read them
	process  *processProvider
}

// role is called for each role that the settings assume. Where that is done with
// what a credential_process gives, ours runs it.
func (r *reading) role(o *stscreds.AssumeRoleOptions) {
	api, ok := o.Client.(*sts.Client)
	if ok && aws.IsCredentialsProvider(api.Options().Credentials, &processcreds.Provider{}) {
		o.Client = &roleClient{api, r.process}
	}
}

// A roleClient assumes roles with credentials of its own.
type roleClient struct {
	api         *sts.Client
	credentials aws.CredentialsProvider
}

// AssumeRole calls STS.
func (c *roleClient) AssumeRole(ctx context.Context, in *sts.AssumeRoleInput, options ...func(*sts.Options)) (*sts.AssumeRoleOutput, error) {
	return c.api.AssumeRole(ctx, in, append(options, func(o *sts.Options) { o.Credentials = c.credentials })...)
}

// token makes a file with a web identity token tell its name where it fails.
func (r *reading) token(o *stscreds.WebIdentityRoleOptions) {
	if file, ok := o.TokenRetriever.(stscreds.IdentityTokenFile); ok {
		o.TokenRetriever = tokenFile(file)
	}
}

// container makes an empty file with the token for a container's endpoint an
// error: the SDK would send no token at all.
func (r *reading) container(o *endpointcreds.Options) {
	inner := o.AuthorizationTokenProvider
	if inner == nil {
		return
	}
	o.AuthorizationTokenProvider = endpointcreds.TokenProviderFunc(func() (string, error) {
		token, err := inner.GetToken()
		if err == nil && token == "" {
			err = errNoToken
		}
		return token, err
	})
}

// watch makes the SDK's calls to sources of credentials tell who was asked, and
// bounds what they read.
func (r *reading) watch(stack *middleware.Stack) error {
	var a *asking
	switch op := stack.ID(); op {
	case GetMetadata, GetCredentials, AssumeRole, AssumeByToken, getRoleByIdentity, createToken, createLoginToken, getRegion, getCaller:
		a = &asking{settings: r.settings, op: op}
		if err := stack.Initialize.Add(middleware.InitializeMiddlewareFunc("WhoIsAsked", a.call), middleware.Before); err != nil {
			return err
		}
	case getToken:
		a = &asking{settings: r.settings, op: op}
	default: // KMS, whose calls are counted in microseconds
		return nil
	}
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("WhoAnswers", a.attempt), middleware.After)
}

// An asking is one call to a source of credentials, retries included. What it
// keeps is of the last attempt.
type asking struct {
	settings *Sources
	op       string
	role     string
	url      *url.URL // nil: no attempt was made
	status   int
	html     bool
	text     string // of a refusal that is neither a page nor for programs
	sent     transport.Sent
}

func (a *asking) call(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	middleware.InitializeOutput, middleware.Metadata, error,
) {
	if in, ok := in.Parameters.(*sts.AssumeRoleInput); ok {
		a.role = aws.ToString(in.RoleArn)
	}
	out, metadata, err := next.HandleInitialize(ctx, in)
	if err == nil && a.op == GetCredentials && !hasAccessKey(out.Result) {
		err = &smithy.DeserializationError{Err: errNoAccessKey}
	}
	if caller, ok := out.Result.(*sts.GetCallerIdentityOutput); ok && caller != nil {
		caller.Account, caller.Arn = a.shown(caller.Account), a.shown(caller.Arn)
	}
	switch {
	case err == nil:
	case a.op == getCaller: // asks for no credentials
		err = transport.MayRepeat(err, a.sent.Secrets())
	default:
		err = transport.MayRepeat(a.failed(err), a.sent.Secrets())
	}
	return out, metadata, err
}

func (a *asking) shown(text *string) *string {
	return aws.String(a.sent.Secrets().From(aws.ToString(text)))
}

var errNoAccessKey = errors.New("JSON without an access key")

// hasAccessKey looks into an answer of a container's endpoint, whose type the SDK
// keeps to itself.
func hasAccessKey(result any) bool {
	v := reflect.ValueOf(result)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return false
	}
	id := v.Elem().FieldByName("AccessKeyID")
	return !id.IsValid() || id.String() != ""
}

func (a *asking) attempt(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (
	middleware.DeserializeOutput, middleware.Metadata, error,
) {
	a.status, a.html, a.text = 0, false, ""
	if req, ok := in.Request.(*smithyhttp.Request); ok {
		a.url = req.URL
		a.sent = transport.Sent{Request: req.Request, Body: transport.BodyOf(req)}
	}
	out, metadata, err := next.HandleDeserialize(ctx, in)
	if resp, ok := out.RawResponse.(*smithyhttp.Response); err == nil && ok && resp != nil {
		err = a.answered(resp)
	}
	if s := (*transport.StrangeError)(nil); err != nil && !errors.As(err, &s) {
		if s = transport.Strange(err); s != nil {
			err = &smithy.DeserializationError{Err: s.Once()} // no connection is used twice
		}
	}
	return out, metadata, err
}

// answered looks at an answer before the SDK reads it.
func (a *asking) answered(resp *smithyhttp.Response) error {
	a.status = resp.StatusCode
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	a.html = kind == "text/html"
	if err := transport.Refuse(resp.Response); err != nil {
		return &smithy.DeserializationError{Err: err}
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if transport.IsA[*transport.StrangeError](err) {
		resp.Body = http.NoBody // for the SDK, which drains what it closes
		return &smithy.DeserializationError{Err: err}
	}
	if err != nil { // half an answer is none
		a.status, a.html = 0, false
		return fmt.Errorf("reading the answer: %w", err)
	}
	if string(bytes.TrimSpace(body)) == "null" { // which the SDK takes for a value, and panics
		body = []byte("{}")
	}
	if a.status >= http.StatusBadRequest && kind == "text/plain" {
		a.text = firstLine(string(body[:min(len(body), maxSaid)]))
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

func (a *asking) failed(err error) error {
	e := &AskedError{Op: a.op, Status: a.status, HTML: a.html, Sent: a.url != nil, Err: err}
	switch a.op {
	case GetMetadata, getRegion:
		e.Source = a.settings.Metadata()
	case GetCredentials:
		e.Source = a.settings.container()
	case AssumeRole:
		e.Source = a.settings.assumed(a.role)
	case AssumeByToken:
		e.Source = a.settings.token()
	default:
		e.Source = a.settings.Base()
	}
	if a.url != nil {
		e.Path = a.url.Path
		if e.Source.kind != metadataSource { // whose address says more than the path of one of its calls
			e.Source.address = withoutSecrets(a.url.String())
		}
	}
	e.Said = a.saidBy(err, e.Source.kind)
	return e
}

// saidBy is what a source answered, in its own words where it has some for people.
func (a *asking) saidBy(err error, of kind) string {
	answer := ""
	if a.status != 0 {
		answer = strings.TrimSpace(strconv.Itoa(a.status) + " " + http.StatusText(a.status))
	}
	api, isAPI := errors.AsType[smithy.APIError](err)
	said := a.text
	switch {
	case said != "":
	case of == metadataSource && a.status >= http.StatusBadRequest: // the SDK adds nothing, and a page is usual
	case a.html:
		said = "a page of HTML"
	case isAPI:
		said = firstLine(api.ErrorMessage())
	default:
		said = transport.Innermost(err)
	}
	switch {
	case answer == "":
		return said
	case said == "":
		return answer
	}
	return answer + ": " + said
}

// maxSaid is more of an answer than is ever shown.
const maxSaid = 1024

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// TokenOf finds the token that a failure is about, as text that is safe to print.
func TokenOf(err error) (token, said string, ok bool) {
	if e, ok := errors.AsType[*tokenError](err); ok {
		return "the file " + cause.Quote(e.path), reason(e.err), true
	}
	if e, ok := errors.AsType[*unreadableError](err); ok {
		return "the file " + cause.Quote(e.path), "it " + e.why, true
	}
	// Here the SDK keeps the text alone, with the error of the file at its end.
	const mark = "resolve auth token: "
	_, text, ok := strings.Cut(err.Error(), mark)
	if !ok {
		return "", "", false
	}
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+len(": "):]
	}
	if file := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
		return "the file " + cause.Quote(file), text, true
	}
	return "AWS_CONTAINER_AUTHORIZATION_TOKEN", text, true
}

// reason is why a file could not be read, without its name.
func reason(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// LastAsked returns the innermost call that failed by itself. It is nil where there is
// none, as where a call had no credentials to be made with.
func LastAsked(err error) (last *AskedError) {
	for {
		a, ok := errors.AsType[*AskedError](err)
		if !ok {
			break
		}
		last, err = a, a.Err
	}
	// The SDK has no type for it.
	if last != nil && !last.Sent && strings.Contains(last.Err.Error(), "get identity: ") {
		return nil
	}
	return last
}
