package e2e

import (
	"bytes"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// versions are the two APIs that a provider can be configured for, and where
// the API server shows how it is doing.
func versions() []apiVersion {
	return []apiVersion{
		{"v1", cluster.KMSv1Check},
		{"v2", cluster.KMSCheck},
	}
}

type apiVersion struct{ version, check string }

// TestStoresOnlyCiphertext: with the seed's EncryptionConfiguration and its v2
// form, secrets are written and read back, and etcd holds them only encrypted.
func TestStoresOnlyCiphertext(t *testing.T) {
	t.Parallel()
	for _, v := range versions() {
		t.Run(v.version, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			provider := cluster.Provider{Name: "aws-encryption-provider", Version: v.version, Socket: s.socket("socket.sock")}
			key := s.key()
			s.plugin(key, provider.Socket)
			a := s.apiServer(false, provider)

			book := ledger{}
			s.write(a, book, "secret", 10)
			s.readsAll(a, book)
			s.storedUnder(book, provider)
			s.check(a, v.check)

			values, err := s.etcd.Values(t.Context(), cluster.SecretKey(""))
			s.must(err)
			prefix := []byte("k8s:enc:kms:" + v.version + ":aws-encryption-provider:")
			for key, raw := range values {
				if !bytes.HasPrefix(raw, prefix) {
					t.Errorf("value of %s begins with %.40q, want %q", key, raw, prefix)
				}
			}
			for name, got := range s.stored(t.Context(), book) {
				if len(got.WrappedKey) == 0 || got.WrappedKey[0] != '1' {
					t.Errorf("DEK of %s begins with %.1q, want the direct format's 1", name, got.WrappedKey)
				}
				if want := s.keyID(key); v.version == "v2" && got.KeyID != want {
					t.Errorf("key_id of %s is %q, want the key's ARN and material %s", name, got.KeyID, want)
				}
			}

			// The search for plaintext finds what lies in etcd in the clear.
			const open = "a-value-that-nobody-encrypts"
			s.must(a.CreateConfigMap(t.Context(), "open", open))
			if values, err = s.etcd.Values(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if keys := keysWith(values, open); len(keys) != 1 {
				t.Errorf("a config map's text is found under %v, want one key", keys)
			}
		})
	}
}

// TestLosesNothing: after a cold start of everything, and after SIGKILLs of the
// plugin amid 16 writers, whatever was acknowledged reads back.
func TestLosesNothing(t *testing.T) {
	t.Parallel()
	for _, v := range versions() {
		t.Run(v.version, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			provider := cluster.Provider{Name: "aws-encryption-provider", Version: v.version, Socket: s.socket("socket.sock")}
			plugin := s.plugin(s.key(), provider.Socket)
			a := s.apiServer(false, provider)
			book := ledger{}
			s.write(a, book, "before", 50)

			coldStart := func() {
				t.Helper()
				s.must(a.Kill())
				s.must(plugin.Kill())
				s.must(s.etcd.Kill())
				s.must(s.etcd.Start(t.Context()))
				s.must(plugin.Start(t.Context()))
				s.must(a.Start(t.Context()))
				s.readsAll(a, book)
			}
			coldStart()

			w := startWriters(t.Context(), s, a, 16, 50*time.Millisecond)
			for kill := range 3 {
				w.waitFor(30) // so that each kill falls amid writes
				t.Logf("kill %d of pid %d after %d writes", kill+1, plugin.PID(), w.acknowledged())
				s.must(plugin.Kill())
				s.must(plugin.Start(t.Context()))
			}
			w.waitFor(30)
			w.stop(book)
			s.readsAll(a, book)
			coldStart()
			s.storedUnder(book, provider)
		})
	}
}
