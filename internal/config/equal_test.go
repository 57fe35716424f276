package config_test

import (
	"fmt"
	"reflect"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

// eachChanged calls f with copies of v that differ from it in one field each, so
// that a field that is added later is not forgotten.
func eachChanged[T any](t *testing.T, v T, f func(field string, changed T)) {
	t.Helper()
	for i := range reflect.TypeFor[T]().NumField() {
		changed := v
		field := reflect.ValueOf(&changed).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString(field.String() + "x")
		case reflect.Uint32:
			field.SetUint(field.Uint() + 1)
		case reflect.Map:
			field.Set(reflect.ValueOf(map[string]string{"other": "context"}))
		case reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), field.Len()+1, field.Len()+1))
		case reflect.Struct:
			field.Field(0).SetUint(field.Field(0).Uint() + 1)
		default:
			t.Fatalf("nobody knows how to change a %s", field.Kind())
		}
		f(reflect.TypeFor[T]().Field(i).Name, changed)
	}
}

func TestKeysAndProvidersAreEqualWhereNothingDiffers(t *testing.T) {
	t.Parallel()
	key := config.Key{Key: keyA, Region: "us-west-2", EncryptionContext: map[string]string{"a": "b", "c": "d"}}
	provider := config.Provider{Name: "a", Listen: "/s", Keys: []config.Key{key, {Key: keyB}}, Retry: config.Retry{Tokens: 1}}
	again := provider
	again.Keys = []config.Key{{Key: keyA, Region: "us-west-2", EncryptionContext: map[string]string{"c": "d", "a": "b"}}, {Key: keyB, EncryptionContext: map[string]string{}}}
	if !key.Equal(again.Keys[0]) || !provider.Equal(again) {
		t.Errorf("%+v and %+v are equal", provider, again)
	}
	eachChanged(t, key, func(field string, changed config.Key) {
		if key.Equal(changed) || changed.Equal(key) {
			t.Errorf("keys with another %s are equal", field)
		}
	})
	eachChanged(t, provider, func(field string, changed config.Provider) {
		if provider.Equal(changed) || changed.Equal(provider) {
			t.Errorf("providers with another %s are equal", field)
		}
	})
	provider.Keys[0], provider.Keys[1] = provider.Keys[1], provider.Keys[0]
	if provider.Equal(again) {
		t.Error("the order of keys makes no difference, although the first one writes")
	}
}

func TestKeysWithoutContextAreEqualHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	var keys []config.Key
	for _, context := range []string{"", ", encryptionContext: {}"} {
		path := writeFile(t, fmt.Sprintf("%sproviders: [{name: a, keys: [{key: alias/a%s}]}]\n", head, context))
		keys = append(keys, mustParse(t, nil, "--config="+path).Providers[0].Keys[0])
	}
	if !keys[0].Equal(keys[1]) || !reflect.DeepEqual(keys[0], keys[1]) {
		t.Errorf("%#v and %#v differ", keys[0], keys[1])
	}
}
