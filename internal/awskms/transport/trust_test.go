package transport

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// trusting is settings with the CA bundle of a server.
func trusting(s *kmstest.Server) aws.Config {
	return aws.Config{HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.CAPEM)
		t.TLSClientConfig.RootCAs = roots
	})}
}

// Two Clients may read the bundle while it is replaced, and the one that read
// the old one be the slower.
func TestBundleThatWasReadLaterCounts(t *testing.T) {
	one, other := trusting(kmstest.StartTLS(t)), trusting(kmstest.StartTLS(t))
	conns := New()
	t.Cleanup(conns.Close)
	now := time.Now()
	conns.Offer(one, now)
	first := conns.Trusted()
	conns.Offer(one, now.Add(time.Second))
	if conns.Trusted() != first {
		t.Error("the same bundle, read again, counted as another")
	}
	conns.Offer(other, now.Add(2*time.Second))
	second := conns.Trusted()
	if second == first {
		t.Error("another bundle did not count")
	}
	conns.Offer(one, now.Add(time.Second))
	if conns.Trusted() != second {
		t.Error("a bundle that was read earlier took the place of a later one")
	}
}

// A request may have chosen its transports just before they were retired.
func TestRetiredTransportsKeepNothing(t *testing.T) {
	s := kmstest.Start(t)
	transports := New().newTrust(aws.Config{}, time.Now()).transports()
	send := func() {
		t.Helper()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, http.NoBody)
		resp, err := transports.roundTrip(transports.pooled, req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	send()
	if s.Open() != 1 {
		t.Fatalf("%d connections open, want one kept", s.Open())
	}
	transports.retire()
	send()
	for deadline := time.Now().Add(20 * time.Second); s.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections open after the end, want none", s.Open())
		}
	}
}
