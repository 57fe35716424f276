package faults

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// A manner is how an endpoint answers: as it should, or so that whoever waits for
// the end of the answer waits for good.
type manner string

const (
	well     manner = "well"
	switched manner = "101"     // and nothing after it
	headers  manner = "headers" // that never end
	body     manner = "body"    // that never ends
	silent   manner = "silent"  // takes the request and says nothing
)

// A front is an HTTP endpoint whose manner a test changes.
type front struct {
	*httptest.Server

	manner atomic.Value // of manner
	held   atomic.Int64 // connections that are kept waiting
}

// newFront serves what the handler answers, while it is well.
func newFront(t *testing.T, handler http.Handler) *front {
	t.Helper()
	f := &front{}
	f.become(well)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := f.is(); m != well {
			f.hold(w, r, m)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *front) become(m manner) { f.manner.Store(m) }

func (f *front) is() manner {
	m, _ := f.manner.Load().(manner)
	return m
}

// hold keeps a request waiting until its other side closes the connection.
func (f *front) hold(w http.ResponseWriter, r *http.Request, m manner) {
	_, _ = io.Copy(io.Discard, r.Body)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	f.held.Add(1)
	defer f.held.Add(-1)
	defer func() { _ = conn.Close() }()
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	begin, more := map[manner]string{
		switched: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
		headers:  "HTTP/1.1 200 OK\r\n",
		body:     "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 100000\r\n\r\n{",
	}[m], map[manner]string{headers: "X-More: more\r\n", body: " "}[m]
	_, _ = conn.Write([]byte(begin))
	for {
		select {
		case <-gone:
			return
		case <-time.After(500 * time.Millisecond):
			if more != "" {
				_, _ = conn.Write([]byte(more))
			}
		}
	}
}

// passedOn is a handler that hands requests to the emulated KMS.
func passedOn(t *testing.T, kms *kmstest.Server) http.Handler {
	t.Helper()
	target, err := url.Parse(kms.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which the request's signature covers
	}}
}

// An issuer hands out credentials that end soon, as STS, an instance's metadata
// service or a container's endpoint does.
type issuer struct {
	credential kmsemulator.Credential
	life       time.Duration
}

// newIssuer hands out credentials that the KMS knows.
func newIssuer(kms *kmstest.Server, life time.Duration) *issuer {
	c := kmstest.Credential()
	c.AccessKeyID, c.SessionToken = "ASIAIOSFODNN7ISSUED0", "of-the-issuer"
	kms.AddCredential(c)
	return &issuer{credential: c, life: life}
}

func (i *issuer) expiration() string { return time.Now().Add(i.life).UTC().Format(time.RFC3339) }

func (i *issuer) container() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
			i.credential.AccessKeyID, i.credential.SecretAccessKey, i.credential.SessionToken, i.expiration())
	})
}

func (i *issuer) imds() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const roles = "/latest/meta-data/iam/security-credentials/"
		switch r.URL.Path {
		case "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			fmt.Fprint(w, "token")
		case roles:
			fmt.Fprint(w, "role")
		case roles + "role":
			fmt.Fprintf(w, `{"Code":"Success","Type":"AWS-HMAC","LastUpdated":%q,"AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
				time.Now().UTC().Format(time.RFC3339), i.credential.AccessKeyID, i.credential.SecretAccessKey, i.credential.SessionToken, i.expiration())
		default:
			http.NotFound(w, r)
		}
	})
}

func (i *issuer) sts() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>`+
			`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials><AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/role/s</Arn><AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser>`+
			`</AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleResponse>`,
			i.credential.AccessKeyID, i.credential.SecretAccessKey, i.credential.SessionToken, i.expiration())
	})
}
