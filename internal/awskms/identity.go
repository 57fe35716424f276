package awskms

import (
	"context"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// identity is who a Client calls as. The SDK decides once, when its settings
// are loaded, where credentials come from; identity loads them again after a
// failure, so that a file, a variable's file or a metadata service that comes
// late is found without a restart. It is safe for concurrent use.
type identity struct {
	region, role, externalID string

	mu      sync.Mutex
	loaded  *aws.Config
	current aws.CredentialsProvider // a cache of its own; nil: to be made from loaded
}

func newIdentity(o Options) *identity {
	return &identity{region: o.Region, role: o.AssumeRoleARN, externalID: o.ExternalID}
}

// settings loads the SDK's settings. It reads files, and no network.
func (i *identity) settings(ctx context.Context) (aws.Config, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.settingsLocked(ctx)
}

func (i *identity) settingsLocked(ctx context.Context) (aws.Config, error) {
	if i.loaded != nil {
		return *i.loaded, nil
	}
	var options []func(*config.LoadOptions) error
	if i.region != "" {
		options = append(options, config.WithRegion(i.region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, &settingsError{err}
	}
	i.loaded = &cfg
	return cfg, nil
}

// Retrieve returns credentials, from memory while they are valid. Errors are a
// *credentialsError.
func (i *identity) Retrieve(ctx context.Context) (aws.Credentials, error) {
	provider, err := i.provider(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	value, err := provider.Retrieve(ctx)
	if err != nil {
		if ctx.Err() == nil { // a look-up that merely takes long goes on behind the cache
			i.drop(provider)
		}
		return aws.Credentials{}, &credentialsError{err}
	}
	return value, nil
}

func (i *identity) provider(ctx context.Context) (aws.CredentialsProvider, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current != nil {
		return i.current, nil
	}
	cfg, err := i.settingsLocked(ctx)
	if err != nil {
		return nil, err
	}
	i.current = cfg.Credentials
	if i.role != "" {
		i.current = aws.NewCredentialsCache(
			stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), i.role, i.roleOptions),
			func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute },
		)
	}
	return i.current, nil
}

func (i *identity) roleOptions(o *stscreds.AssumeRoleOptions) {
	o.RoleSessionName = "aws-encryption-provider"
	if i.externalID != "" {
		o.ExternalID = &i.externalID
	}
}

// forget makes the next Retrieve read everything anew.
func (i *identity) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.loaded, i.current = nil, nil
}

// drop is forget for a caller that saw failed fail, unless another has already
// replaced it.
func (i *identity) drop(failed aws.CredentialsProvider) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == failed {
		i.loaded, i.current = nil, nil
	}
}

// regionOfInstance asks the instance metadata service, which the SDK's own
// chain does not.
func regionOfInstance(ctx context.Context, cfg aws.Config) (string, error) {
	out, err := imds.NewFromConfig(cfg).GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil {
		return "", &regionError{err}
	}
	return out.Region, nil
}

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
