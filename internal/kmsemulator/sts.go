package kmsemulator

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/iam"
)

const (
	stsVersion   = "2011-06-15"
	stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"
	usualSession = 3600
)

// A Role is an IAM role that callers can assume.
type Role struct {
	ARN        string
	ExternalID string // must be given to assume it; "": none is asked for
}

// STS returns a handler that answers as AWS STS does, for AssumeRole and
// GetCallerIdentity: reach it by AWS_ENDPOINT_URL_STS. The credentials that it
// hands out are known to the emulator until they expire.
func (e *Emulator) STS() http.Handler { return http.HandlerFunc(e.serveSTS) }

// stsResult is what an STS action puts inside its answer.
type stsResult any

func (e *Emulator) serveSTS(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	w.Header().Set("X-Amzn-Requestid", id)
	w.Header().Set("Date", e.clock().UTC().Format(http.TimeFormat))
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return
	}
	name, result, err := e.answerSTS(w, r, body)
	switch {
	case errors.Is(err, errAnswered):
	case err != nil:
		writeSTSError(w, id, err)
	default:
		writeSTS(w, id, name, result)
	}
}

func (e *Emulator) answerSTS(w http.ResponseWriter, r *http.Request, body []byte) (string, stsResult, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/" {
		return "", nil, &apiError{status: http.StatusBadRequest, code: "MalformedQueryString", message: "Keys may not be empty"}
	}
	name := form.Get("Action")
	var action func(caller, url.Values, time.Time) (stsResult, error)
	switch name {
	case "AssumeRole":
		action = e.assumeRole
	case "GetCallerIdentity":
		action = e.callerIdentity
	default:
		return "", nil, &apiError{
			status: http.StatusBadRequest, code: "InvalidAction",
			message: fmt.Sprintf("Could not find operation %s for version %s", name, form.Get("Version")),
		}
	}
	e.calls[name].Add(1)
	if err := e.disturb(w, r, name, "", nil); err != nil {
		return "", nil, err
	}
	if v := form.Get("Version"); v != stsVersion {
		return "", nil, &apiError{
			status: http.StatusBadRequest, code: "InvalidAction",
			message: fmt.Sprintf("Could not find operation %s for version %s", name, v),
		}
	}
	now := e.clock()
	who, err := e.authenticate(r, body, "sts", now)
	if err != nil {
		return "", nil, err
	}
	result, err := action(who, form, now)
	return name, result, err
}

type assumeRoleResult struct {
	XMLName         xml.Name `xml:"AssumeRoleResult"`
	AssumedRoleUser struct {
		Arn           string
		AssumedRoleId string
	}
	Credentials struct {
		AccessKeyId     string
		SecretAccessKey string
		SessionToken    string
		Expiration      string
	}
}

func (e *Emulator) assumeRole(who caller, form url.Values, now time.Time) (stsResult, error) {
	arn, session := form.Get("RoleArn"), form.Get("RoleSessionName")
	seconds, err := checkAssume(form)
	if err != nil {
		return nil, err
	}
	name, err := e.mayAssume(who, arn, form)
	if err != nil {
		return nil, err
	}
	principal := e.arn("sts", "", "assumed-role/"+name+"/"+session)
	cred := temporary(principal, now.Add(time.Duration(seconds)*time.Second))
	cred.role = arn
	e.signers.add(cred)
	var out assumeRoleResult
	out.AssumedRoleUser.Arn = principal
	out.AssumedRoleUser.AssumedRoleId = "AROA" + cred.AccessKeyID[4:] + ":" + session
	out.Credentials.AccessKeyId = cred.AccessKeyID
	out.Credentials.SecretAccessKey = cred.SecretAccessKey
	out.Credentials.SessionToken = cred.SessionToken
	out.Credentials.Expiration = cred.Expires.UTC().Format(time.RFC3339)
	return out, nil
}

