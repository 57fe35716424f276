// Package settings reads the SDK's settings, again each time, and knows what they say of
// where credentials come from. It sits in the SDK's calls to those sources, so that a
// failure names the source that was asked and what to do about it.
//
// The SDK decides once where credentials come from, and its errors do not say which
// source that was: so [Reader.Find] loads its settings again, and hooks into what it
// makes of them. A credential_process is run here, in place of the SDK.
//
// Settings: https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
package settings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// Options configure a Reader. Connections are required.
type Options struct {
	Connections *transport.Connections // own the goroutines of a credential_process

	Region     string // "": the SDK's chain, then the instance metadata service
	Role       string // to assume with the identity of the chain; "": none
	ExternalID string // for Role; "" sends none
	Timing     Timing

	Log   *slog.Logger      // is told what the SDK logs; nil: nobody is
	Waits *bounded.Observer // is told of a process that cannot be killed; nil: nobody is
}

// A Reader reads the SDK's settings again each time. It is safe for concurrent use.
type Reader struct {
	opts Options
	log  *sdkLog

	read atomic.Pointer[Sources] // when last read; nil: not yet
}

// New returns a Reader, which has read nothing.
func New(o Options) *Reader {
	o.Timing = o.Timing.orUsual()
	return &Reader{opts: o, log: &sdkLog{log: o.Log, pause: o.Timing.SameLine}}
}

// Read is what the settings said of the sources of credentials when they were last
// read; nil: they were not.
func (r *Reader) Read() *Sources { return r.read.Load() }

// Found is one reading of the settings.
type Found struct {
	Config   aws.Config
	Provider aws.CredentialsProvider // of what calls are signed with
}

// Find reads the SDK's settings, finds the Region, and says where credentials come
// from. It asks for none. Errors are an [*Error] or a [*RegionError].
func (r *Reader) Find(ctx context.Context) (Found, error) {
	cfg, err := r.Config(ctx)
	if err != nil {
		return Found{}, err
	}
	f := Found{cfg, cfg.Credentials}
	if r.opts.Role != "" {
		f.Provider = stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), r.opts.Role, r.roleOptions)
	}
	return f, nil
}

// Config reads the SDK's settings, and finds the Region. Errors are as those of Find.
func (r *Reader) Config(ctx context.Context) (aws.Config, error) {
	cfg, err := r.load(ctx, r.opts.Region)
	if err != nil || cfg.Region != "" {
		return cfg, err
	}
	// The SDK's own chain does not ask the instance.
	out, err := imds.NewFromConfig(cfg).GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil {
		return aws.Config{}, &RegionError{err}
	}
	return r.load(ctx, out.Region) // again, for the SDK's own calls of STS
}

// load gives the SDK's own calls, of STS and of metadata services, a client that
// keeps no connection, as each loading makes one of its own; and that waits for
// no answer without end, as the SDK's cache of credentials does.
func (r *Reader) load(ctx context.Context, region string) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTimeout(r.opts.Timing.Answer).WithTransportOptions(transport.OwnCalls(r.opts.Timing.Answer))
	one := &reading{settings: &Sources{role: r.opts.Role}, process: &processProvider{conns: r.opts.Connections, waits: r.opts.Waits, timing: r.opts.Timing}}
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(client),
		config.WithLogger(r.log),
		config.WithAPIOptions([]func(*middleware.Stack) error{one.watch}),
		config.WithAssumeRoleCredentialOptions(one.role),
		config.WithWebIdentityRoleCredentialOptions(one.token),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) {
			o.HTTPClient = client
			one.container(o)
		}),
		// Credentials of a container end for the SDK five minutes early, so that those
		// that live shorter would never be taken.
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 0 }),
	}
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	one.settings.unread = unreadShared()
	r.log.warnOfUnread(one.settings.unread)
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil && one.settings.unread != nil && isProfileMissing(err) {
		return aws.Config{}, &Error{one.settings.unread}
	}
	if err != nil {
		return aws.Config{}, &Error{err}
	}
	one.settings.read(cfg)
	one.process.command = one.settings.last().CredentialProcess
	if aws.IsCredentialsProvider(cfg.Credentials, &processcreds.Provider{}) {
		cfg.Credentials = aws.NewCredentialsCache(one.process)
	}
	r.read.Store(one.settings)
	return cfg, nil
}

func (r *Reader) roleOptions(o *stscreds.AssumeRoleOptions) {
	o.RoleSessionName = "aws-encryption-provider"
	if r.opts.ExternalID != "" {
		o.ExternalID = &r.opts.ExternalID
	}
}

// An Error is settings of the SDK that cannot be read.
type Error struct{ Err error }

func (e *Error) Error() string { return "loading AWS settings: " + e.Err.Error() }

// Unwrap returns why.
func (e *Error) Unwrap() error { return e.Err }

// A RegionError is that no Region is known.
type RegionError struct{ Err error }

func (e *RegionError) Error() string { return "asking for the Region: " + e.Err.Error() }

// Unwrap returns why.
func (e *RegionError) Unwrap() error { return e.Err }

// isProfileMissing reports whether a profile was looked for and not found.
func isProfileMissing(err error) bool {
	return transport.IsA[config.SharedConfigProfileNotExistError](err) || transport.IsA[config.SharedConfigAssumeRoleError](err)
}

// Said says which settings cannot be read, and why.
func Said(err error) string {
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
