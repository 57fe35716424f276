package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

func TestBytesNeverPrintThemselves(t *testing.T) {
	t.Parallel()
	key := secret.Bytes("very-secret-seed")
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "key", key, "nested", struct{ K secret.Bytes }{key})
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "key", key, "nested", struct{ K secret.Bytes }{key})
	asJSON, err := json.Marshal(map[string]any{"key": key, "nested": struct{ K secret.Bytes }{key}})
	if err != nil {
		t.Fatal(err)
	}
	prints := map[string]string{"slog": logged.String(), "json": string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		prints[verb] = fmt.Sprintf(verb, key)
		prints["nested "+verb] = fmt.Sprintf(verb, struct{ K secret.Bytes }{key})
	}
	for how, text := range prints {
		if !strings.Contains(text, "REDACTED") {
			t.Errorf("%s printed %q, want REDACTED in it", how, text)
		}
		for _, leak := range []string{"very-secret", fmt.Sprintf("%x", "very-secret"), "118 101"} {
			if strings.Contains(strings.ToLower(text), leak) {
				t.Errorf("%s leaks the secret: %q", how, text)
			}
		}
	}
}

func TestClearOverwritesTheBytes(t *testing.T) {
	t.Parallel()
	raw := []byte("seed")
	secret.Bytes(raw).Clear()
	if !bytes.Equal(raw, make([]byte, 4)) {
		t.Errorf("after Clear: %v, want zeros", raw)
	}
}
