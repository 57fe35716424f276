package policy_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/policy"
)

func TestWhatIsPrintedIsEnough(t *testing.T) {
	each(t, func(t *testing.T, sc *scene) {
		sc.enforce(t, sc.policies(t, sc.documents(t, false)))
		if err := sc.live(t); err != nil {
			t.Errorf("the program: %v", err)
		}
		sc.enforce(t, sc.policies(t, sc.documents(t, true)))
		if err := sc.live(t); err != nil {
			t.Errorf("the program, with what doctor is allowed: %v", err)
		}
		// Of another account's key nobody is told the rotation.
		for line := range strings.Lines(sc.look(t)) {
			if sc.principal != foreignUser || !strings.Contains(line, "its rotation is not known") {
				t.Errorf("doctor: %s", line)
			}
		}
	})
}

// clone makes documents that can be changed.
func clone(t *testing.T, documents []policy.Document) []policy.Document {
	t.Helper()
	out := slices.Clone(documents)
	for i, d := range out {
		out[i].Policy.Statement = slices.Clone(d.Policy.Statement)
		for j, s := range d.Policy.Statement {
			c := policy.Condition{}
			for op, keys := range s.Condition {
				c[op] = maps.Clone(keys)
			}
			s.Condition = c
			s.Action, s.Resource = slices.Clone(s.Action), slices.Clone(s.Resource)
			out[i].Policy.Statement[j] = s
		}
	}
	return out
}

// A cut takes one thing out of a statement; nothing is left of a statement
// without actions or resources.
func cut(t *testing.T, documents []policy.Document, i, j int, edit func(*policy.Statement)) []policy.Document {
	t.Helper()
	out := clone(t, documents)
	p := &out[i].Policy
	edit(&p.Statement[j])
	if s := p.Statement[j]; len(s.Action) == 0 || len(documents[i].Policy.Statement[j].Resource) > 0 && len(s.Resource) == 0 {
		p.Statement = slices.Delete(p.Statement, j, j+1)
	}
	if len(p.Statement) > 0 {
		return out
	}
	if out[i].Kind == policy.Endpoint { // without a policy it would let everything through
		p.Statement = []policy.Statement{{Effect: "Deny", Principal: map[string]policy.Texts{"AWS": {"*"}}, Action: policy.Texts{"*"}, Resource: policy.Texts{"*"}}}
		return out
	}
	return slices.Delete(out, i, i+1)
}

func TestEachActionAndResourceIsNeeded(t *testing.T) {
	each(t, func(t *testing.T, sc *scene) {
		documents := sc.documents(t, true)
		sc.enforce(t, sc.policies(t, documents))
		seen := sc.look(t)
		needed := func(name string, left []policy.Document) {
			t.Run(name, func(t *testing.T) {
				sc.enforce(t, sc.policies(t, left))
				if sc.live(t) == nil && sc.look(t) == seen {
					t.Error("everything works without it")
				}
			})
		}
		for i, d := range documents {
			for j, s := range d.Policy.Statement {
				if s.Sid == "Administer" {
					continue // TestAdministratorsKeepTheKey
				}
				at := string(d.Kind) + " " + d.For + " " + s.Sid + " without "
				for n, action := range s.Action {
					needed(at+action, cut(t, documents, i, j, func(s *policy.Statement) { s.Action = slices.Delete(s.Action, n, n+1) }))
				}
				for n, resource := range s.Resource {
					if len(s.Resource) > 1 {
						needed(at+resource, cut(t, documents, i, j, func(s *policy.Statement) { s.Resource = slices.Delete(s.Resource, n, n+1) }))
					}
				}
			}
		}
	})
}

// TestEachConditionIsNeeded takes each condition away, with all other documents
// open, and tries what only that condition refuses.
func TestEachConditionIsNeeded(t *testing.T) {
	each(t, func(t *testing.T, sc *scene) {
		documents := sc.documents(t, false)
		for i, d := range documents {
			for j, s := range d.Policy.Statement {
				for op, keys := range s.Condition {
					for key := range keys {
						t.Run(string(d.Kind)+" "+d.For+" "+s.Sid+" without "+op+" "+key, func(t *testing.T) {
							a := attempt{kind: d.Kind, of: d.For, statement: s, op: op, key: key}
							sc.enforceAlone(t, documents[i:i+1])
							if err := a.make(t, sc); err == nil {
								t.Error("allowed, with the condition")
							}
							left := cut(t, documents, i, j, func(s *policy.Statement) {
								delete(s.Condition[op], key)
								if len(s.Condition[op]) == 0 {
									delete(s.Condition, op)
								}
							})
							sc.enforceAlone(t, left[i:i+1])
							if err := a.make(t, sc); err != nil {
								t.Errorf("refused by something else than the condition: %v", err)
							}
						})
					}
				}
			}
		}
	})
}

