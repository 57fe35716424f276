package awskms

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// AtOnce is the Timing with which [LookAgain] finds no pause.
func AtOnce() Timing { return Timing{Identity: identity.Timing{RefusedLook: time.Nanosecond}} }

// LookAgain looks at the files of settings, as is done after some time.
func LookAgain(c *Client) { c.identity.Look(context.Background()) }

// LookedUp waits until the look-up that began last has ended.
func LookedUp(c *Client) { c.identity.Await(context.Background()) }

// Through makes the calls of a Client that has made none go through the options of
// another SDK client.
func Through(c *Client, change func(*kms.Options)) {
	inner := c.api
	c.api = func(cfg aws.Config, credentials aws.CredentialsProvider) *kms.Client {
		return kms.New(inner(cfg, credentials).Options(), change)
	}
	c.identity = identity.New(c.identityOptions())
}

// Background runs work as the goroutines of Connections.
func Background(c *Connections, work func()) {
	c.Background(time.Minute, func(context.Context) { work() })
}

// Running counts the steps of look-ups that run, those included that were left behind.
func Running(c *Client) int { return running(c) }

// Denied is what is made of an AccessDeniedException with this sentence.
func Denied(key, sentence string) *cause.Error {
	return classify(&smithy.GenericAPIError{Code: "AccessDeniedException", Message: sentence}, situation{op: "Encrypt", key: key})
}
