package awskms

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
)

// A Credential is what calls are signed with, without what is secret of it.
type Credential struct {
	Source      string // the SDK's name for it
	AccessKeyID string
	Expires     time.Time // zero: not told
	PassedOver  string    // a shared file that this user may not read, which may name another source; "": none
}

// Credential says which credentials the next call uses. Every error is a
// [cause.Error].
func (c *Client) Credential(ctx context.Context) (Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timing.Question)
	defer cancel()
	signer, err := c.identity.Signer(ctx)
	var value aws.Credentials
	if err == nil {
		value, err = signer.Retrieve(ctx)
	}
	if err != nil {
		return Credential{}, failed(err, situation{op: "credentials", from: c.settings.Read()})
	}
	found := Credential{Source: value.Source, AccessKeyID: value.AccessKeyID}
	if value.CanExpire {
		found.Expires = value.Expires
	}
	if read := c.settings.Read(); read != nil {
		found.PassedOver = read.PassedOver()
	}
	return found, nil
}

// A Caller is whom AWS takes this process for.
type Caller struct{ Account, ARN string }

// Caller asks STS, which needs no permission. Every error is a [cause.Error].
//
// https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
func (c *Client) Caller(ctx context.Context) (Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timing.Question)
	defer cancel()
	out, err := bounded.Do(ctx, c.opts.Waits, bounded.Call, c.callerIdentity)
	if err != nil {
		return Caller{}, failed(err, situation{op: "GetCallerIdentity", from: c.settings.Read()})
	}
	return Caller{aws.ToString(out.Account), aws.ToString(out.Arn)}, nil
}

func (c *Client) callerIdentity(ctx context.Context) (*sts.GetCallerIdentityOutput, error) {
	signer, err := c.identity.Signer(ctx)
	if err != nil {
		return nil, err
	}
	cfg, err := c.settings.Config(ctx)
	if err != nil {
		return nil, err
	}
	cfg.Credentials, cfg.RetryMaxAttempts = signer, 1
	return sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
}
