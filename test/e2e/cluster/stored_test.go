package cluster

import (
	"reflect"
	"testing"
)

func TestParseStored(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		raw  string
		want Stored
	}{
		"v1": {
			raw:  "k8s:enc:kms:v1:aws:\x00\x04wrapsealed",
			want: Stored{Version: "v1", Provider: "aws", WrappedKey: []byte("wrap"), Sealed: []byte("sealed")},
		},
		"v2": {
			// EncryptedObject: sealed, key_id, wrapped, one annotation, a type.
			raw: "k8s:enc:kms:v2:aws:\x0a\x06sealed\x12\x03arn\x1a\x04wrap\x22\x08\x0a\x03a.b\x12\x01c\x28\x01",
			want: Stored{
				Version: "v2", Provider: "aws", KeyID: "arn", WrappedKey: []byte("wrap"),
				Annotations: map[string]string{"a.b": "c"}, Sealed: []byte("sealed"),
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := ParseStored([]byte(c.raw)); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("ParseStored(%q) is %+v, %v; want %+v", c.raw, got, err, c.want)
			}
		})
	}
}

// TestParseStoredRefuses: what no KMS provider wrote, or what is cut short, is
// never taken for a stored value.
func TestParseStoredRefuses(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		"",
		"k8s\x00\x0a\x0c\x0a\x02v1\x12\x06Secret", // in the clear
		"k8s:enc:aescbc:v1:key1:xyz",
		"k8s:enc:kms:v2:no-end-of-the-name",
		"k8s:enc:kms:v3:aws:xyz",
		"k8s:enc:kms:v1:aws:\x00",
		"k8s:enc:kms:v1:aws:\x00\x05wrap",
		"k8s:enc:kms:v2:aws:\x0a\x06seal",
	} {
		if got, err := ParseStored([]byte(raw)); err == nil {
			t.Errorf("ParseStored(%q) is %+v, want an error", raw, got)
		}
	}
}
