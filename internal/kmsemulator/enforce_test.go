package kmsemulator_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

const (
	tester = "arn:aws:iam::111122223333:user/tester"
	worker = "arn:aws:iam::111122223333:role/a/worker"
)

func statement(more string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` + more + `}]}`
}

// TestEnforcedPoliciesDecide, in AWS' words.
func TestEnforcedPoliciesDecide(t *testing.T) {
	s := kmstest.Start(t)
	key, err := s.CreateKey(kmstest.Region, kmsemulator.KeyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateAlias(kmstest.Region, "alias/a", key); err != nil {
		t.Fatal(err)
	}
	cfg := aws.Config{Region: kmstest.Region, Credentials: credentials.NewStaticCredentialsProvider(s.Credential.AccessKeyID, s.Credential.SecretAccessKey, "")}
	client := kms.NewFromConfig(cfg, func(o *kms.Options) { o.BaseEndpoint = &s.URL })
	tokens := sts.NewFromConfig(cfg, func(o *sts.Options) { o.BaseEndpoint = aws.String(s.STSURL(t)) })

	encrypt := func(name string, pairs map[string]string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := client.Encrypt(ctx, &kms.EncryptInput{KeyId: &name, Plaintext: []byte("a"), EncryptionContext: pairs})
			return err
		}
	}
	list := func(ctx context.Context) error {
		_, err := client.ListKeys(ctx, &kms.ListKeysInput{})
		return err
	}
	// The role's session then encrypts.
	enter := func(ctx context.Context) error {
		out, err := tokens.AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: aws.String(worker), RoleSessionName: aws.String("session")})
		if err != nil {
			return err
		}
		as := cfg
		as.Credentials = credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
		_, err = kms.NewFromConfig(as, func(o *kms.Options) { o.BaseEndpoint = &s.URL }).Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("a")})
		return err
	}
	identity := func(more string) map[string][]string { return map[string][]string{tester: {statement(more)}} }
	trusted := map[string]string{worker: statement(`"Principal":{"AWS":"` + tester + `"},"Action":"sts:AssumeRole"`)}

	for name, c := range map[string]struct {
		policies kmsemulator.Policies
		call     func(context.Context) error
		want     string // "": allowed
	}{
		"nothing is allowed": {
			kmsemulator.Policies{},
			encrypt(key, nil),
			"User: " + tester + " is not authorized to perform: kms:Encrypt on resource: " + key + " because no identity-based policy allows the kms:Encrypt action",
		},
		"the identity may": {kmsemulator.Policies{Identity: identity(`"Action":"kms:Encrypt","Resource":"` + key + `"`)}, encrypt(key, nil), ""},
		"the key may not by the account": {
			kmsemulator.Policies{Identity: identity(`"Action":"kms:*","Resource":"*"`), Keys: map[string]string{key: statement(`"Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"`)}},
			encrypt(key, nil), "because no resource-based policy allows the kms:Encrypt action",
		},
		"the context is seen": {
			kmsemulator.Policies{Identity: identity(`"Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:a":"b"}}`)},
			encrypt(key, map[string]string{"a": "b"}), "",
		},
		"another context is seen": {
			kmsemulator.Policies{Identity: identity(`"Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:a":"b"}}`)},
			encrypt(key, map[string]string{"a": "c"}), "because no identity-based policy",
		},
		"an alias in the request": {
			kmsemulator.Policies{Identity: identity(`"Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:RequestAlias":"alias/a"}}`)}, encrypt("alias/a", nil), "",
		},
		"no alias in the request": {
			kmsemulator.Policies{Identity: identity(`"Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:RequestAlias":"alias/a"}}`)},
			encrypt(key, nil), "because no identity-based policy",
		},
		"an alias of the key": {
			kmsemulator.Policies{Identity: identity(`"Action":"kms:*","Resource":"*","Condition":{"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/a"}}`)},
			encrypt(key, nil), "",
		},
		"a list that is allowed":     {kmsemulator.Policies{Identity: identity(`"Action":"kms:ListKeys","Resource":"*"`)}, list, ""},
		"a list that is not allowed": {kmsemulator.Policies{}, list, "kms:ListKeys on resource: * because no identity-based policy"},
		"a role that trusts":         {kmsemulator.Policies{Trust: trusted, Identity: map[string][]string{worker: {statement(`"Action":"kms:Encrypt","Resource":"*"`)}}}, enter, ""},
		"a role that may nothing":    {kmsemulator.Policies{Trust: trusted}, enter, "assumed-role/worker/session is not authorized to perform: kms:Encrypt"},
		"a role that trusts nobody":  {kmsemulator.Policies{Identity: identity(`"Action":"sts:*","Resource":"*"`)}, enter, "sts:AssumeRole on resource: " + worker + " because no resource-based policy"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Enforce(c.policies); err != nil {
				t.Fatal(err)
			}
			err := c.call(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if err := s.Enforce(kmsemulator.Policies{Keys: map[string]string{key: "{}"}}); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("a document that is none: %v", err)
	}
}
