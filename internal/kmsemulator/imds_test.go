package kmsemulator_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestSDKTakesRegionAndCredentialsFromTheInstance(t *testing.T) {
	s := kmstest.Start(t, kmsemulator.Options{Instance: kmsemulator.Instance{Region: there, Role: "node", ID: "i-0"}})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	metadata := imds.New(imds.Options{Endpoint: s.StartIMDS(t), HTTPClient: &http.Client{Transport: transport}, EnableFallback: aws.FalseTernary})
	region, err := metadata.GetRegion(t.Context(), nil)
	if err != nil || region.Region != there {
		t.Fatalf("the Region is %v, %v", region, err)
	}
	provider := ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = metadata })
	got, err := provider.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(got.Expires); d < 50*time.Minute || d > 7*time.Hour {
		t.Errorf("the credentials expire after %s", d)
	}
	again, err := provider.Retrieve(t.Context())
	if err != nil || again.AccessKeyID != got.AccessKeyID {
		t.Errorf("asked again: %s, %v, want the same %s", again.AccessKeyID, err, got.AccessKeyID)
	}
	s.Deny("", "ListKeys")
	_, err = sdkClient(t, s, region.Region).ListKeys(t.Context(), nil, func(o *kms.Options) { o.Credentials = provider })
	wantAPIError(t, err, "AccessDeniedException", "User: arn:aws:sts::111122223333:assumed-role/node/i-0 is not authorized to perform: kms:ListKeys on resource: * because no identity-based policy allows the kms:ListKeys action")
}

func TestIMDSDemandsItsToken(t *testing.T) {
	s, c := startAt(t, kmsemulator.Options{})
	base := s.StartIMDS(t)
	ask := func(method, path string, header ...string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		return send(t, req)
	}
	const (
		tokenPath = "/latest/api/token"
		ttl       = "X-aws-ec2-metadata-token-ttl-seconds"
		header    = "X-aws-ec2-metadata-token"
		region    = "/latest/meta-data/placement/region"
	)
	for name, tc := range map[string]struct {
		a    answer
		want int
	}{
		"region without token":    {ask(http.MethodGet, region), 401},
		"region with wrong token": {ask(http.MethodGet, region, header, "x"), 401},
		"token by GET":            {ask(http.MethodGet, tokenPath, ttl, "60"), 405},
		"token without time":      {ask(http.MethodPut, tokenPath), 400},
		"token for 0 seconds":     {ask(http.MethodPut, tokenPath, ttl, "0"), 400},
		"token for too long":      {ask(http.MethodPut, tokenPath, ttl, "21601"), 400},
		"token through a proxy":   {ask(http.MethodPut, tokenPath, ttl, "60", "X-Forwarded-For", "10.0.0.1"), 403},
		"region by POST":          {ask(http.MethodPost, region), 405},
	} {
		if tc.a.status != tc.want {
			t.Errorf("%s: %d, want %d", name, tc.a.status, tc.want)
		}
	}
	token := ask(http.MethodPut, tokenPath, ttl, "60")
	if token.status != 200 || token.header.Get(ttl) != "60" || len(token.body) != 56 {
		t.Fatalf("the token: %d %v %q", token.status, token.header, token.body)
	}
	for path, want := range map[string]string{
		region: "us-west-2", "/latest/meta-data/placement/availability-zone": "us-west-2a", "/latest/meta-data/instance-id": "i-1234567890abcdef0",
		"/latest/meta-data/iam/security-credentials/": "emulator", "/latest/meta-data/iam/security-credentials": "emulator",
	} {
		if a := ask(http.MethodGet, path, header, token.body); a.status != 200 || a.body != want {
			t.Errorf("%s: %d %q, want %q", path, a.status, a.body, want)
		}
	}
	var doc map[string]string
	if a := ask(http.MethodGet, "/latest/dynamic/instance-identity/document", header, token.body); json.Unmarshal([]byte(a.body), &doc) != nil || doc["region"] != "us-west-2" || doc["accountId"] != "111122223333" {
		t.Errorf("the document: %s", a.body)
	}
	if a := ask(http.MethodGet, "/latest/meta-data/iam/security-credentials/emulator", header, token.body); !strings.Contains(a.body, `"Code": "Success"`) {
		t.Errorf("the credentials: %s", a.body)
	}
	if a := ask(http.MethodGet, "/latest/user-data", header, token.body); a.status != 404 {
		t.Errorf("unknown path: %d", a.status)
	}
	c.advance(time.Minute)
	if a := ask(http.MethodGet, region, header, token.body); a.status != 401 {
		t.Errorf("with an expired token: %d", a.status)
	}
}
