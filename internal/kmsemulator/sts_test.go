package kmsemulator_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const roleARN = "arn:aws:iam::111122223333:role/path/reader"

func stsClient(t testing.TB, s *kmstest.Server, c kmsemulator.Credential) *sts.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return sts.New(sts.Options{
		Region: here, BaseEndpoint: aws.String(s.STSURL(t)), HTTPClient: &http.Client{Transport: transport}, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
	})
}

func wantAPIError(t testing.TB, err error, code, message string) {
	t.Helper()
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok || api.ErrorCode() != code || api.ErrorMessage() != message {
		t.Errorf("got %v, want %s: %s", err, code, message)
	}
}

func TestAssumedRoleCallsKMSUntilItExpires(t *testing.T) {
	c := &clock{now: time.Now()}
	s := kmstest.Start(t, kmsemulator.Options{Clock: c.Now, Roles: []kmsemulator.Role{{ARN: roleARN, ExternalID: "external"}}})
	provider := stscreds.NewAssumeRoleProvider(stsClient(t, s, s.Credential), roleARN, func(o *stscreds.AssumeRoleOptions) {
		o.ExternalID, o.RoleSessionName = aws.String("external"), "session"
	})
	got, err := provider.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := got.Expires.Sub(c.Now()); d < 14*time.Minute || d > time.Hour {
		t.Errorf("expires after %s", d)
	}
	assumed := kmsemulator.Credential{AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey, SessionToken: got.SessionToken}
	identity, err := stsClient(t, s, assumed).GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	const principal = "arn:aws:sts::111122223333:assumed-role/reader/session"
	if *identity.Arn != principal || *identity.Account != "111122223333" || *identity.UserId == "" {
		t.Errorf("the identity is %v", identity)
	}
	client := sdkClient(t, s, here)
	list := func() error {
		_, err := client.ListKeys(t.Context(), nil, func(o *kms.Options) {
			o.Credentials = credentials.NewStaticCredentialsProvider(assumed.AccessKeyID, assumed.SecretAccessKey, assumed.SessionToken)
		})
		return err
	}
	if err := list(); err != nil {
		t.Error(err)
	}
	s.Deny("", "ListKeys")
	wantAPIError(t, list(), "AccessDeniedException", "User: "+principal+" is not authorized to perform: kms:ListKeys on resource: * because no identity-based policy allows the kms:ListKeys action")
	s.Allow("", "")
	// The client's clock follows the real one; let the emulator's overtake the
	// end by less than the skew it allows.
	s.AddCredential(kmsemulator.Credential{
		AccessKeyID: assumed.AccessKeyID, SecretAccessKey: assumed.SecretAccessKey, SessionToken: assumed.SessionToken, Expires: c.Now().Add(time.Minute),
	})
	if err := list(); err != nil {
		t.Error(err)
	}
	c.advance(time.Minute)
	wantAPIError(t, list(), "ExpiredTokenException", "The security token included in the request is expired")
}

