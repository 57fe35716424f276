package awskms_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// childCalls makes this test binary a program that calls KMS once: net/http
// reads the proxy's settings once in a process.
const childCalls = "AWSKMS_TEST_CHILD_CALLS"

func TestMain(m *testing.M) {
	if key := os.Getenv(childCalls); key != "" {
		conns := awskms.NewConnections()
		_, err := awskms.New(awskms.Options{Connections: conns, Timeout: 2 * time.Second}).Encrypt(context.Background(), awskms.Call{}, key, secret.Bytes("seed"))
		fmt.Fprintln(os.Stdout, err)
		os.Exit(0)
	}
	leaveMachine()
	goleak.VerifyTestMain(m)
}

// leaveMachine makes the SDK find the emulator's caller, and nothing of the machine
// that the tests run on, so that tests which need no other settings can be parallel.
func leaveMachine() {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			_ = os.Unsetenv(name)
		}
	}
	caller := kmstest.Credential()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": caller.AccessKeyID, "AWS_SECRET_ACCESS_KEY": caller.SecretAccessKey, "AWS_REGION": kmstest.Region,
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		_ = os.Setenv(name, value)
	}
}

func TestEndpointAndProxyFollowTheSDKsSettings(t *testing.T) {
	s, key := start(t)
	var mu sync.Mutex
	asked := map[string]bool{}
	proxy := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Method+" "+r.Host] = true
		w.WriteHeader(http.StatusForbidden)
	})
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"default":    {nil, "CONNECT kms.us-west-2.amazonaws.com:443"},
		"FIPS":       {[]string{"AWS_USE_FIPS_ENDPOINT=true"}, "CONNECT kms-fips.us-west-2.amazonaws.com:443"},
		"dual-stack": {[]string{"AWS_USE_DUALSTACK_ENDPOINT=true"}, "CONNECT kms.us-west-2.api.aws:443"},
		"China":      {[]string{"AWS_REGION=cn-north-1"}, "CONNECT kms.cn-north-1.amazonaws.com.cn:443"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(append(os.Environ(), s.Env()...), "AWS_ENDPOINT_URL_KMS=", "HTTPS_PROXY="+proxy, "NO_PROXY=", childCalls+"="+key)
		cmd.Env = append(cmd.Env, c.env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		mu.Lock()
		if !asked[c.want] {
			t.Errorf("%s: the proxy was asked for %v, want %s", name, asked, c.want)
		}
		clear(asked)
		mu.Unlock()
		if !strings.Contains(string(out), "KMS02") {
			t.Errorf("%s: a proxy that says no is %s; want an outage", name, out)
		}
	}
}

func TestCABundleIsTrusted(t *testing.T) {
	s := kmstest.StartTLS(t)
	s.SetEnv(t)
	if s.CAFile == "" {
		t.Fatal("the emulator has no certificate to trust")
	}
	_, err := newClient(t, awskms.Options{}).Encrypt(t.Context(), awskms.Call{}, "alias/none", secret.Bytes("seed"))
	if err == nil || !strings.Contains(err.Error(), "KMS0103") {
		t.Errorf("got %v, want KMS's own answer", err)
	}
}
