package awskms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/identity"
	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// A world is AWS in virtual time: it hands out credentials that live so long, and
// takes them until they end, unless it is told otherwise.
type world struct {
	mu      sync.Mutex
	life    time.Duration
	role    string
	issued  []handout            // the last of it, or all
	forgets bool                 // only the last 16 are of use
	ends    map[string]time.Time // access key → when KMS stops taking it; zero: never
	roles   map[string]string    // access key → role
	refuse  map[string]string    // role, or access key → error code of KMS
	count   int                  // credentials made
	calls   map[string]int       // access key → calls of KMS
	started []time.Time          // asks
}

type handout struct {
	value aws.Credentials
	at    time.Time
}

func newWorld(life time.Duration) *world {
	return &world{life: life, role: "first", ends: map[string]time.Time{}, roles: map[string]string{}, refuse: map[string]string{}, calls: map[string]int{}}
}

// issue makes credentials.
func (w *world) issue(role string, life time.Duration) aws.Credentials {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	value := aws.Credentials{AccessKeyID: fmt.Sprintf("AKIA%s%d", role, w.count), SecretAccessKey: "s", SessionToken: "t", Source: "world"}
	ends := time.Time{}
	if life > 0 {
		ends = time.Now().Add(life)
		value.CanExpire, value.Expires = true, ends
	}
	w.ends[value.AccessKeyID], w.roles[value.AccessKeyID] = ends, role
	return value
}

// handed notes that the source has answered.
func (w *world) handed(value aws.Credentials) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.issued = append(w.issued, handout{value, time.Now()})
	if w.forgets && len(w.issued) > 16 {
		delete(w.ends, w.issued[0].value.AccessKeyID)
		delete(w.calls, w.issued[0].value.AccessKeyID)
		w.issued = w.issued[1:]
	}
}

// holds reports whether any credentials that were handed out are still taken.
func (w *world) holds() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.issued {
		if ends, ok := w.ends[h.value.AccessKeyID]; ok && (ends.IsZero() || time.Now().Before(ends)) {
			return true
		}
	}
	return false
}

func (w *world) asked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started = append(w.started, time.Now())
}

// begun are the asks.
func (w *world) begun() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.started)
}

func (w *world) made() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

func (w *world) deny(who, code string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse[who] = code; code == "" {
		delete(w.refuse, who)
	}
}

// encrypt is KMS.
func (w *world) encrypt(ctx context.Context, api *kms.Client) error {
	value, err := api.Options().Credentials.Retrieve(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[value.AccessKeyID]++
	ends, known := w.ends[value.AccessKeyID]
	role := w.roles[value.AccessKeyID]
	code := w.refuse[role]
	if c := w.refuse[value.AccessKeyID]; c != "" {
		code = c
	}
	switch {
	case code != "":
	case !known:
		code = "UnrecognizedClientException"
	case !ends.IsZero() && !time.Now().Before(ends):
		code = "ExpiredTokenException"
	default:
		return nil
	}
	message := "User: arn:aws:sts::111122223333:assumed-role/" + role + "/session is not authorized to perform: kms:Encrypt on resource: key"
	return &smithy.GenericAPIError{Code: code, Message: message}
}

// A provider is a source: what asks it, and what it answers.
type provider func(ctx context.Context) (aws.Credentials, error)

func (p provider) Retrieve(ctx context.Context) (aws.Credentials, error) { return p(ctx) }

// noFiles keeps the SDK from what is on this machine.
func noFiles(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": "us-west-2", "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_CA_BUNDLE": "", "AWS_ROLE_ARN": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
}

// client is one whose credentials come from a source, wrapped in the SDK's cache as
// the SDK wraps it. Nothing goes over a network.
func (w *world) client(t *testing.T, o Options, source aws.CredentialsProvider) *Client {
	t.Helper()
	c := w.bare(t, o)
	w.from(c, func(context.Context) (settings.Found, error) {
		return settings.Found{Provider: aws.NewCredentialsCache(source)}, nil
	})
	return c
}

// from makes a client that has made no call read these settings.
func (w *world) from(c *Client, source func(context.Context) (settings.Found, error)) {
	o := c.identityOptions()
	o.Source = source
	o.NewAPI = func(_ aws.Config, credentials aws.CredentialsProvider) *kms.Client {
		return kms.New(kms.Options{Credentials: credentials, Region: "us-west-2"})
	}
	c.identity = identity.New(o)
}

// bare is a client with the SDK's own sources.
func (w *world) bare(t *testing.T, o Options) *Client {
	t.Helper()
	if o.Connections == nil {
		o.Connections = NewConnections()
		t.Cleanup(o.Connections.Close)
	}
	o.Timeout = 2500 * time.Millisecond
	c := New(o)
	w.from(c, c.settings.Find)
	return c
}

// do makes one call by what a test has in the place of KMS.
func do(ctx context.Context, c *Client, op, key string, made func(context.Context, *kms.Client) error) error {
	_, err := call(ctx, c, request[struct{}]{op: op, key: key, prepare: func(api *kms.Client) work[struct{}] {
		return func(ctx context.Context) (struct{}, error) { return struct{}{}, made(ctx, api) }
	}})
	return err
}

// seal is one call.
func (w *world) seal(ctx context.Context, c *Client) error {
	return do(ctx, c, "Encrypt", "key", w.encrypt)
}

func code(err error) cause.Code {
	if err == nil {
		return 0
	}
	return cause.Of(err).Code
}

var errDown = errors.New("the source is down")

// counted is an observer that counts.
func counted(log *slog.Logger) (*bounded.Observer, func(bounded.Wait) int) {
	var mu sync.Mutex
	left := map[bounded.Wait]int{}
	count := func(w bounded.Wait, more int) int {
		mu.Lock()
		defer mu.Unlock()
		left[w] += more
		return left[w]
	}
	o := &bounded.Observer{Log: log, Left: func(w bounded.Wait) { count(w, 1) }}
	return o, func(w bounded.Wait) int { return count(w, 0) }
}
