package awskms

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// LookAgain makes the next call look at the files of settings, as it would after
// some time.
func LookAgain(c *Client) {
	c.identity.mu.Lock()
	defer c.identity.mu.Unlock()
	c.identity.schedule.looked = time.Time{}
}

// LookedUp waits until the look-up that began last has ended.
func LookedUp(c *Client) {
	c.identity.mu.Lock()
	last := c.identity.last
	c.identity.mu.Unlock()
	if last != nil {
		<-last.done
	}
}

// Hosts is how many hosts have connections, or had them and are remembered.
func Hosts(c *Connections) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pools)
}

// Through makes the calls of a Client that has made none go through the options of
// another SDK client.
func Through(c *Client, change func(*kms.Options)) {
	inner := c.identity.newAPI
	c.identity.newAPI = func(cfg aws.Config, credentials aws.CredentialsProvider) *kms.Client {
		return kms.New(inner(cfg, credentials).Options(), change)
	}
}

// UseProxy makes new connections to hosts go by a proxy: net/http reads the
// environment's once in a process.
func UseProxy(c *Connections, proxy *url.URL) {
	c.mu.Lock()
	old := c.trust
	c.mu.Unlock()
	builder := old.builder.WithTransportOptions(func(t *http.Transport) { t.Proxy = http.ProxyURL(proxy) })
	changed := newTrust(aws.Config{HTTPClient: builder}, time.Now(), nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trust = changed
	for _, p := range c.pools {
		p.transports.Swap(changed.transportsTo(p.origin)).retire()
	}
}

// Background runs work as the goroutines of Connections.
func Background(c *Connections, work func()) {
	c.background(time.Minute, func(context.Context) { work() })
}

// Hangs is how often what was idle was closed because of a hang, over all hosts.
func Hangs(c *Connections) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, p := range c.pools {
		n += p.hangs
	}
	return n
}

// Running counts the steps of look-ups that run, those included that were left behind.
func Running(c *Client) int { return running(c) }

// Denied is what is made of an AccessDeniedException with this sentence.
func Denied(key, sentence string) *cause.Error {
	return classify(&smithy.GenericAPIError{Code: "AccessDeniedException", Message: sentence}, situation{op: "Encrypt", key: key})
}