func TestAssumeRoleRefusals(t *testing.T) {
	s := kmstest.Start(t, kmsemulator.Options{Roles: []kmsemulator.Role{{ARN: roleARN, ExternalID: "external"}, {ARN: "arn:aws:iam::111122223333:role/open"}}})
	client := stsClient(t, s, s.Credential)
	assume := func(in sts.AssumeRoleInput) error {
		if in.RoleSessionName == nil {
			in.RoleSessionName = aws.String("session")
		}
		_, err := client.AssumeRole(t.Context(), &in)
		return err
	}
	if err := assume(sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::111122223333:role/open"), ExternalId: aws.String("any")}); err != nil {
		t.Errorf("a role that asks for no external id: %v", err)
	}
	not := func(arn string) string {
		return "User: arn:aws:iam::111122223333:user/tester is not authorized to perform: sts:AssumeRole on resource: " + arn
	}
	for name, tc := range map[string]struct {
		in            sts.AssumeRoleInput
		code, message string
	}{
		"no external id":    {sts.AssumeRoleInput{RoleArn: aws.String(roleARN)}, "AccessDenied", not(roleARN)},
		"wrong external id": {sts.AssumeRoleInput{RoleArn: aws.String(roleARN), ExternalId: aws.String("guess")}, "AccessDenied", not(roleARN)},
		"unknown role":      {sts.AssumeRoleInput{RoleArn: aws.String(roleARN + "2")}, "AccessDenied", not(roleARN + "2")},
		"another account":   {sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::999999999999:role/x")}, "AccessDenied", not("arn:aws:iam::999999999999:role/x")},
		"short time": {
			sts.AssumeRoleInput{RoleArn: aws.String(roleARN), DurationSeconds: aws.Int32(899)},
			"ValidationError",
			"1 validation error detected: Value '899' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900",
		},
		"odd session": {
			sts.AssumeRoleInput{RoleArn: aws.String(roleARN), RoleSessionName: aws.String("a b")},
			"ValidationError",
			`1 validation error detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`,
		},
		"no ARN": {
			sts.AssumeRoleInput{RoleArn: aws.String("role")},
			"ValidationError",
			"1 validation error detected: Value 'role' at 'roleArn' failed to satisfy constraint: Member must have length greater than or equal to 20",
		},
	} {
		t.Run(name, func(t *testing.T) { wantAPIError(t, assume(tc.in), tc.code, tc.message) })
	}
	if n := s.Calls("AssumeRole"); n != 8 {
		t.Errorf("counted %d calls, want 8", n)
	}
}

func TestSTSChecksSignatures(t *testing.T) {
	s := kmstest.Start(t)
	wrong := s.Credential
	wrong.SecretAccessKey += "x"
	stranger := kmsemulator.Credential{AccessKeyID: "AKIASTRANGER", SecretAccessKey: "x"}
	_, err := stsClient(t, s, wrong).GetCallerIdentity(t.Context(), nil)
	wantAPIError(t, err, "SignatureDoesNotMatch", mismatch)
	_, err = stsClient(t, s, stranger).GetCallerIdentity(t.Context(), nil)
	wantAPIError(t, err, "InvalidClientTokenId", "The security token included in the request is invalid.")
}

func TestSTSRefusesWhatItDoesNotKnow(t *testing.T) {
	s := kmstest.Start(t)
	post := func(form url.Values) answer {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.STSURL(t)+"/", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return send(t, req)
	}
	for name, tc := range map[string]struct {
		form   url.Values
		status int
		want   string
	}{
		"action":   {url.Values{"Action": {"GetSessionToken"}, "Version": {"2011-06-15"}}, 400, "<Code>InvalidAction</Code><Message>Could not find operation GetSessionToken for version 2011-06-15</Message>"},
		"version":  {url.Values{"Action": {"AssumeRole"}, "Version": {"1999-01-01"}}, 400, "<Code>InvalidAction</Code><Message>Could not find operation AssumeRole for version 1999-01-01</Message>"},
		"unsigned": {url.Values{"Action": {"AssumeRole"}, "Version": {"2011-06-15"}}, 403, "<Code>MissingAuthenticationToken</Code><Message>Request is missing Authentication Token</Message>"},
	} {
		t.Run(name, func(t *testing.T) {
			if a := post(tc.form); a.status != tc.status || !strings.Contains(a.body, tc.want) || !strings.Contains(a.body, "<RequestId>"+a.header.Get("X-Amzn-Requestid")+"</RequestId>") {
				t.Errorf("answered %d %s", a.status, a.body)
			}
		})
	}
}

func TestFaultsOfSTS(t *testing.T) {
	s := kmstest.Start(t)
	client := stsClient(t, s, s.Credential)
	s.Inject(kmsemulator.Fault{Kind: kmsemulator.Internal})
	if _, err := client.GetCallerIdentity(t.Context(), nil); err != nil {
		t.Errorf("a fault of KMS hits STS: %v", err)
	}
	s.Inject(kmsemulator.Fault{Operation: "GetCallerIdentity", Kind: kmsemulator.Throttle})
	_, err := client.GetCallerIdentity(t.Context(), nil)
	wantAPIError(t, err, "Throttling", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
}
