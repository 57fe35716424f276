package daemon

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"k8s.io/kms/apis/v2"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// heldKMS returns the address of a KMS that answers nothing before release.
func heldKMS(t testing.TB, kms *kmstest.Server) (address string, release func()) {
	t.Helper()
	to, err := url.Parse(kms.URL)
	if err != nil {
		t.Fatal(err)
	}
	free := make(chan struct{})
	release = sync.OnceFunc(func() { close(free) })
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-free
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	t.Cleanup(release)
	return s.URL, release
}

// statuses begins a Status, and returns how it ends.
func statuses(c v2.KeyManagementServiceClient) <-chan error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
		defer cancel()
		_, err := c.Status(ctx, &v2.StatusRequest{})
		done <- err
	}()
	return done
}

// underWayHere says how many calls the first provider's server has.
func (r *running) underWayHere() int64 { return r.current.Load().providers[0].target.UnderWay() }

// A restart may tell a process to end before its first contact with KMS.
func TestStatusThatWaitsForTheFirstContactSucceedsAlthoughTheProcessEnds(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	address, release := heldKMS(t, kms)
	timing := shortTiming()
	timing.drain = testkit.Patience
	r := run(t, setup{kms: kms, endpoint: address, time: timing, args: []string{"--kms-timeout=10m"}}).serving()
	status := statuses(r.client())
	testkit.Until(t, "Status waits", func() bool { return r.underWayHere() > 0 })
	down := make(chan struct{})
	go func() {
		defer close(down)
		r.stopped(context.Background(), testkit.Patience)
	}()
	testkit.Until(t, "the socket is gone", func() bool { return !r.exists() })
	release()
	if err := <-status; err != nil {
		t.Errorf("Status: %v, want it answered after the first contact", err)
	}
	<-down
}

func TestStatusThatWaitsForTheFirstContactSucceedsAlthoughItsProviderIsReplaced(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	address, release := heldKMS(t, kms)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{fmt.Sprintf("{key: %q, region: %s, endpoint: %q}", createKey(t, kms), kmstest.Region, address)}}
	f := runFiled(t, filing{dir: dir}, fileText("kmsTimeout: 10m\n", p))
	f.serving()
	status := statuses(f.client())
	testkit.Until(t, "Status waits", func() bool { return f.underWayHere() > 0 })
	f.write(fileText("kmsTimeout: 9m\n", p))
	testkit.Until(t, "another generation serves", func() bool { return f.log.Has("configuration reloaded") })
	release()
	if err := <-status; err != nil {
		t.Errorf("Status: %v, want it answered after the first contact", err)
	}
}
