package awskms_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// newClient returns a client of the emulator with the environment's credentials.
func newClient(t *testing.T, o awskms.Options) *awskms.Client {
	t.Helper()
	if o.Connections == nil {
		o.Connections = awskms.NewConnections()
		t.Cleanup(o.Connections.Close)
	}
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	return awskms.New(o)
}

const (
	// patience is the limit of calls that must not fail because the machine is slow.
	patience = time.Minute
	// usualLimit is that of a process.
	usualLimit = 2500 * time.Millisecond
)

// startBeside is start for a test that is parallel: its Clients are given the endpoint.
func startBeside(t *testing.T) (*kmstest.Server, string) {
	t.Helper()
	t.Parallel()
	s := kmstest.Start(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

func start(t *testing.T) (*kmstest.Server, string) {
	t.Helper()
	s := kmstest.Start(t)
	s.SetEnv(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s, key
}

func mustSeal(t *testing.T, c *awskms.Client, key string) awskms.Sealed {
	t.Helper()
	sealed, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("a seed of thirty-two bytes, sure"))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestRoundTripTellsKeyAndRequest(t *testing.T) {
	s, key := start(t)
	if err := s.CreateAlias(kmstest.Region, "alias/a", key); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, awskms.Options{EncryptionContext: map[string]string{"cluster": "a"}})
	for _, name := range []string{key, "alias/a"} {
		sealed := mustSeal(t, c, name)
		opened, err := c.Decrypt(t.Context(), awskms.Call{}, name, sealed.Blob)
		if err != nil || !bytes.Equal(opened.Plaintext, []byte("a seed of thirty-two bytes, sure")) {
			t.Fatalf("Decrypt with %s: %v", name, err)
		}
		if opened.Material == "" || opened.Material != s.CurrentMaterial(key) {
			t.Errorf("with %s: material %q, want %q", name, opened.Material, s.CurrentMaterial(key))
		}
		if string(sealed.KeyARN) != key || string(opened.KeyARN) != key || sealed.RequestID == "" || opened.RequestID == "" {
			t.Errorf("with %s: key %q and %q, request %q and %q; want %s and two ids", name, sealed.KeyARN, opened.KeyARN, sealed.RequestID, opened.RequestID, key)
		}
	}
	other := newClient(t, awskms.Options{EncryptionContext: map[string]string{"cluster": "b"}})
	if _, err := other.Decrypt(t.Context(), awskms.Call{}, key, mustSeal(t, c, key).Blob); cause.Of(err).Code != cause.CiphertextInvalid {
		t.Errorf("with another context: %v, want %s", err, cause.CiphertextInvalid)
	}
}

// Each error is made by the emulator as KMS makes it.
func TestEveryErrorHasItsCause(t *testing.T) {
	s, key := startBeside(t)
	c := newClient(t, awskms.Options{Endpoint: s.URL, Timeout: usualLimit})
	answer := func(status int, code, message string) kmsemulator.Fault {
		return kmsemulator.Fault{Kind: kmsemulator.Error, Code: code, Message: message, Status: status}
	}
	kind := func(k kmsemulator.FaultKind) kmsemulator.Fault { return kmsemulator.Fault{Kind: k} }
	const arn = "arn:aws:kms:us-west-2:111122223333:key/x"
	for name, tt := range map[string]struct {
		fault kmsemulator.Fault
		want  cause.Code
	}{
		"disabled":                    {answer(400, "DisabledException", arn+" is disabled."), cause.KeyDisabled},
		"not found":                   {answer(400, "NotFoundException", "Key '"+arn+"' does not exist"), cause.KeyNotFound},
		"invalid arn":                 {answer(400, "InvalidArnException", "no"), cause.KeyNotFound},
		"denied":                      {answer(400, "AccessDeniedException", "User: x is not authorized"), cause.AccessDenied},
		"grant token":                 {answer(400, "InvalidGrantTokenException", ""), cause.GrantRefused},
		"key usage":                   {answer(400, "InvalidKeyUsageException", ""), cause.KeyUsage},
		"state disabled":              {answer(400, "KMSInvalidStateException", arn+" is disabled."), cause.KeyDisabled},
		"state pending deletion":      {answer(400, "KMSInvalidStateException", arn+" is pending deletion."), cause.KeyPendingDeletion},
		"state pending import":        {answer(400, "KMSInvalidStateException", arn+" is pending import."), cause.KeyPendingImport},
		"state creating":              {answer(400, "KMSInvalidStateException", arn+" is creating."), cause.KeyUnavailable},
		"external key store":          {answer(400, "KMSInvalidStateException", "AWS KMS cannot communicate with the external key store proxy."), cause.KeyUnavailable},
		"unavailable":                 {answer(500, "KeyUnavailableException", ""), cause.KeyUnavailable},
		"dependency":                  {answer(500, "DependencyTimeoutException", ""), cause.KeyUnavailable},
		"throttled":                   {kind(kmsemulator.Throttle), cause.Throttled},
		"throttled by another name":   {answer(400, "RequestLimitExceeded", ""), cause.Throttled},
		"limit exceeded":              {answer(400, "LimitExceededException", ""), cause.Throttled},
		"internal":                    {kind(kmsemulator.Internal), cause.KMSInternal},
		"503 without JSON":            {kind(kmsemulator.Unavailable), cause.KMSInternal},
		"unknown 500":                 {answer(500, "SomethingNew", ""), cause.KMSInternal},
		"garbage":                     {kind(kmsemulator.Garbage), cause.NotKMS},
		"reset":                       {kind(kmsemulator.Reset), cause.Unreachable},
		"hang":                        {kind(kmsemulator.Hang), cause.TimedOut},
		"expired token":               {kind(kmsemulator.ExpiredToken), cause.CredentialsExpired},
		"unrecognized client":         {answer(400, "UnrecognizedClientException", "The security token included in the request is invalid."), cause.CredentialsRefused},
		"invalid client token":        {answer(403, "InvalidClientTokenId", ""), cause.CredentialsRefused},
		"invalid signature":           {answer(400, "InvalidSignatureException", "The request signature we calculated does not match\nx-amz-security-token:hidden"), cause.SignatureRefused},
		"invalid ciphertext":          {answer(400, "InvalidCiphertextException", ""), cause.CiphertextInvalid},
		"incorrect key":               {answer(400, "IncorrectKeyException", ""), cause.NoKeyMadeIt},
		"an error of another century": {answer(400, "QuantumException", "what"), cause.Unforeseen},
	} {
		remove := s.Inject(tt.fault)
		_, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed-plaintext"))
		remove()
		e := cause.Of(err)
		if e.Code != tt.want {
			t.Errorf("%s: %v; want %s", name, err, tt.want)
		}
		if e.Op != "Encrypt" || e.Key != key {
			t.Errorf("%s: operation %q, key %q; want Encrypt and %s", name, e.Op, e.Key, key)
		}
		if e.AWSCode == "" != (tt.fault.Code == "" && tt.fault.Kind != kmsemulator.Throttle && tt.fault.Kind != kmsemulator.Internal && tt.fault.Kind != kmsemulator.ExpiredToken) {
			t.Errorf("%s: AWS code %q", name, e.AWSCode)
		}
		for _, secretWord := range []string{"seed-plaintext", "hidden", s.Credential.SecretAccessKey} {
			if strings.Contains(err.Error(), secretWord) {
				t.Errorf("%s: the text shows %q: %v", name, secretWord, err)
			}
		}
	}
}

func TestRefusalNamesWhoNeedsWhat(t *testing.T) {
	s, key := start(t)
	s.Deny(key, "Encrypt")
	_, err := newClient(t, awskms.Options{}).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	e := cause.Of(err)
	if e.Code != cause.AccessDenied || !strings.HasPrefix(e.Principal, "arn:aws:") || e.Action != "kms:Encrypt" || e.RequestID == "" {
		t.Fatalf("code %s, principal %q, action %q, request %q", e.Code, e.Principal, e.Action, e.RequestID)
	}
	if want := "grant kms:Encrypt on " + key + " to " + e.Principal; !strings.Contains(err.Error(), want) {
		t.Errorf("%v: want %q in it", err, want)
	}
}

func TestNetworkFailuresHaveTheirCause(t *testing.T) {
	_, key := start(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	plain := kmstest.Start(t)
	for name, tt := range map[string]struct {
		endpoint string
		want     cause.Code
	}{
		"nobody listens":  {"http://" + closed.Addr().String(), cause.Unreachable},
		"no such name":    {"http://kms.invalid", cause.NameResolution},
		"no TLS spoken":   {strings.Replace(plain.URL, "http:", "https:", 1), cause.TLSFailed},
		"not trusted":     {kmstest.StartTLS(t).URL, cause.TLSFailed},
		"some web server": {serveText(t, "<html>hello</html>"), cause.NotKMS},
	} {
		c := newClient(t, awskms.Options{Endpoint: tt.endpoint})
		if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != tt.want {
			t.Errorf("%s: %v; want %s", name, err, tt.want)
		}
	}
}

func serveText(t *testing.T, text string) string {
	t.Helper()
	return serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
}

func serveFunc(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	return serve(t, &http.Server{ReadHeaderTimeout: time.Second, Handler: f})
}

func serve(t *testing.T, server *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return "http://" + l.Addr().String()
}

func TestCallTakesTheCallersTimeLessTheReply(t *testing.T) {
	s, key := startBeside(t)
	c := newClient(t, awskms.Options{Endpoint: s.URL, Timeout: usualLimit})
	mustSeal(t, c, key)
	defer s.Inject(kmsemulator.Fault{Operation: "Encrypt", Kind: kmsemulator.Hang})()
	for name, tt := range map[string]struct {
		deadline, least time.Duration
		want            cause.Code
	}{
		"of an API server":        {3 * time.Second, 2400 * time.Millisecond, cause.TimedOut},
		"of a patient caller":     {35 * time.Second, 2400 * time.Millisecond, cause.TimedOut},
		"just fair":               {1400 * time.Millisecond, time.Second, cause.TimedOut},
		"too short to blame KMS":  {800 * time.Millisecond, 400 * time.Millisecond, cause.TooLittleTime},
		"too short to even begin": {200 * time.Millisecond, 0, cause.TooLittleTime},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
		began := time.Now()
		_, err := c.Encrypt(ctx, awskms.Call{}, key, secret.Bytes("seed"))
		took := time.Since(began)
		left := ctx.Err() == nil
		cancel()
		if cause.Of(err).Code != tt.want || !left || took < tt.least {
			t.Errorf("%s: %v after %v (caller still there: %v); want %s after %v or more, and the caller there", name, err, took, left, tt.want, tt.least)
		}
	}
}

func TestLimitOfCallsToComeCanBeChanged(t *testing.T) {
	s, key := start(t)
	c := newClient(t, awskms.Options{Timeout: 10 * time.Minute})
	mustSeal(t, c, key)
	defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})()
	c.SetTimeout(100 * time.Millisecond)
	began := time.Now()
	if _, err := c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.TimedOut || time.Since(began) > time.Minute {
		t.Errorf("%v after %s, want %s after 100ms", err, time.Since(began), cause.TimedOut)
	}
}

func TestCallerWhoLeavesIsNoFailureOfKMS(t *testing.T) {
	s, key := start(t)
	c := newClient(t, awskms.Options{})
	defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := c.Encrypt(ctx, awskms.Call{}, key, secret.Bytes("seed")); cause.Of(err).Code != cause.CallerLeft {
		t.Errorf("got %v, want %s", err, cause.CallerLeft)
	}
}

func TestRegionComesFromTheFirstThatKnowsIt(t *testing.T) {
	s := kmstest.Start(t)
	s.SetEnv(t)
	imds := s.StartIMDS(t)
	keys := map[string]string{}
	for _, region := range []string{"us-west-2", "eu-central-1", "us-east-1"} {
		arn, err := s.CreateKey(region, kmsemulator.KeyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		keys[region] = arn
	}
	t.Run("flag over environment", func(t *testing.T) {
		mustSeal(t, newClient(t, awskms.Options{Region: "eu-central-1"}), keys["eu-central-1"])
	})
	t.Run("environment", func(t *testing.T) {
		t.Setenv("AWS_REGION", "us-east-1")
		mustSeal(t, newClient(t, awskms.Options{}), keys["us-east-1"])
	})
	t.Run("instance metadata last", func(t *testing.T) {
		t.Setenv("AWS_REGION", "")
		t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds)
		mustSeal(t, newClient(t, awskms.Options{}), keys["us-west-2"])
	})
	t.Run("nobody, then somebody", func(t *testing.T) {
		t.Setenv("AWS_REGION", "")
		c := newClient(t, awskms.Options{})
		_, err := c.Encrypt(t.Context(), awskms.Call{}, keys["us-west-2"], secret.Bytes("seed"))
		if cause.Of(err).Code != cause.RegionUnknown || !strings.Contains(err.Error(), "give the setting region") {
			t.Errorf("got %v, want %s", err, cause.RegionUnknown)
		}
	})
}

func TestConfusedDeputyHeadersAreSentAndSigned(t *testing.T) {
	_, key := start(t)
	var mu sync.Mutex
	var got http.Header
	seen := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPost {
			got = r.Header.Clone()
		}
		w.WriteHeader(http.StatusBadRequest)
	})
	c := newClient(t, awskms.Options{Endpoint: seen, SourceARN: "arn:aws:eks:us-west-2:444455556666:cluster/c", UserAgent: "v1.2.3"})
	_, _ = c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	mu.Lock()
	defer mu.Unlock()
	if got.Get("X-Amz-Source-Arn") != "arn:aws:eks:us-west-2:444455556666:cluster/c" || got.Get("X-Amz-Source-Account") != "444455556666" {
		t.Errorf("headers %q and %q", got.Get("X-Amz-Source-Arn"), got.Get("X-Amz-Source-Account"))
	}
	if auth := got.Get("Authorization"); !strings.Contains(auth, "x-amz-source-account") || !strings.Contains(auth, "x-amz-source-arn") {
		t.Errorf("the headers are not signed: %s", auth)
	}
	if agent := got.Get("User-Agent"); !strings.Contains(agent, "aws-encryption-provider/v1.2.3") {
		t.Errorf("user agent %q", agent)
	}
	if got.Get("Idempotency-Key") != "" {
		t.Error("the Idempotency-Key, which is for net/http only, was sent")
	}
}

