package awskms

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// MetadataOutOfReach says whether the instance metadata service lets this process
// connect and then gives it no token: the answer to the request for one has a hop
// limit, which by default ends at the host, short of a container with a network
// of its own. It asks for a token, and drops it.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-options.html
func MetadataOutOfReach(ctx context.Context) bool {
	const patience = time.Second // the service answers within milliseconds
	if strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	base := cmp.Or(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "http://169.254.169.254")
	//nolint:gosec // the address is from the environment, as the SDK takes it
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, strings.TrimSuffix(base, "/")+"/latest/api/token", http.NoBody)
	if err != nil {
		return false
	}
	req.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "1")
	way := &http.Transport{DisableKeepAlives: true} // no proxy: the address is link-local
	defer way.CloseIdleConnections()                // ends the dial that nobody waits for
	resp, err := way.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
		return false
	}
	return connected.Load() && errors.Is(err, context.DeadlineExceeded)
}
