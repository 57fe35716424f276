package awskms_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/seal"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

// An answer that is not to the call is KMS's where it has a request id. What is
// without one comes from something else, which the text says, with the status.
func TestWrongAnswersAreNotTaken(t *testing.T) {
	_, key := start(t)
	for name, c := range map[string]struct {
		status int
		body   string
		told   string // of HTTP, where it is not KMS's
	}{
		"no content":            {http.StatusNoContent, "", "HTTP status 204 No Content"},
		"nothing":               {http.StatusOK, "", "HTTP status 200 OK"},
		"empty JSON":            {http.StatusOK, `{}`, "HTTP status 200 OK"},
		"accepted":              {http.StatusAccepted, `{}`, "HTTP status 202 Accepted"},
		"no blob, no plaintext": {http.StatusOK, `{"KeyId":"` + key + `"}`, "HTTP status 200 OK"},
		"another key":           {http.StatusOK, `{"CiphertextBlob":"AQID","Plaintext":"AQID","KeyId":"arn:aws:kms:us-west-2:111122223333:key/other"}`, "HTTP status 200 OK"},
		"no key":                {http.StatusOK, `{"CiphertextBlob":"AQID","Plaintext":"AQID"}`, "HTTP status 200 OK"},
	} {
		for id, want := range map[string]cause.Code{"9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01": cause.WrongAnswer, "": cause.NotKMS, "not an id of AWS": cause.NotKMS} {
			client := newClient(t, awskms.Options{Endpoint: serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Amzn-Requestid", id)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})})
			_, sealErr := client.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
			_, openErr := client.Decrypt(t.Context(), awskms.Call{}, key, []byte{1, 2})
			_, describeErr := client.DescribeKey(t.Context(), key)
			_, rotationErr := client.KeyRotation(t.Context(), key)
			for op, err := range map[string]error{
				"Encrypt": sealErr, "Decrypt": openErr, "DescribeKey": describeErr, "GetKeyRotationStatus": rotationErr,
				"Encrypt, dry": client.MayEncrypt(t.Context(), key, secret.Bytes("seed")), "Decrypt, dry": client.MayDecrypt(t.Context(), key, []byte{1}),
			} {
				if want == cause.WrongAnswer && (strings.HasSuffix(op, "dry") || op == "GetKeyRotationStatus") {
					continue // what such an answer says is the business of others
				}
				if e := cause.Of(err); e.Code != want || e.RequestID != "" != (want == cause.WrongAnswer) {
					t.Errorf("%s, request id %q, %s: %v, want %s", name, id, op, err, want)
				}
				if want == cause.NotKMS && !strings.Contains(fmt.Sprint(err), c.told) {
					t.Errorf("%s, %s: %v, want %q in it", name, op, err, c.told)
				}
			}
		}
	}
}

// What is not KMS is told with its status.
func TestAnswersOfStrangersAreToldWithTheirStatus(t *testing.T) {
	_, key := start(t)
	for name, c := range map[string]struct {
		status     int
		kind, body string
		want       cause.Code
		words      []string
	}{
		"page":                {200, "text/html", "<html>please log in</html>", cause.NotKMS, []string{"HTTP status 200 OK"}},
		"redirect":            {302, "text/html", "<html>moved</html>", cause.NotKMS, []string{"HTTP status 302 Found"}},
		"page, not found":     {404, "text/html", "<html>no</html>", cause.NotKMS, []string{"HTTP status 404 Not Found"}},
		"gateway":             {403, "application/json", `{"message":"Forbidden"}`, cause.NotKMS, []string{"HTTP status 403 Forbidden: Forbidden"}},
		"nothing":             {400, "", "", cause.NotKMS, []string{"HTTP status 400 Bad Request"}},
		"error of no service": {400, "application/json", `{"__type":"Odd","message":"what"}`, cause.NotKMS, []string{"HTTP status 400 Bad Request: Odd: what"}},
		"too long":            {200, "application/json", strings.Repeat(" ", 256<<10+1), cause.NotKMS, []string{"HTTP status 200 OK with more than 262144 bytes"}},
		"too many, plain":     {429, "text/plain", "slow down", cause.Throttled, []string{"HTTP status 429 Too Many Requests", "a proxy or gateway in between may have given it"}},
		"too many, a page":    {429, "text/html", "<html>slow down</html>", cause.Throttled, []string{"a proxy or gateway in between may have given it"}},
		"too many, nothing":   {429, "", "", cause.Throttled, []string{"a proxy or gateway in between may have given it"}},
		"too many, JSON":      {429, "application/json", `{"message":"slow down"}`, cause.Throttled, []string{"slow down", "a proxy or gateway in between may have given it"}},
		"page, not available": {503, "text/html", "<html>sorry</html>", cause.KMSInternal, nil},
	} {
		client := newClient(t, awskms.Options{Endpoint: serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", c.kind)
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})})
		_, err := client.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		e := cause.Of(err)
		if e.Code != c.want || e.Class() != cause.Outage {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		for _, words := range c.words {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v, want %q in it", name, err, words)
			}
		}
	}
	s, _ := start(t)
	defer s.Inject(kmsemulator.Fault{Kind: kmsemulator.Throttle})()
	if _, err := newClient(t, awskms.Options{}).Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed")); strings.Contains(err.Error(), "in between") {
		t.Errorf("%v, want KMS's own throttling told as such", err)
	}
}

