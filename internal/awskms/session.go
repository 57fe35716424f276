package awskms

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// A session is one reading of the SDK's settings: where credentials come from,
// what came, and the SDK's client that signs with it. That client keeps signing
// keys by access key id, which would outlive a corrected secret, so each session
// has its own.
type session struct {
	provider aws.CredentialsProvider
	bundle   string // CA bundle of the shared configuration
	api      *kms.Client
	value    atomic.Pointer[aws.Credentials] // nil: none yet
	renewAt  time.Time                       // guarded by identity.mu
	onTrial  atomic.Bool                     // there is one before it that has worked
}

// Retrieve gives the SDK's client what it signs with. It never waits: whether
// the credentials are valid was looked at when the call began.
func (s *session) Retrieve(context.Context) (aws.Credentials, error) { return *s.value.Load(), nil }

func (s *session) valid() bool {
	if s == nil {
		return false
	}
	value := s.value.Load()
	return value != nil && !value.Expired()
}

func (s *session) signsLike(other *session) bool {
	a, b := s.value.Load(), other.value.Load()
	return a.AccessKeyID == b.AccessKeyID && a.SecretAccessKey == b.SecretAccessKey && a.SessionToken == b.SessionToken
}

// take keeps credentials, and says when to ask for others.
func (s *session) take(value aws.Credentials, now time.Time) {
	s.value.Store(&value)
	s.renewAt = now.Add(forever)
	if value.CanExpire {
		s.renewAt = value.Expires.Add(-renewBefore)
		if earliest := now.Add(renewPause); s.renewAt.Before(earliest) {
			s.renewAt = earliest
		}
	}
}

// load reads the SDK's settings, finds the Region, and says where credentials
// come from. The CA bundle counts from then on, whatever becomes of those.
func (i *identity) load(ctx context.Context) (*session, error) {
	asOf := time.Now()
	cfg, err := i.settings(ctx)
	if err != nil {
		return nil, err
	}
	i.conns.offer(cfg, asOf)
	s := &session{provider: cfg.Credentials, bundle: bundleOf(cfg)}
	if i.role != "" {
		s.provider = stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), i.role, i.roleOptions)
	}
	s.api = i.newAPI(cfg, s)
	return s, nil
}

func (i *identity) settings(ctx context.Context) (aws.Config, error) {
	cfg, err := i.sources.load(ctx, i.region)
	if err != nil || cfg.Region != "" {
		return cfg, err
	}
	// The SDK's own chain does not ask the instance.
	out, err := imds.NewFromConfig(cfg).GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil {
		return aws.Config{}, &regionError{err}
	}
	return i.sources.load(ctx, out.Region) // again, for the SDK's own calls of STS
}

// sources reads the SDK's settings, each time anew. It is safe for concurrent use.
type sources struct {
	conns *Connections
	waits *bounded.Observer
	log   *sdkLog
	role  string // of --assume-role-arn

	read atomic.Pointer[sourceSettings] // when last read; nil: not yet
}

func newSources(o Options) *sources {
	return &sources{conns: o.Connections, waits: o.Waits, log: &sdkLog{log: o.Log}, role: o.AssumeRoleARN}
}

// load gives the SDK's own calls, of STS and of metadata services, a client that
// keeps no connection, as each loading makes one of its own; and that waits for
// no answer for ever, as the SDK's cache of credentials does.
func (s *sources) load(ctx context.Context, region string) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTimeout(answerTime).WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	r := &reading{settings: &sourceSettings{role: s.role}, process: &processProvider{conns: s.conns, waits: s.waits}}
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(client),
		config.WithLogger(s.log),
		config.WithAPIOptions([]func(*middleware.Stack) error{r.watch}),
		config.WithAssumeRoleCredentialOptions(r.role),
		config.WithWebIdentityRoleCredentialOptions(r.token),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) {
			o.HTTPClient = client
			r.container(o)
		}),
	}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, &settingsError{err}
	}
	r.settings.read(cfg)
	r.process.command = r.settings.last().CredentialProcess
	if aws.IsCredentialsProvider(cfg.Credentials, &processcreds.Provider{}) {
		cfg.Credentials = aws.NewCredentialsCache(r.process)
	}
	s.read.Store(r.settings)
	return cfg, nil
}

func (i *identity) roleOptions(o *stscreds.AssumeRoleOptions) {
	o.RoleSessionName = "aws-encryption-provider"
	if i.externalID != "" {
		o.ExternalID = &i.externalID
	}
}

// errExpiredAlready is a source that hands out what is no longer valid.
var errExpiredAlready = errors.New("the credentials that were found have expired already")

// credentialsError marks that there was nothing to sign a request with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "retrieving credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// settingsError marks settings of the SDK that cannot be read.
type settingsError struct{ err error }

func (e *settingsError) Error() string { return "loading AWS settings: " + e.err.Error() }
func (e *settingsError) Unwrap() error { return e.err }

// regionError marks that no Region is known.
type regionError struct{ err error }

func (e *regionError) Error() string { return "asking for the Region: " + e.err.Error() }
func (e *regionError) Unwrap() error { return e.err }
