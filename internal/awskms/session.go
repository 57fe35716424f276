package awskms

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// A session is one reading of the SDK's settings: where credentials come from,
// what came, and the SDK's client that signs with it. That client keeps signing
// keys by access key id, which would outlive a corrected secret, so other
// credentials are another session.
type session struct {
	cfg      aws.Config
	provider aws.CredentialsProvider
	static   bool // the provider gives the same as long as no file changes
	api      *kms.Client
	value    atomic.Pointer[aws.Credentials] // nil: none yet; only its end ever changes
	overdue  atomic.Bool                     // it has ended by this node's clock, and KMS decides

	// Guarded by identity.mu.
	number int           // of the look-up that found it
	found  time.Time     // when its credentials came, or came again with a later end
	took   time.Duration // to find them
	worked bool          // KMS has taken a call
}

// Retrieve gives the SDK's client what it signs with. It never waits: whether
// the credentials are valid was looked at when the call began.
func (s *session) Retrieve(context.Context) (aws.Credentials, error) { return *s.value.Load(), nil }

// usable reports whether calls can be signed.
func (s *session) usable() bool {
	if s == nil {
		return false
	}
	value := s.value.Load()
	return value != nil && (s.overdue.Load() || !value.Expired())
}

// mayGoOn reports whether calls may be signed although the credentials have ended, as
// long as there are no others: the SDK lets those of an instance's role end after an
// hour, whenever they do, and AWS takes them longer where it cannot give others.
//
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-static-stability.html
func (s *session) mayGoOn() bool {
	return s != nil && s.value.Load().Source == ec2rolecreds.ProviderName
}

func (s *session) signsLike(other *session) bool {
	if s == nil || other == nil {
		return false
	}
	a, b := s.value.Load(), other.value.Load()
	return a.AccessKeyID == b.AccessKeyID && a.SecretAccessKey == b.SecretAccessKey && a.SessionToken == b.SessionToken
}

// ends is when the credentials end; zero: never.
func (s *session) ends() time.Time {
	if value := s.value.Load(); value.CanExpire {
		return value.Expires
	}
	return time.Time{}
}

// lasts reports whether the credentials end later than those of other.
func (s *session) lasts(other *session) bool {
	a, b := s.ends(), other.ends()
	switch {
	case s.overdue.Load() != other.overdue.Load():
		return other.overdue.Load()
	case a.IsZero(), b.IsZero():
		return a.IsZero() && !b.IsZero()
	}
	return a.After(b)
}

// load reads the SDK's settings, finds the Region, and says where credentials
// come from.
func (i *identity) load(ctx context.Context) (*session, error) {
	cfg, err := i.settings(ctx)
	if err != nil {
		return nil, err
	}
	provider := cfg.Credentials
	if i.role != "" {
		provider = stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), i.role, i.roleOptions)
	}
	return i.session(cfg, provider), nil
}

func (i *identity) session(cfg aws.Config, provider aws.CredentialsProvider) *session {
	s := &session{cfg: cfg, provider: provider}
	s.static = aws.IsCredentialsProvider(provider, credentials.StaticCredentialsProvider{})
	s.api = i.newAPI(cfg, s)
	return s
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

// sources reads the SDK's settings again each time. It is safe for concurrent use.
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
// no answer without end, as the SDK's cache of credentials does.
func (s *sources) load(ctx context.Context, region string) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTimeout(answerTime).WithTransportOptions(transport.OwnCalls(answerTime))
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
		// Credentials of a container end for the SDK five minutes early, so that those
		// that live shorter would never be taken.
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 0 }),
	}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	r.settings.unread = unreadShared()
	s.log.warnOfUnread(r.settings.unread)
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil && r.settings.unread != nil && isProfileMissing(err) {
		return aws.Config{}, &settingsError{r.settings.unread}
	}
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