// It becomes part of a key_id: what could not stand there counts as none, and
// the plaintext is answered all the same.
func TestMaterialIsTakenOnlyWhereItIsOne(t *testing.T) {
	_, key := start(t)
	long := strings.Repeat("a", 128)
	for name, c := range map[string]struct{ member, want string }{
		"of KMS":              {`,"KeyMaterialId":"0123456789abcdef"`, "0123456789abcdef"},
		"of another emulator": {`,"KeyMaterialId":"Key_1-B"`, "Key_1-B"},
		"none":                {"", ""},
		"null":                {`,"KeyMaterialId":null`, ""},
		"empty":               {`,"KeyMaterialId":""`, ""},
		"as long as may be":   {`,"KeyMaterialId":"` + long + `"`, long},
		"too long":            {`,"KeyMaterialId":"` + long + `a"`, ""},
		"a parameter more":    {`,"KeyMaterialId":"a&epoch=9"`, ""},
		"a line":              {`,"KeyMaterialId":"a\n"`, ""},
		"another alphabet":    {`,"KeyMaterialId":"\u0430"`, ""},
	} {
		body := `{"Plaintext":"AQID","KeyId":"` + key + `"` + c.member + `}`
		opened, err := newClient(t, awskms.Options{Endpoint: serveText(t, body)}).Decrypt(t.Context(), awskms.Call{}, key, []byte{1, 2})
		if err != nil || opened.Material != c.want || len(opened.Plaintext) != 3 {
			t.Errorf("%s: material %q, %d bytes, %v; want %q and 3 bytes", name, opened.Material, len(opened.Plaintext), err, c.want)
		}
	}
}

// What a proxy puts into an answer goes no further than its words are AWS's.
func TestForeignRequestIDsAreLeftOut(t *testing.T) {
	_, key := start(t)
	for name, c := range map[string]struct{ id, want string }{
		"of AWS":      {"9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01", "9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01"},
		"long":        {strings.Repeat("a", 100_000), ""},
		"one more":    {"9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e011", ""},
		"with spaces": {"9b1fb7a6 44c2", ""},
		"not ASCII":   {"9b1fb7a6\xff\xfe", ""},
	} {
		for _, code := range []int{http.StatusOK, http.StatusBadRequest} {
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Amzn-Requestid", c.id)
				w.WriteHeader(code)
				if code != http.StatusOK {
					_, _ = w.Write([]byte(`{"__type":"DisabledException","message":"m"}`))
					return
				}
				_, _ = w.Write([]byte(`{"CiphertextBlob":"AQID","Plaintext":"AQID","KeyId":"` + key + `"}`))
			}))
			client := newClient(t, awskms.Options{Endpoint: proxy.URL})
			sealed, err := client.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
			opened, openErr := client.Decrypt(t.Context(), awskms.Call{}, key, []byte{1})
			got := []string{sealed.RequestID, opened.RequestID}
			if code != http.StatusOK {
				got = []string{cause.Of(err).RequestID, cause.Of(openErr).RequestID}
			}
			for _, id := range got {
				if id != c.want {
					t.Errorf("%s, status %d: request id %.60q, want %q (%v)", name, code, id, c.want, err)
				}
			}
			proxy.Close()
		}
	}
}

// TestABlobIsTakenIfItCanBeRead: seal and awskms each have KMS's limit, since neither
// imports the other.
func TestABlobIsTakenIfItCanBeRead(t *testing.T) {
	_, key := start(t)
	for _, size := range []int{1, seal.MaxBlob, seal.MaxBlob + 1} {
		blob := make([]byte, size)
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amzn-Requestid", "9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01")
			_, _ = fmt.Fprintf(w, `{"CiphertextBlob":%q,"KeyId":%q}`, base64.StdEncoding.EncodeToString(blob), key)
		}))
		client := newClient(t, awskms.Options{Endpoint: proxy.URL})
		_, err := client.Encrypt(t.Context(), awskms.Call{}, key, secret.Bytes("seed"))
		_, unread := seal.Parse(seal.Append(nil, blob), false)
		if (err == nil) != (unread == nil) || (unread == nil) != (size <= seal.MaxBlob) {
			t.Errorf("a blob of %d bytes: Encrypt says %v, and its reader %v", size, err, unread)
		}
		proxy.Close()
	}
}

func TestForeignNamesOfKeysAreNotTaken(t *testing.T) {
	_, key := start(t)
	for name, body := range map[string]string{
		"no key's name": `{"CiphertextBlob":"AQID","Plaintext":"AQID","KeyId":"x y\nz"}`,
		"long":          `{"CiphertextBlob":"AQID","Plaintext":"AQID","KeyId":"` + key + strings.Repeat("a", 100_000) + `"}`,
		"long blob":     `{"CiphertextBlob":"` + strings.Repeat("AQID", 2049) + `","Plaintext":"AQID","KeyId":"` + key + `"}`,
	} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amzn-Requestid", "9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01")
			_, _ = w.Write([]byte(body))
		}))
		client := newClient(t, awskms.Options{Endpoint: proxy.URL})
		if _, err := client.Encrypt(t.Context(), awskms.Call{}, "alias/a", secret.Bytes("seed")); err == nil || cause.Of(err).Code != cause.WrongAnswer {
			t.Errorf("%s: Encrypt: %v, want %s", name, err, cause.WrongAnswer)
		}
		if name != "long blob" {
			if _, err := client.Decrypt(t.Context(), awskms.Call{}, "alias/a", []byte{1}); err == nil || cause.Of(err).Code != cause.WrongAnswer {
				t.Errorf("%s: Decrypt: %v, want %s", name, err, cause.WrongAnswer)
			}
		}
		proxy.Close()
	}
}