func TestObserverHearsEveryCallOnce(t *testing.T) {
	s, key := start(t)
	var heard []string
	c := newClient(t, awskms.Options{Observe: func(op string, class cause.Class, took time.Duration) {
		heard = append(heard, op+" "+string(class))
		if took <= 0 {
			t.Errorf("%s took %v", op, took)
		}
	}})
	sealed := mustSeal(t, c, key)
	_, _ = c.Decrypt(t.Context(), awskms.Call{}, key, sealed.Blob[:20])
	remove := s.Inject(kmsemulator.Fault{Kind: kmsemulator.Internal})
	_, _ = c.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
	remove()
	if got, want := strings.Join(heard, ","), "Encrypt ,Decrypt bad_data,Encrypt outage"; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// The SDK's own share is about 360, the emulator's about 100.
func TestCallAllocatesLittleBesideTheSDK(t *testing.T) {
	_, key := start(t)
	c := newClient(t, awskms.Options{})
	mustSeal(t, c, key)
	if n := testing.AllocsPerRun(50, func() { mustSeal(t, c, key) }); n > 1000 {
		t.Errorf("a call allocates %v times, emulator included, want at most 1,000", n)
	}
}

// A failure is remembered, in health and with bad ciphertexts: it must not keep
// the request alive, with its plaintext and context.
func TestErrorsKeepNothingOfTheRequest(t *testing.T) {
	s, key := start(t)
	defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Error, Code: "InvalidCiphertextException", Message: strings.Repeat("m", 100_000)})()
	_, err := newClient(t, awskms.Options{}).Decrypt(t.Context(), awskms.Call{}, key, []byte{1, 2, 3})
	e := cause.Of(err)
	if e.Err != nil || len(e.Said) > 2000 {
		t.Errorf("keeps %v and %d bytes of text", e.Err, len(e.Said))
	}
}

