package awskms

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/settings"
)

// A service hands out credentials as AWS's own do, over HTTP. It stands outside the
// bubble of virtual time, so that the time is brought to it.
type service struct {
	w    *world
	now  atomic.Int64 // of the bubble, in nanoseconds since the epoch
	keep func(life time.Duration) time.Duration
	kept aws.Credentials
	down atomic.Bool
	asks atomic.Int64
}

func (s *service) time() time.Time { return time.Unix(0, s.now.Load()) }

// next is what the service hands out: the same as before, until keep is left.
func (s *service) next() aws.Credentials {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := s.time()
	if s.keep == nil || s.kept.Expires.Sub(now) <= s.keep(s.w.life) {
		s.w.count++
		s.kept = aws.Credentials{AccessKeyID: fmt.Sprintf("AKIAreal%d", s.w.count), Expires: now.Add(s.w.life).Truncate(time.Second)}
		s.w.ends[s.kept.AccessKeyID] = s.kept.Expires
	}
	return s.kept
}

func (s *service) ends() time.Time {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.kept.Expires
}

const stsAnswer = `<%[1]sResponse><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId><SecretAccessKey>s</SecretAccessKey>` +
	`<SessionToken>t</SessionToken><Expiration>%[3]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.down.Load() {
		w.WriteHeader(http.StatusBadRequest) // the SDK does not try again by itself
		return
	}
	switch {
	case r.Method == http.MethodPut: // a token of the metadata service
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		_, _ = w.Write([]byte("token"))
	case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
		_, _ = w.Write([]byte("role"))
	case r.Method == http.MethodPost: // STS
		s.asks.Add(1)
		value := s.next()
		_, _ = fmt.Fprintf(w, stsAnswer, //nolint:gosec // a test's answer
			r.FormValue("Action"), value.AccessKeyID, value.Expires.UTC().Format(time.RFC3339))
	default:
		s.asks.Add(1)
		value := s.next()
		_, _ = fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":"s","Token":"t","Expiration":%q}`,
			value.AccessKeyID, value.Expires.UTC().Format(time.RFC3339))
	}
}

// The SDK's own sources, over HTTP, in virtual time: with credentials of every life,
// no call fails.
func TestNoCallFailsWithTheSDKsSources(t *testing.T) {
	fifth := func(life time.Duration) time.Duration { return life / 5 }
	for _, tt := range []struct {
		name string
		keep func(time.Duration) time.Duration
		role string
		env  func(t *testing.T, url string) map[string]string
	}{
		{"metadata service", fifth, "", func(_ *testing.T, url string) map[string]string {
			return map[string]string{"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": url}
		}},
		{"container endpoint", fifth, "", func(_ *testing.T, url string) map[string]string {
			return map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": url + "/v1/credentials"}
		}},
		{"web identity", nil, "", func(t *testing.T, url string) map[string]string {
			t.Helper()
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte("token"), 0o600); err != nil {
				t.Fatal(err)
			}
			return map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": file, "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/r", "AWS_ENDPOINT_URL_STS": url}
		}},
		{"assumed role of an instance", nil, "arn:aws:iam::111122223333:role/r", func(_ *testing.T, url string) map[string]string {
			return map[string]string{"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "AWS_ENDPOINT_URL_STS": url}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lives := []time.Duration{10 * time.Second, time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}
			for _, life := range lives {
				noFiles(t)
				w := newWorld(life)
				s := &service{w: w, keep: tt.keep}
				server := httptest.NewServer(s)
				t.Cleanup(server.Close)
				for name, value := range tt.env(t, server.URL) {
					t.Setenv(name, value)
				}
				synctest.Test(t, func(t *testing.T) { s.serve(t, tt.role, life, timeOf(t, life, lives)) })
			}
		})
	}
}

func (s *service) serve(t *testing.T, role string, life, most time.Duration) {
	t.Helper()
	conns := NewConnections()
	defer conns.Close()
	c := s.w.bare(t, Options{Connections: conns, AssumeRoleARN: role})
	s.w.from(c, func(ctx context.Context) (settings.Found, error) {
		s.now.Store(time.Now().UnixNano())
		return c.settings.Find(ctx)
	})
	start := time.Now()
	for time.Since(start) < most {
		s.down.Store(upTo(3) == 0 && time.Until(s.ends()) > life/4) // early in the window
		if err := s.w.seal(t.Context(), c); err != nil {
			t.Fatalf("life %s, after %s: %v", life, time.Since(start), err)
		}
		time.Sleep(upTo(life / 10))
	}
	t.Logf("life %s: %d asks in %s", life, s.asks.Load(), time.Since(start).Round(time.Second))
}

// Credentials of a process and of a file, which are replaced in time.
func TestNoCallFailsWithFilesAndProcesses(t *testing.T) {
	noFiles(t)
	dir := t.TempDir()
	file, output, program := filepath.Join(dir, "credentials"), filepath.Join(dir, "output"), filepath.Join(dir, "config")
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(t, program, "[default]\ncredential_process = cat "+output+"\n")
	for name, tt := range map[string]struct {
		env     string
		path    string
		replace func(t *testing.T, value aws.Credentials, n int)
	}{
		"file": {"AWS_SHARED_CREDENTIALS_FILE", file, func(t *testing.T, value aws.Credentials, n int) {
			t.Helper()
			write(t, file, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = s\naws_session_token = t%s\n", value.AccessKeyID, strings.Repeat("x", n%20)))
		}},
		"credential_process": {"AWS_CONFIG_FILE", program, func(t *testing.T, value aws.Credentials, _ int) {
			t.Helper()
			write(t, output, fmt.Sprintf(`{"Version":1,"AccessKeyId":%q,"SecretAccessKey":"s","SessionToken":"t","Expiration":%q}`,
				value.AccessKeyID, value.Expires.UTC().Format(time.RFC3339)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(tt.env, tt.path)
			lives := []time.Duration{30 * time.Second, 15 * time.Minute, time.Hour, 6 * time.Hour}
			if name != "file" { // files are looked at every 15 s
				lives = append(lives, 10*time.Second)
			}
			for _, life := range lives {
				most := timeOf(t, life, lives)
				synctest.Test(t, func(t *testing.T) {
					conns := NewConnections()
					defer conns.Close()
					w := newWorld(life)
					c := w.bare(t, Options{Connections: conns})
					var ends time.Time
					start := time.Now()
					for n := 0; time.Since(start) < most; n++ {
						if time.Until(ends) < life/4 || name == "file" && time.Until(ends) < 20*time.Second {
							value := w.issue("first", life)
							ends = value.Expires
							tt.replace(t, value, n)
						}
						if err := w.seal(t.Context(), c); err != nil {
							t.Fatalf("life %s, after %s: %v", life, time.Since(start), err)
						}
						time.Sleep(upTo(life / 20))
					}
					t.Logf("life %s: %s", life, time.Since(start).Round(time.Second))
				})
			}
		})
	}
}