// enforceAlone enforces one document; all others let everything through.
func (sc *scene) enforceAlone(t *testing.T, one []policy.Document) {
	t.Helper()
	p := sc.policies(t, one)
	for _, who := range []string{sc.identityOf(nodeRole), kmsRole, foreignUser, otherUser, otherForeign} {
		if p.Identity[who] == nil {
			p.Identity[who] = []string{everything}
		}
	}
	p.Identity["arn:aws:iam::444455556666:role/control-plane"] = p.Identity[sc.identityOf(nodeRole)]
	for _, id := range []string{keyA, keyB, mrk} {
		if p.Keys[arnOf(id)] == "" {
			p.Keys[arnOf(id)] = open(foreignUser)
		}
	}
	if p.Trust[kmsRole] == "" {
		p.Trust[kmsRole] = openTrust(foreignUser)
	}
	sc.enforce(t, p)
}

// An attempt is a call that meets all conditions of a statement but one.
type attempt struct {
	kind      policy.Kind
	of        string
	statement policy.Statement
	op, key   string
}

// context is what the statement wants, or spoiled as the condition is to notice.
func (a attempt) context() map[string]string {
	context := map[string]string{}
	for key, values := range a.statement.Condition["StringEquals"] {
		if name, ok := strings.CutPrefix(key, "kms:EncryptionContext:"); ok {
			context[name] = strings.ReplaceAll(values[0], "${$}{", "${")
		}
	}
	switch name, pair := strings.CutPrefix(a.key, "kms:EncryptionContext:"); {
	case pair:
		context[name] = "other"
	case a.key == "kms:EncryptionContextKeys":
		context["more"] = "than that"
	}
	return context
}

// who makes the attempt: whom the document is about, or somebody else.
func (a attempt) who(sc *scene) string {
	who := sc.runs
	for _, values := range []policy.Texts{a.statement.Condition["ArnEquals"]["aws:PrincipalArn"], {a.of}} {
		if len(values) == 1 && values[0] == kmsRole && a.kind != policy.Trust {
			who = "arn:aws:sts::111122223333:assumed-role/etcd-encryption/s"
		}
	}
	switch {
	case a.key == "aws:PrincipalArn" && strings.Contains(who, "444455556666"):
		return otherForeign
	case a.key == "aws:PrincipalArn":
		return otherUser
	}
	return who
}

// target is the key of the attempt.
func (a attempt) target() string {
	switch {
	case a.kind == policy.Key:
		return keyOf(a.of)
	case a.key == "kms:ResourceAliases":
		return arnOf(mrk)
	}
	if aliases := a.statement.Condition["ForAnyValue:StringEquals"]["kms:ResourceAliases"]; len(aliases) > 0 {
		return keyOf(aliases[0])
	}
	if strings.HasSuffix(a.statement.Resource[0], "*") {
		return arnOf(keyA)
	}
	return strings.ReplaceAll(strings.Replace(a.statement.Resource[0], "::", ":111122223333:", 1), ":*:", ":111122223333:")
}

func (a attempt) make(t *testing.T, sc *scene) error {
	t.Helper()
	c := roleCredential(a.who(sc))
	if a.key == "aws:ResourceAccount" { // the same policy, in another account
		c.Principal = "arn:aws:sts::444455556666:assumed-role/control-plane/i"
	}
	c.AccessKeyID = "AKIAATTEMPT"
	sc.server.AddCredential(c)
	cfg := aws.Config{Region: kmstest.Region, Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")}
	if a.statement.Action[0] == "sts:AssumeRole" {
		in := &sts.AssumeRoleInput{RoleArn: aws.String(kmsRole), RoleSessionName: aws.String("attempt")}
		if ids := a.statement.Condition["StringEquals"]["sts:ExternalId"]; len(ids) > 0 && a.key != "sts:ExternalId" {
			in.ExternalId = &ids[0]
		}
		_, err := sts.NewFromConfig(cfg, func(o *sts.Options) { o.BaseEndpoint = aws.String(sc.server.STSURL(t)) }).AssumeRole(t.Context(), in)
		return err
	}
	key := a.target()
	_, err := kms.NewFromConfig(cfg, func(o *kms.Options) { o.BaseEndpoint = &sc.server.URL }).Decrypt(t.Context(), &kms.DecryptInput{
		KeyId: &key, EncryptionContext: a.context(), DryRun: aws.Bool(true), DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	})
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() == "DryRunOperationException" {
		return nil
	}
	return err
}
