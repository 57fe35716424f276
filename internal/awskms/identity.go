package awskms

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

const (
	// lookUpTime bounds a look-up of settings and credentials: it goes on when
	// the call that began it has left, and must end for another to begin.
	lookUpTime = 10 * time.Second
	// failureRemembered is how long a failed look-up answers for the next ones:
	// a thousand callers must not become a thousand calls of STS or forks of a
	// credential_process.
	failureRemembered = 2 * time.Second
	// forgetPause is the least time between two fresh starts because AWS, or the
	// TLS handshake with it, refused what there was.
	forgetPause = 4 * time.Second
	// renewBefore is how long before their end credentials are looked up again,
	// while the old ones are still used.
	renewBefore = 5 * time.Minute
	renewPause  = 30 * time.Second
	// slowPatience is how many look-ups in a row may end late before the settings
	// are read anew: a slow source is waited for, a silent one not for ever.
	slowPatience = 3
)

// identity is who a Client calls as, and in which Region. The SDK decides once,
// when its settings are loaded, where credentials come from; identity loads them
// again after a failure, so that a file or a metadata service that comes late is
// found without a restart. Look-ups run one at a time, beside the calls that
// wait for them. It is safe for concurrent use.
type identity struct {
	region, role, externalID string
	conns                    *Connections // owns the look-ups' goroutines

	mu         sync.Mutex
	loaded     *aws.Config             // with its Region; nil: not known
	provider   aws.CredentialsProvider // of loaded; nil: to be loaded anew
	value      *aws.Credentials        // nil: none yet, or refused
	renewAt    time.Time
	underWay   chan struct{} // closed when the look-up under way has ended; nil: none is
	failure    error         // of the last look-up
	failedAt   time.Time
	forgotten  time.Time // when something was last dropped because of a refusal
	slow       int       // look-ups in a row that did not end in time
	generation int       // grows when everything is forgotten
}

func newIdentity(o Options) *identity {
	return &identity{region: o.Region, role: o.AssumeRoleARN, externalID: o.ExternalID, conns: o.Connections}
}

// settings returns the SDK's settings, with the Region in them. Errors are those
// of Retrieve, a *settingsError or a *regionError.
func (i *identity) settings(ctx context.Context) (aws.Config, error) {
	cfg, _, err := i.ready(ctx)
	return cfg, err
}

// Retrieve returns credentials, from memory while they are valid. Errors are a
// *credentialsError, or those of settings.
func (i *identity) Retrieve(ctx context.Context) (aws.Credentials, error) {
	_, value, err := i.ready(ctx)
	return value, err
}

// ready returns both, and waits for a look-up only where there is nothing valid.
func (i *identity) ready(ctx context.Context) (aws.Config, aws.Credentials, error) {
	for {
		i.mu.Lock()
		now := time.Now()
		usable := i.loaded != nil && i.value != nil && !i.value.Expired()
		if usable && now.Before(i.renewAt) {
			defer i.mu.Unlock()
			return *i.loaded, *i.value, nil
		}
		recently := i.failure != nil && now.Sub(i.failedAt) < failureRemembered
		if i.underWay == nil && !recently {
			i.beginLocked() //nolint:contextcheck // outlives the call that begins it
		}
		if usable { // renewed beside the calls, which go on with the old ones
			defer i.mu.Unlock()
			return *i.loaded, *i.value, nil
		}
		if i.underWay == nil {
			defer i.mu.Unlock()
			return aws.Config{}, aws.Credentials{}, i.failure
		}
		underWay := i.underWay
		i.mu.Unlock()
		select {
		case <-underWay:
		case <-ctx.Done():
			return aws.Config{}, aws.Credentials{}, &credentialsError{ctx.Err()}
		}
	}
}

// beginLocked starts a look-up, which ends with the pool of connections at the
// latest.
func (i *identity) beginLocked() {
	done := make(chan struct{})
	i.underWay = done
	loaded, provider, old, generation := i.loaded, i.provider, i.value, i.generation
	i.conns.background(lookUpTime, func(ctx context.Context) {
		defer close(done)
		var value aws.Credentials
		var err error
		defer func() {
			if p := recover(); p != nil { // in the SDK: an error of some calls, not the end of the process
				err = &credentialsError{fmt.Errorf("panic: %v", p)}
				provider = nil
			}
			i.end(generation, loaded, provider, value, err, ctx.Err() != nil)
		}()
		if old != nil {
			bypassCache(provider, *old)
		}
		if provider == nil {
			loaded, provider, err = i.load(ctx)
		}
		if err == nil {
			value, err = retrieve(ctx, provider)
		}
	})
}

