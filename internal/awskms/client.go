// Package awskms calls AWS KMS and says what each failure means.
//
// It and its parts (identity, settings, transport) are the only packages of the serving
// path that import the AWS SDK. A failed call comes back as a [cause.Error]; what
// follows from it follows from its class. Time is bounded here: a call takes at most the
// caller's deadline less 300 ms, at most [Options.Timeout], and at most what its [Call]
// says; an attempt that hangs is given up half-way, so that a second one, on a new
// connection, has as long. A call ends within its limit also where the SDK or the
// network ignores its context.
//
// API: https://docs.aws.amazon.com/kms/latest/APIReference/Welcome.html
package awskms

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsarn "github.com/aws/aws-sdk-go-v2/aws/arn"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/keyref"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// Options configure a Client. The zero value of a field means what its comment
// says; Connections and Timeout are required.
type Options struct {
	Connections *Connections
	Timeout     time.Duration // limit of one call, retries included

	Region            string            // "": the SDK's chain, then the instance metadata service
	Endpoint          string            // "": the SDK's own for the Region
	AssumeRoleARN     string            // "": the identity of the chain is used as it is
	ExternalID        string            // for AssumeRoleARN; "" sends none
	SourceARN         string            // "": no confused-deputy headers
	EncryptionContext map[string]string // nil: none
	Retry             RetryBudget       // zero: the SDK's
	UserAgent         string            // version of this program; "" sends none

	Timing Timing // tests alone set it

	Log *slog.Logger // told when what was found anew does not work; nil: nobody

	// Waits is told of what is left behind, since it ignores its time limit; nil:
	// nobody is.
	Waits *bounded.Observer

	// Observe is told of every call when it ends, retries included: the class is
	// "" for a success. nil: nobody listens.
	Observe func(op string, class cause.Class, took time.Duration)
}

// RetryBudget sizes the token bucket that retries, and only retries, draw from.
type RetryBudget struct {
	Tokens uint // 0: the SDK's 500
	Flat   bool // every retry costs one token instead of the SDK's price
}

// A Client calls KMS as one identity in one Region. It is safe for concurrent
// use. Nothing is looked up before the first call: a process starts without
// network and without credentials, and recovers when they come.
type Client struct {
	opts     Options
	timeout  atomic.Int64 // Options', until SetTimeout
	timing   Timing
	http     *transport.Client
	settings *settings.Reader
	identity *identity.Identity
	api      func(aws.Config, aws.CredentialsProvider) *kms.Client // makes the SDK's clients, which draw from one budget of retries
	panics   sync.Once                                             // logs the first
}

// New returns a Client. It does no I/O. Whoever drops a Client that was used
// calls Close.
func New(o Options) *Client {
	c := &Client{opts: o, timing: o.Timing.orUsual(), http: transport.NewClient(o.Connections)}
	c.SetTimeout(o.Timeout)
	c.settings = settings.New(settings.Options{
		Connections: o.Connections, Region: o.Region, Role: o.AssumeRoleARN, ExternalID: o.ExternalID,
		Timing: o.Timing.Settings, Log: o.Log, Waits: o.Waits,
	})
	c.api = c.newAPI(c.newRetryer())
	c.identity = identity.New(c.identityOptions())
	return c
}

func (c *Client) identityOptions() identity.Options {
	return identity.Options{
		Source: c.settings.Find, NewAPI: c.api, Connections: c.opts.Connections, Background: c.opts.Connections.Background,
		Classify: func(err error) *cause.Error { return classify(err, situation{from: c.settings.Read()}) },
		Timing:   c.opts.Timing.Identity, Log: c.opts.Log, Waits: c.opts.Waits,
	}
}

// SetTimeout changes the limit of calls to come, retries included.
func (c *Client) SetTimeout(limit time.Duration) { c.timeout.Store(int64(limit)) }

