package identity

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
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

	// Guarded by the Identity.
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

func (i *Identity) session(found settings.Found) *session {
	s := &session{cfg: found.Config, provider: found.Provider}
	s.static = aws.IsCredentialsProvider(s.provider, credentials.StaticCredentialsProvider{})
	s.api = i.opts.NewAPI(s.cfg, s)
	return s
}

// ErrExpiredAlready is a source that hands out what is no longer valid.
var ErrExpiredAlready = errors.New("the credentials that were found have expired already")

// A CredentialsError is that there was nothing to sign a request with.
type CredentialsError struct{ Err error }

func (e *CredentialsError) Error() string { return "retrieving credentials: " + e.Err.Error() }

// Unwrap returns why.
func (e *CredentialsError) Unwrap() error { return e.Err }