// bypassCache makes a renewal ask the source: the SDK's cache answers with what
// it has until that has ended. The source of an instance's role renews early by
// itself, and needs its cache to live through an outage of the metadata service.
func bypassCache(provider aws.CredentialsProvider, old aws.Credentials) {
	if cache, ok := provider.(*aws.CredentialsCache); ok && old.Source != ec2rolecreds.ProviderName {
		cache.Invalidate()
	}
}

// retrieve refuses credentials that are of no use: to look again at once would
// find the same.
func retrieve(ctx context.Context, provider aws.CredentialsProvider) (aws.Credentials, error) {
	value, err := provider.Retrieve(ctx)
	if err == nil && value.Expired() {
		if value.Source == ec2rolecreds.ProviderName { // the service may lag behind; KMS decides
			value.Expires = time.Now().Add(renewBefore)
			return value, nil
		}
		err = errExpiredAlready
	}
	if err != nil {
		return aws.Credentials{}, &credentialsError{err}
	}
	return value, nil
}

// end takes over what a look-up found, unless it was forgotten meanwhile.
func (i *identity) end(generation int, loaded *aws.Config, provider aws.CredentialsProvider, value aws.Credentials, err error, late bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.underWay = nil
	if generation != i.generation {
		return
	}
	now := time.Now()
	i.failure, i.failedAt = err, now
	if err != nil {
		i.renewAt = now.Add(renewPause)
		i.slow++
		if !late || i.slow >= slowPatience {
			provider, i.slow = nil, 0 // read everything anew next time
		}
		i.provider = provider // of a late one the look-up goes on behind it: the next joins that
		if i.loaded == nil {
			i.loaded = loaded
		}
		return
	}
	i.slow = 0
	i.loaded, i.provider, i.value = loaded, provider, &value
	i.renewAt = now.Add(365 * 24 * time.Hour)
	if value.CanExpire {
		i.renewAt = value.Expires.Add(-renewBefore)
		if earliest := now.Add(renewPause); i.renewAt.Before(earliest) {
			i.renewAt = earliest
		}
	}
}

// forget makes the next look-up begin anew, because AWS refused what there was.
// It says whether it did: not again within seconds.
func (i *identity) forget() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.mayForgetLocked() {
		return false
	}
	i.generation++
	i.loaded, i.provider, i.value, i.failure = nil, nil, nil, nil
	return true
}

// reload makes the next look-up read the settings anew, for other CA
// certificates. Credentials that are valid stay.
func (i *identity) reload() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.mayForgetLocked() {
		return
	}
	i.provider, i.renewAt, i.failure = nil, time.Time{}, nil
}

// mayForgetLocked says whether it is long enough since the last time, and notes
// this one.
func (i *identity) mayForgetLocked() bool {
	now := time.Now()
	if now.Sub(i.forgotten) < forgetPause {
		return false
	}
	i.forgotten = now
	return true
}

// load reads the SDK's settings, finds the Region, and says where credentials
// come from.
func (i *identity) load(ctx context.Context) (*aws.Config, aws.CredentialsProvider, error) {
	var options []func(*config.LoadOptions) error
	if i.region != "" {
		options = append(options, config.WithRegion(i.region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, nil, &settingsError{err}
	}
	if cfg.Region == "" { // the SDK's own chain does not ask the instance
		out, err := imds.NewFromConfig(cfg).GetRegion(ctx, &imds.GetRegionInput{})
		if err != nil {
			return nil, nil, &regionError{err}
		}
		// Loaded again with it, for the SDK's own calls of STS.
		if cfg, err = config.LoadDefaultConfig(ctx, config.WithRegion(out.Region)); err != nil {
			return nil, nil, &settingsError{err}
		}
	}
	if i.role == "" {
		return &cfg, cfg.Credentials, nil
	}
	return &cfg, stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), i.role, i.roleOptions), nil
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
