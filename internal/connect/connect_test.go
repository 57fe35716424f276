package connect_test

import (
	"fmt"
	"reflect"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/connect"
)

// Each setting of a key reaches the calls, also one that is added later.
func TestEachSettingOfAKeyReachesItsCalls(t *testing.T) {
	t.Parallel()
	fields := reflect.TypeFor[config.Key]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		if name == "Key" { // KMS is told it in each call
			continue
		}
		var k config.Key
		switch f := reflect.ValueOf(&k).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("set")
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]string{"a": "b"}))
		default:
			t.Fatalf("how is %s set?", name)
		}
		if called(config.Provider{}, k) == called(config.Provider{}, config.Key{}) {
			t.Errorf("%s has no effect", name)
		}
	}
	if called(config.Provider{Retry: config.Retry{Tokens: 7}}, config.Key{}) == called(config.Provider{}, config.Key{}) {
		t.Error("Retry has no effect")
	}
}

func called(p config.Provider, k config.Key) string { return fmt.Sprintf("%#v", connect.Options(p, k)) }