// Close closes the connections that no other Client uses. Calls under way are
// not cut, and later ones still work, on connections of their own: the last call
// of a generation may come after its end.
func (c *Client) Close() {
	c.identity.Close()
	c.http.Close()
}

// Sealed is what Encrypt answers.
type Sealed struct {
	Blob      []byte
	KeyARN    keyref.ARN // the key that KMS resolved
	RequestID string
}

// Opened is what Decrypt answers.
type Opened struct {
	Plaintext secret.Bytes
	KeyARN    keyref.ARN // the key that opened it
	Material  string     // id of the key material that opened it; "": KMS names none
	RequestID string
}

// Encrypt wraps 1 to 4,096 bytes under a key, named as KMS takes it. The plaintext
// is the caller's again when Encrypt returns. Every error is a [cause.Error].
func (c *Client) Encrypt(ctx context.Context, within Call, key string, plaintext secret.Bytes) (Sealed, error) {
	return call(ctx, c, request[Sealed]{op: "Encrypt", key: key, within: within, prepare: func(api *kms.Client) work[Sealed] {
		own := bytes.Clone(plaintext)
		return func(ctx context.Context) (Sealed, error) {
			defer clear(own)
			out, err := api.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: own, EncryptionContext: c.opts.EncryptionContext})
			if err != nil {
				return Sealed{}, err
			}
			s := Sealed{
				Blob: out.CiphertextBlob, KeyARN: foreignKey(ctx, key, aws.ToString(out.KeyId)), RequestID: answeredID(ctx, out.ResultMetadata),
			}
			if len(s.Blob) == 0 || len(s.Blob) > maxBlob || !answers(key, s.KeyARN) {
				return Sealed{}, wrongAnswer(ctx, out.ResultMetadata, "no blob, one that Decrypt does not take, or of another key", s.KeyARN)
			}
			return s, nil
		}
	}})
}

// Decrypt unwraps a blob with the named key and no other. With key "" KMS
// chooses: the caller has to look at the KeyARN of the answer before it uses
// the plaintext. The blob must not change afterwards. Every error is a [cause.Error].
func (c *Client) Decrypt(ctx context.Context, within Call, key string, blob []byte) (Opened, error) {
	in := &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: c.opts.EncryptionContext}
	if key != "" {
		in.KeyId = &key
	}
	return call(ctx, c, request[Opened]{
		op: "Decrypt", key: key, within: within, late: func(o Opened) { o.Plaintext.Clear() },
		prepare: func(api *kms.Client) work[Opened] {
			return func(ctx context.Context) (Opened, error) {
				out, err := api.Decrypt(ctx, in)
				if err != nil {
					return Opened{}, err
				}
				o := Opened{
					Plaintext: out.Plaintext, KeyARN: foreignKey(ctx, key, aws.ToString(out.KeyId)),
					Material: foreignID(ctx, material(aws.ToString(out.KeyMaterialId))), RequestID: answeredID(ctx, out.ResultMetadata),
				}
				if len(o.Plaintext) == 0 || !answers(key, o.KeyARN) {
					o.Plaintext.Clear()
					return Opened{}, wrongAnswer(ctx, out.ResultMetadata, "no plaintext, or of another key", o.KeyARN)
				}
				return o, nil
			}
		},
	})
}

// maxBlob is what Decrypt takes. A longer one would be written and never read: package
// seal, which this one does not import, has the same limit for what it reads.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
const maxBlob = 6144

// answers says whether an answer of the key got may follow from asking for
// asked: an ARN of a key must come back as it is; other names are resolved by
// KMS.
func answers(asked string, got keyref.ARN) bool {
	switch string(got) {
	case "":
		return false
	case asked: // nearly always: to parse the name costs more than the rest of the call
		return true
	}
	if ref, err := keyref.Parse(string(got)); err != nil || ref.IsAlias() { // whatever comes back goes into key_id and annotations
		return false
	}
	ref, err := keyref.Parse(asked)
	return err != nil || !ref.IsARN() || ref.IsAlias()
}