// checkAssume checks the request's form and returns the session's seconds.
func checkAssume(form url.Values) (int, error) {
	seconds := int32(usualSession)
	if s := form.Get("DurationSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return 0, &apiError{status: http.StatusBadRequest, code: "MalformedInput", message: "Invalid Argument"}
		}
		seconds = int32(n)
	}
	var ch checks
	text := func(name, member string, shortest, longest int, pattern string) {
		if !form.Has(name) {
			ch.required(member, false)
			return
		}
		s := form.Get(name)
		ch.text(member, &s, shortest, longest)
		// AWS matches the whole text, and shows the pattern without anchors.
		if !regexp.MustCompile(`^` + pattern + `$`).MatchString(s) {
			ch.fail(quoted(s), member, "Member must satisfy regular expression pattern: "+pattern)
		}
	}
	text("RoleArn", "roleArn", 20, 2048, `[\t\n\r\x20-\x7E]*`)
	text("RoleSessionName", "roleSessionName", 2, 64, `[\w+=,.@-]*`)
	if form.Has("ExternalId") {
		text("ExternalId", "externalId", 2, 1224, `[\w+=,.@:\/-]*`)
	}
	ch.number("durationSeconds", &seconds, 900, 43200)
	if err := ch.err(); err != nil {
		e := asAPIError(err)
		e.code = "ValidationError" // STS's name for it
		return 0, e
	}
	return int(seconds), nil
}

// mayAssume checks the role and its external id, and returns its name.
func (e *Emulator) mayAssume(who caller, arn string, form url.Values) (string, error) {
	refusal := deniedSTS(who.principal, "sts:AssumeRole", arn, "")
	path, ok := strings.CutPrefix(arn, e.arn("iam", "", "role/"))
	if !ok || path == "" {
		return "", refusal
	}
	name := path[strings.LastIndex(path, "/")+1:]
	if err := e.mayEnter(who, arn, form); err != nil {
		return "", err
	}
	if len(e.options.Roles) == 0 {
		return name, nil
	}
	for _, role := range e.options.Roles {
		if role.ARN == arn && (role.ExternalID == "" || role.ExternalID == form.Get("ExternalId")) {
			return name, nil
		}
	}
	return "", refusal
}

// temporary makes credentials for a session.
func temporary(principal string, until time.Time) Credential {
	var b [70]byte
	_, _ = rand.Read(b[:])
	return Credential{
		AccessKeyID:     "ASIA" + base32.StdEncoding.EncodeToString(b[:10]),
		SecretAccessKey: base64.StdEncoding.EncodeToString(b[10:40]),
		SessionToken:    base64.StdEncoding.EncodeToString(b[40:]),
		Expires:         until, Principal: principal,
	}
}

type callerIdentityResult struct {
	XMLName xml.Name `xml:"GetCallerIdentityResult"`
	Arn     string
	UserId  string
	Account string
}

// callerIdentity needs no permission, but an endpoint's policy can stop it.
func (e *Emulator) callerIdentity(who caller, _ url.Values, _ time.Time) (stsResult, error) {
	if err := e.mayAsk(who); err != nil {
		return nil, err
	}
	return callerIdentityResult{Arn: who.principal, UserId: who.accessKey, Account: iam.AccountOf(who.principal)}, nil
}

func writeSTS(w http.ResponseWriter, id, action string, result stsResult) {
	writeXML(w, http.StatusOK, struct {
		XMLName   xml.Name
		Result    any
		RequestID string `xml:"ResponseMetadata>RequestId"`
	}{xml.Name{Space: stsNamespace, Local: action + "Response"}, result, id})
}

func writeSTSError(w http.ResponseWriter, id string, err error) {
	e := asSTSError(asAPIError(err))
	kind := "Sender"
	if e.status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	writeXML(w, e.status, struct {
		XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Type      string   `xml:"Error>Type"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}{Type: kind, Code: e.code, Message: e.message, RequestID: id})
}

// asSTSError gives the refusals of authenticate the names and status that the
// query protocol has for them.
func asSTSError(e *apiError) *apiError {
	names := map[string]string{
		"InvalidSignatureException":           "SignatureDoesNotMatch",
		"UnrecognizedClientException":         "InvalidClientTokenId",
		"IncompleteSignatureException":        "IncompleteSignature",
		"MissingAuthenticationTokenException": "MissingAuthenticationToken",
		"ExpiredTokenException":               "ExpiredToken",
		"ThrottlingException":                 "Throttling",
		"KMSInternalException":                "InternalFailure",
	}
	name, ok := names[e.code]
	if !ok {
		return e
	}
	out := *e
	out.code = name
	if out.status == http.StatusBadRequest && name != "Throttling" && name != "IncompleteSignature" {
		out.status = http.StatusForbidden
	}
	return &out
}

func writeXML(w http.ResponseWriter, status int, body any) {
	text, err := xml.Marshal(body)
	if err != nil {
		panic(err) // every answer is made of strings
	}
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
