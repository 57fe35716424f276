package config_test

import (
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
)

func TestASettingIsCalledByItsFlagOrByItsFieldInTheFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, setting, want string }{
		{"", "region", "--region"},
		{"", "endpoint", "--kms-endpoint"},
		{"", "keys", "--decrypt-key"},
		{"", "assumeRoleARN", "--assume-role-arn"},
		{"/etc/p/config.yaml", "region", `region in "/etc/p/config.yaml"`},
		{"/etc/p/config.yaml", "keys", `keys in "/etc/p/config.yaml"`},
	} {
		if got := (&config.Config{File: c.file}).Called(c.setting); got != c.want {
			t.Errorf("with the file %q the setting %s is called %s, want %s", c.file, c.setting, got, c.want)
		}
	}
	if got, want := config.CalledEither("endpoint"), "--kms-endpoint (in a file: endpoint)"; got != want {
		t.Errorf("either is %s, want %s", got, want)
	}
}
