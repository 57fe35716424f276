package doctor_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

// asked takes down which operations KMS is asked for with a key.
type asked struct {
	mu         sync.Mutex
	operations []string
}

func (a *asked) of(op string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.operations, op)
}

// watch stands before KMS and takes down what it is asked about a key.
func (n *node) watch(key string) *asked {
	n.t.Helper()
	a := &asked{}
	inner := n.kms.Server().Handler
	n.respond(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var in struct {
			KeyID string `json:"KeyId"`
		}
		if json.Unmarshal(body, &in) == nil && in.KeyID == key {
			a.mu.Lock()
			a.operations = append(a.operations, strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService."))
			a.mu.Unlock()
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		inner.ServeHTTP(answer, r)
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
	return a
}

// A key that only reads is asked about without a ciphertext, and told with what that
// proves. It is never encrypted with.
func TestKeyThatOnlyReadsIsAskedByADryRun(t *testing.T) {
	const by = "DryRun without a ciphertext (IGNORE_CIPHERTEXT)"
	for name, c := range map[string]struct {
		blind bool
		plant func(n *node, old string)
		codes []string
		says  []string
	}{
		"well": {plant: func(*node, string) {}, says: []string{
			": Decrypt is authorised, by a " + by + ", and DescribeKey says that the key is enabled\n",
		}},
		"it may not be encrypted with": {plant: func(n *node, old string) { n.kms.Deny(old, "Encrypt") }, says: []string{": Decrypt is authorised, by a "}},
		"it may not be described": {plant: func(n *node, old string) { n.kms.Deny(old, "DescribeKey") }, says: []string{
			": Decrypt is authorised; its state not proven: a " + by + " looks at permissions alone\n", "not described, since kms:DescribeKey is not allowed",
		}},
		"it may not decrypt": {plant: func(n *node, old string) { n.kms.Deny(old, "Decrypt") }, codes: []string{"KMS0104"}, says: []string{"Decrypt fails, by DryRun"}},
		"it is disabled":     {plant: func(n *node, old string) { n.must(nil, n.kms.DisableKey(old)) }, codes: []string{"KMS0101"}, says: []string{"not checked, because of KMS0101"}},
		"it is disabled, and DryRun does not see it": {blind: true, plant: func(n *node, old string) { n.must(nil, n.kms.DisableKey(old)) }, codes: []string{"KMS0101"}, says: []string{
			"not checked, because of KMS0101",
		}},
		"it is disabled, and nobody sees it": {blind: true, plant: func(n *node, old string) {
			n.must(nil, n.kms.DisableKey(old))
			n.kms.Deny(old, "DescribeKey")
		}, says: []string{"authorised; its state not proven"}},
		"a KMS that does not know the request": {plant: func(n *node, old string) {
			n.kms.Inject(kmsemulator.Fault{Operation: "Decrypt", Key: old, Kind: kmsemulator.Error, Code: "ValidationException", Message: "no"})
		}, says: []string{"whether it may decrypt is not known, since this KMS does not take a " + by}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t, kmsemulator.Options{BlindDryRun: c.blind}))
			old := n.createKey(kmsemulator.KeyOptions{})
			c.plant(n, old)
			n.flags = []string{"--decrypt-key=" + old}
			a := n.watch(old)
			n.finds(c.codes, c.says)
			if a.of("Encrypt") || !a.of("Decrypt") {
				t.Errorf("KMS is asked for %q", a.operations)
			}
		})
	}
}
