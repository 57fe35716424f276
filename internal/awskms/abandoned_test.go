package awskms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go/middleware"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/bounded"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const anyKey = "arn:aws:kms:us-west-2:111122223333:key/x"

// An httpFunc is an HTTP client of the SDK.
type httpFunc func(*http.Request) (*http.Response, error)

// Do implements [kms.HTTPClient].
func (f httpFunc) Do(req *http.Request) (*http.Response, error) { return f(req) }

// overHTTP returns a Client whose calls end in f. It reads no settings but the
// environment's, so that it works under synctest.
func overHTTP(t *testing.T, o awskms.Options, f httpFunc) *awskms.Client {
	t.Helper()
	o.Connections, o.Timeout = awskms.NewConnections(), 2500*time.Millisecond
	t.Cleanup(o.Connections.Close)
	c := awskms.New(o)
	awskms.Through(c, func(o *kms.Options) { o.HTTPClient = f })
	return c
}

func staticEnv(t *testing.T) {
	t.Helper()
	missing := filepath.Join(t.TempDir(), "missing")
	for name, value := range map[string]string{
		"AWS_REGION": kmstest.Region, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": missing, "AWS_SHARED_CREDENTIALS_FILE": missing, "AWS_CA_BUNDLE": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
}

func answer(body string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// What stands below ignores its context, whatever it is and whoever calls.
func TestEveryCallEndsWithinItsLimitWhateverHangsBelow(t *testing.T) {
	staticEnv(t)
	for name, call := range map[string]func(context.Context, *awskms.Client) error{
		"Encrypt": func(ctx context.Context, c *awskms.Client) error {
			_, err := c.Encrypt(ctx, awskms.Call{}, anyKey, secret.Bytes("seed"))
			return err
		},
		"Decrypt": func(ctx context.Context, c *awskms.Client) error {
			_, err := c.Decrypt(ctx, awskms.Call{}, anyKey, []byte{1})
			return err
		},
		"Encrypt, traced": func(ctx context.Context, c *awskms.Client) error {
			traced, _ := awskms.Traced(ctx)
			_, err := c.Encrypt(traced, awskms.Call{}, anyKey, secret.Bytes("seed"))
			return err
		},
		"DescribeKey": func(ctx context.Context, c *awskms.Client) error {
			_, err := c.DescribeKey(ctx, anyKey)
			return err
		},
		"KeyRotation": func(ctx context.Context, c *awskms.Client) error {
			_, err := c.KeyRotation(ctx, anyKey)
			return err
		},
		"MayEncrypt": func(ctx context.Context, c *awskms.Client) error {
			return c.MayEncrypt(ctx, anyKey, secret.Bytes("seed"))
		},
		"MayDecrypt": func(ctx context.Context, c *awskms.Client) error { return c.MayDecrypt(ctx, anyKey, []byte{1}) },
	} {
		for caller, want := range map[string]struct {
			limit time.Duration // of the caller; 0: it leaves after a second
			code  cause.Code
			most  time.Duration
		}{
			"patient":       {time.Hour, cause.TimedOut, 2700 * time.Millisecond},
			"in a hurry":    {700 * time.Millisecond, cause.TooLittleTime, 600 * time.Millisecond},
			"that has left": {0, cause.CallerLeft, 1200 * time.Millisecond},
		} {
			synctest.Test(t, func(t *testing.T) {
				var left []bounded.Wait
				release := make(chan struct{})
				c := overHTTP(t, awskms.Options{Waits: &bounded.Observer{Left: func(w bounded.Wait) { left = append(left, w) }}},
					func(*http.Request) (*http.Response, error) { <-release; return nil, errors.New("late") })
				ctx, cancel := context.WithCancel(t.Context())
				if want.limit > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), want.limit)
				} else {
					time.AfterFunc(time.Second, cancel)
				}
				defer cancel()
				began := time.Now()
				err := call(ctx, c)
				if took := time.Since(began); cause.Of(err).Code != want.code || took > want.most || len(left) != 1 || left[0] != bounded.Call {
					t.Errorf("%s, caller %s: %v after %s, left behind: %v; want %s, within %s, one call", name, caller, err, took, left, want.code, want.most)
				}
				close(release)
			})
		}
	}
}

