package awskms_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// A place is where a process looks for credentials: files, environment, and
// services that answer as a case wants.
type place struct {
	t       *testing.T
	kms     *kmstest.Server
	key     string
	dir     string
	options awskms.Options
}

func newPlace(t *testing.T) *place {
	t.Helper()
	s, key := start(t)
	p := &place{t: t, kms: s, key: key, dir: t.TempDir()}
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_ENDPOINT_URL_STS", s.STSURL(t))
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	return p
}

func (p *place) file(name, text string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *place) set(name, value string) { p.t.Setenv(name, value) }

func (p *place) config(text string) { p.set("AWS_CONFIG_FILE", p.file("config", text)) }

// answers starts a service that always answers the same.
func (p *place) answers(status int, kind, body string) string {
	return serveFunc(p.t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}

// metadata starts a metadata service whose answers to requests for a role are
// these.
func (p *place) metadata(role http.HandlerFunc) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			fmt.Fprint(w, "metadata-token-secret")
			return
		}
		role(w, r)
	}))
	p.t.Cleanup(s.Close)
	p.set("AWS_EC2_METADATA_DISABLED", "")
	p.set("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
}

// leavesHTTP starts a service that switches protocols, and says no more.
func (p *place) leavesHTTP() string {
	end := make(chan struct{})
	address := serveFunc(p.t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			p.t.Error(err)
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		<-end
		_ = conn.Close()
	})
	p.t.Cleanup(func() { close(end) })
	return address
}

func (p *place) container(status int, kind, body string) {
	p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", p.answers(status, kind, body)+"/v1/credentials?token=query-secret")
	p.set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "authorization-secret")
}

// podIdentity is container as EKS sets it up.
func (p *place) podIdentity(status int, kind, body string) {
	p.container(status, kind, body)
	dir := filepath.Join(p.dir, "eks-pod-identity-token")
	if err := os.Mkdir(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	p.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", p.file("eks-pod-identity-token/token", "authorization-secret"))
}

func (p *place) webIdentity(token string) {
	p.set("AWS_WEB_IDENTITY_TOKEN_FILE", p.file("token", token))
	p.set("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/kms")
}

func (p *place) stsError(status int, code, message string) {
	p.set("AWS_ENDPOINT_URL_STS", p.answers(status, "text/xml", fmt.Sprintf(
		`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>r-1</RequestId></ErrorResponse>`,
		code, message)))
}

// call makes calls until one says what became of the look-up, which may take
// longer than a call, and looks for what no text may show.
func (p *place) call() *cause.Error {
	p.t.Helper()
	c := newClient(p.t, p.options)
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		_, err = c.Encrypt(p.t.Context(), awskms.Call{}, p.key, secret.Bytes("seed"))
		if err == nil || !strings.Contains(err.Error(), "context deadline exceeded") {
			break
		}
	}
	if err == nil {
		p.t.Fatal("the call works")
	}
	for _, text := range []string{err.Error(), cause.Of(err).Short()} {
		if strings.Contains(text, "-secret") {
			p.t.Errorf("shows a secret: %s", text)
		}
	}
	return cause.Of(err)
}