// A wrongAnswerError is an answer without an error that is not one to the call.
type wrongAnswerError struct {
	what      string
	status    int    // HTTP's
	requestID string // ""; KMS always gives one
}

func (e *wrongAnswerError) Error() string { return transport.Status(e.status) + ": " + e.what }

func wrongAnswer(ctx context.Context, answer middleware.Metadata, what string, key keyref.ARN) error {
	if key != "" {
		what += ": " + string(key)
	}
	e := &wrongAnswerError{what: what, requestID: answeredID(ctx, answer)}
	if resp, ok := awsmiddleware.GetRawResponse(answer).(*smithyhttp.Response); ok {
		e.status = resp.StatusCode
	}
	return e
}

// notOfKMS is an error where an answer has no request id: something else than KMS
// may have given it, and that an answer is empty says nothing then.
func notOfKMS(ctx context.Context, answer middleware.Metadata) error {
	if answeredID(ctx, answer) == "" {
		return wrongAnswer(ctx, answer, "no request id", "")
	}
	return nil
}

// answeredID is the request id of an answer, "" where it has none that may be shown.
func answeredID(ctx context.Context, answer middleware.Metadata) string {
	id, _ := awsmiddleware.GetRequestIDMetadata(answer)
	return foreignID(ctx, requestID(id))
}

// requestID returns an id of a request as AWS makes them, and "" for anything else.
// It goes into errors, logs and annotations, which etcd keeps for years, and a proxy
// can answer a header of any length.
//
// https://docs.aws.amazon.com/kms/latest/developerguide/ct-decrypt.html (requestID)
func requestID(id string) string {
	const uuid = 36
	if len(id) > uuid {
		return ""
	}
	for _, c := range []byte(id) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return ""
		}
	}
	return id
}

// material returns the id of key material where it may stand in a key_id, and ""
// where it is none that KMS would give. KMS's own are 64 hexadecimal digits;
// custom key stores have none, and emulators may make up what they like. An
// answer that opened the ciphertext is not refused for it.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
func material(id string) string {
	const most = 128
	if len(id) > most {
		return ""
	}
	for _, c := range []byte(id) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return ""
		}
	}
	return id
}

// call makes one KMS call within its limit and classifies what fails.
func call[T any](parent context.Context, c *Client, r request[T]) (T, error) {
	start := time.Now()
	most := time.Duration(c.timeout.Load())
	limit := r.within.limit(parent, most, c.timing.Reply)
	out, err := try(parent, c, r.within.shared(limit), r)
	class := cause.Class("")
	if err != nil {
		e := failed(err, situation{
			op: r.op, key: r.key, limit: limit, fair: min(c.timing.Fair, most-c.timing.FairSlack), callerLeft: errors.Is(parent.Err(), context.Canceled), from: c.settings.Read(),
		})
		class, err = e.Class(), e
	}
	if c.opts.Observe != nil {
		c.opts.Observe(r.op, class, time.Since(start))
	}
	return out, err
}

// failed is what may be remembered of a failure. The SDK's error holds the request,
// with the plaintext in it, and must not be kept alive.
func failed(err error, s situation) *cause.Error {
	e := classify(err, s)
	e.Err = nil
	e.Said, e.AWSCode = transport.Clipped(e.Said), transport.Clipped(e.AWSCode)
	return e
}

func try[T any](parent context.Context, c *Client, limit time.Duration, r request[T]) (out T, err error) {
	if err := parent.Err(); err != nil {
		return out, err
	}
	if limit <= 0 {
		return out, context.DeadlineExceeded
	}
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	u, err := c.identity.Use(ctx, r.op+" "+r.key)
	if err != nil {
		return out, err
	}
	defer u.Release()
	trust := c.opts.Connections.Trusted()
	if out, err = send(transport.WithAttempts(ctx, limit/transport.MaxAttempts), c, u.API(), r); err == nil {
		u.Worked()
		return out, nil
	}
	switch e := classify(err, situation{}); {
	case e.Code == cause.TLSFailed && c.trustsOthers(ctx, trust):
		return send(transport.WithAttempts(ctx, left(ctx)/transport.MaxAttempts), c, u.API(), r)
	case !identity.Refused(e), e.Code == cause.AccessDenied && isOptional(ctx):
		return out, err
	case !u.Otherwise(ctx, err, e):
		return out, u.Tell(err)
	}
	out, err = send(transport.WithAttempts(ctx, left(ctx)/transport.MaxAttempts), c, u.API(), r)
	return out, u.Settle(err)
}