func TestShareLeavesTimeForOtherKeys(t *testing.T) {
	s, key := start(t)
	c := newClient(t, awskms.Options{Timeout: 10 * time.Minute})
	mustSeal(t, c, key)
	defer s.Inject(kmsemulator.Fault{Operation: "Decrypt", Kind: kmsemulator.Hang})()
	began := time.Now()
	_, err := c.Decrypt(t.Context(), awskms.Call{Share: 1000}, key, []byte{1, 2, 3})
	if took := time.Since(began); cause.Of(err).Code != cause.TimedOut || took > time.Minute {
		t.Errorf("got %v after %v, want KMS's own time-out after a thousandth of ten minutes", err, took)
	}
}

// A short --kms-timeout is the operator's choice, not a caller in a hurry.
func TestShortTimeoutStillBlamesKMS(t *testing.T) {
	s, key := start(t)
	defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Hang})()
	for _, timeout := range []time.Duration{300 * time.Millisecond, time.Second} {
		c := newClient(t, awskms.Options{Timeout: timeout})
		_, err := c.Encrypt(t.Context(), awskms.Within(timeout), key, secret.Bytes("seed"))
		if cause.Of(err).Code != cause.TimedOut {
			t.Errorf("with %v: %v, want %s", timeout, err, cause.TimedOut)
		}
	}
}