// kmsserver clears the request as soon as its call returns, and the call that was
// left behind still reads what it sends.
func TestACallThatIsLeftBehindOwnsItsPlaintext(t *testing.T) {
	staticEnv(t)
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		sent := make(chan string, 1)
		var mu sync.Mutex
		var used []byte
		c := overHTTP(t, awskms.Options{}, func(req *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(req.Body)
			sent <- string(body)
			return answer(`{"CiphertextBlob":"AQID","KeyId":"` + anyKey + `"}`), err
		})
		awskms.Through(c, stuckBefore(release, func(in any) {
			mu.Lock()
			defer mu.Unlock()
			used = in.(*kms.EncryptInput).Plaintext
		}))
		plaintext := secret.Bytes("a seed of thirty-two bytes, sure")
		want := base64.StdEncoding.EncodeToString(plaintext)
		if _, err := c.Encrypt(t.Context(), awskms.Call{}, anyKey, plaintext); cause.Of(err).Code != cause.TimedOut {
			t.Fatalf("got %v, want %s", err, cause.TimedOut)
		}
		plaintext.Clear()
		close(release)
		if got := <-sent; !strings.Contains(got, want) {
			t.Errorf("sent %s, want the plaintext as it was", got)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if !bytes.Equal(used, make([]byte, len(plaintext))) {
			t.Error("the copy of the plaintext was not cleared at the end of the call")
		}
	})
}

// stuckBefore makes calls wait for release before the SDK looks at their input.
func stuckBefore(release <-chan struct{}, seen func(in any)) func(*kms.Options) {
	return func(o *kms.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("Stuck", func(
				ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
			) (middleware.InitializeOutput, middleware.Metadata, error) {
				<-release
				seen(in.Parameters)
				return next.HandleInitialize(context.WithoutCancel(ctx), in)
			}), middleware.Before)
		})
	}
}

func TestAPlaintextThatComesLateIsCleared(t *testing.T) {
	staticEnv(t)
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var mu sync.Mutex
		var late secret.Bytes
		c := overHTTP(t, awskms.Options{}, func(*http.Request) (*http.Response, error) {
			return answer(`{"Plaintext":"c2VlZA==","KeyId":"` + anyKey + `"}`), nil
		})
		awskms.Through(c, func(o *kms.Options) {
			o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
				return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("Late", func(
					ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
				) (middleware.InitializeOutput, middleware.Metadata, error) {
					out, metadata, err := next.HandleInitialize(ctx, in)
					if o, ok := out.Result.(*kms.DecryptOutput); ok {
						mu.Lock()
						late = o.Plaintext
						mu.Unlock()
					}
					<-release
					return out, metadata, err
				}), middleware.Before)
			})
		})
		if _, err := c.Decrypt(t.Context(), awskms.Call{}, anyKey, []byte{1}); cause.Of(err).Code != cause.TimedOut {
			t.Fatalf("got %v, want %s", err, cause.TimedOut)
		}
		mu.Lock()
		if string(late) != "seed" {
			t.Errorf("before its end the call has %d bytes, want the plaintext", len(late))
		}
		mu.Unlock()
		close(release)
		synctest.Wait()
		if !bytes.Equal(late, make([]byte, len("seed"))) {
			t.Error("a plaintext that nobody waited for was not cleared")
		}
	})
}

func TestAPanicBelowIsAnErrorOfTheCall(t *testing.T) {
	staticEnv(t)
	var log bytes.Buffer
	c := overHTTP(t, awskms.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(*http.Request) (*http.Response, error) { panic("broken") })
	for range 3 {
		if _, err := c.Encrypt(t.Context(), awskms.Call{}, anyKey, secret.Bytes("seed")); cause.Of(err).Code != cause.Panicked {
			t.Errorf("got %v, want %s", err, cause.Panicked)
		}
	}
	if got := log.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "broken") || !strings.Contains(got, "abandoned_test.go") {
		t.Errorf("want one line, with what was said and where:\n%s", got)
	}
}

// GetCallerIdentity reads the SDK's settings again: here from a pipe that nobody
// writes to.
func TestCallerEndsWhereAFileOfSettingsBlocks(t *testing.T) {
	staticEnv(t)
	c := overHTTP(t, awskms.Options{}, nil)
	if _, err := c.Credential(t.Context()); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "config")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", pipe)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Caller(ctx); err == nil {
		t.Error("no error")
	}
	writer, err := syscall.Open(pipe, syscall.O_RDWR, 0) // what reads it ends
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(writer)
}

// Whatever still runs in the background does not keep the process.
func TestCloseOfConnectionsEndsWhateverHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var left []bounded.Wait
		conns := awskms.NewConnections()
		conns.Waits = &bounded.Observer{Left: func(w bounded.Wait) { left = append(left, w) }}
		release := make(chan struct{})
		awskms.Background(conns, func() { <-release })
		began := time.Now()
		conns.Close()
		if took := time.Since(began); took > 2*time.Second || len(left) != 1 || left[0] != bounded.Close {
			t.Errorf("took %s, left behind: %v; want about a second and one close", took, left)
		}
		close(release)
	})
}

func TestCloseOfConnectionsWaitsForWhatEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conns := awskms.NewConnections()
		ended := false
		awskms.Background(conns, func() { time.Sleep(900 * time.Millisecond); ended = true })
		conns.Close()
		if !ended {
			t.Error("did not wait for work that ends")
		}
	})
}