// trustsOthers reports whether other CA certificates count than when a call began,
// whose TLS handshake failed. It looks for what has changed since.
func (c *Client) trustsOthers(ctx context.Context, trust *transport.Trust) bool {
	if c.opts.Connections.Trusted() == trust {
		c.identity.Look(ctx)
	}
	return c.opts.Connections.Trusted() != trust
}

func left(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return time.Until(deadline)
}

// newAPI returns how SDK clients are made: all of a Client's draw from one
// budget of retries.
func (c *Client) newAPI(retryer aws.Retryer) func(aws.Config, aws.CredentialsProvider) *kms.Client {
	return func(cfg aws.Config, credentials aws.CredentialsProvider) *kms.Client {
		return kms.NewFromConfig(cfg, func(o *kms.Options) {
			o.HTTPClient = c.http
			o.Credentials = credentials
			o.Retryer = retryer
			o.RetryMaxAttempts = 0 // AWS_MAX_ATTEMPTS must not stretch a call past its limit
			if c.opts.Endpoint != "" {
				o.BaseEndpoint = &c.opts.Endpoint
			}
			if c.opts.UserAgent != "" {
				o.APIOptions = append(o.APIOptions, awsmiddleware.AddUserAgentKeyValue("aws-encryption-provider", c.opts.UserAgent))
			}
			if c.opts.SourceARN != "" {
				o.APIOptions = append(o.APIOptions, confusedDeputy(c.opts.SourceARN))
			}
		})
	}
}

func (c *Client) newRetryer() aws.Retryer {
	budget := c.opts.Retry
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = transport.MaxAttempts
		o.Backoff = retry.BackoffDelayerFunc(c.timing.backoff)
		if budget.Tokens > 0 {
			o.RateLimiter = ratelimit.NewTokenRateLimit(budget.Tokens)
		}
		if budget.Flat {
			o.RetryCost, o.ThrottlingRetryCost = 1, 1
		}
	})
}

// backoff waits briefly before the second attempt: the SDK's own first waits
// are up to a second, which the API server's deadline does not have. After an
// attempt that hung the time is spent already.
func (t Timing) backoff(_ int, err error) (time.Duration, error) {
	if errors.Is(err, transport.ErrHung) {
		return 0, nil
	}
	return t.Backoff + rand.N(t.BackoffJitter), nil //nolint:gosec // jitter is no secret
}

// confusedDeputy adds the two headers that key policies can be conditioned on.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html
func confusedDeputy(sourceARN string) func(*middleware.Stack) error {
	account := accountOf(sourceARN)
	return func(stack *middleware.Stack) error {
		return stack.Build.Add(middleware.BuildMiddlewareFunc("ConfusedDeputy", func(
			ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler,
		) (middleware.BuildOutput, middleware.Metadata, error) {
			setHeaders(in.Request, map[string]string{"X-Amz-Source-Arn": sourceARN, "X-Amz-Source-Account": account})
			return next.HandleBuild(ctx, in)
		}), middleware.After)
	}
}

func setHeaders(request any, headers map[string]string) {
	req, ok := request.(*smithyhttp.Request)
	if !ok {
		return
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
}

// accountOf returns the account of an ARN, "" where it is none: the
// configuration has refused that already.
func accountOf(s string) string {
	parsed, err := awsarn.Parse(s)
	if err != nil {
		return ""
	}
	return parsed.AccountID
}
