package settings

import (
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms/transport"
)

// settingsOf reads what the environment says, as a look-up does.
func settingsOf(t *testing.T, role string, environment map[string]string) *Sources {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": "us-west-2", "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CA_BUNDLE": "", "AWS_ROLE_ARN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "",
	} {
		t.Setenv(name, value)
	}
	for name, value := range environment {
		t.Setenv(name, value)
	}
	conns := transport.New()
	t.Cleanup(conns.Close)
	s := New(Options{Connections: conns, Role: role})
	cfg, err := s.load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, isCache := cfg.Credentials.(*aws.CredentialsCache); !isCache {
		t.Errorf("credentials come from a %T, want the SDK's cache", cfg.Credentials)
	}
	return s.Read()
}

func TestSettingsTellTheSource(t *testing.T) {
	file := func(text string) map[string]string {
		path := t.TempDir() + "/config"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return map[string]string{"AWS_CONFIG_FILE": path}
	}
	const role = "arn:aws:iam::111122223333:role/kms"
	for name, c := range map[string]struct {
		environment map[string]string
		role        string
		base, top   string
	}{
		"nothing": {base: `the instance metadata service at "http://169.254.169.254"`},
		"IPv6": {
			environment: map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"},
			base:        `the instance metadata service at "http://[fd00:ec2::254]"`,
		},
		"address with a password": {
			environment: map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://u:secret@192.0.2.1/?secret"},
			base:        `the instance metadata service at "http://192.0.2.1/"`,
		},
		"ECS": {
			environment: map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/x"},
			base:        `the endpoint for a container's credentials at "http://169.254.170.2/v2/credentials/x", from AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`,
		},
		"EKS": {
			environment: map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"},
			base:        `the EKS Pod Identity agent at "http://169.254.170.23/v1/credentials", from AWS_CONTAINER_CREDENTIALS_FULL_URI`,
		},
		"EKS over IPv6": {
			environment: map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://[fd00:ec2::23]/v1/credentials"},
			base:        `the EKS Pod Identity agent at "http://[fd00:ec2::23]/v1/credentials"`,
		},
		"access key, and a role of the flag": {
			environment: map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, role: role,
			base: "the access key of the environment (AWS_ACCESS_KEY_ID)", top: `STS, for the role "` + role + `" of --assume-role-arn`,
		},
		"chain of profiles": {
			environment: file("[default]\nrole_arn = " + role + "\nsource_profile = b\n[profile b]\nrole_arn = " + role + "2\nsource_profile = c\n[profile c]\ncredential_process = /bin/true\n"),
			base:        `credential_process of profile "c" in "`, top: `STS, for the role "` + role + `" of role_arn and external_id of profile "default"`,
		},
		"access key before a profile's role": {
			environment: map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
			base:        "the access key of the environment", top: "the access key of the environment",
		},
		"credential_source": {
			environment: file("[default]\nrole_arn = " + role + "\ncredential_source = Ec2InstanceMetadata\n"),
			base:        "the instance metadata service at", top: `STS, for the role "` + role,
		},
		"IAM Identity Center": {
			environment: file("[default]\nsso_start_url = https://x.example\nsso_region = us-west-2\nsso_account_id = 111122223333\nsso_role_name = r\n"),
			base:        `IAM Identity Center, from profile "default"`,
		},
		"aws login": {
			environment: file("[default]\nlogin_session = arn:aws:iam::111122223333:user/x\n"),
			base:        `the session of aws login, from profile "default"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := settingsOf(t, c.role, c.environment)
			if got := s.Base().String(); !strings.HasPrefix(got, c.base) {
				t.Errorf("at the bottom: %s, want %s", got, c.base)
			}
			if got := s.Top().String(); !strings.HasPrefix(got, c.top) {
				t.Errorf("on top: %s, want %s", got, c.top)
			}
			if s.Base().Check() == "" || s.Top().Check() == "" {
				t.Error("no word on what to do")
			}
		})
	}
	if s := Nowhere().Base().String(); s == "" {
		t.Error("no settings, no word")
	}
}
