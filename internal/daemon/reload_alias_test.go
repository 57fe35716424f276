package daemon

import (
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

// Each reload makes the alias's key again, and meets an answer of KMS from before
// the alias was moved. None may lead callers back.
func TestReloadsDoNotLeadAMovedAliasBack(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	const alias = "alias/moved"
	if err := kms.CreateAlias(kmstest.Region, alias, a); err != nil {
		t.Fatal(err)
	}
	moveTo := func(arn string) {
		if err := kms.UpdateAlias(kmstest.Region, alias, arn); err != nil {
			t.Fatal(err)
		}
	}
	dir := testkit.Directory(t)
	other := providerText{name: "other", listen: dir + "/other", keys: []string{keyText(kms, a)}}
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, alias)}}
	f := runFiled(t, filing{dir: dir}, fileText("", other, p))
	f.ready()
	tells := func(when, want string) {
		t.Helper()
		if got := newCaller(t, p.listen).seals().KeyId; !strings.HasPrefix(got, want) {
			t.Errorf("%s: key_id %s, want one of %s", when, got, want)
		}
	}
	tells("before", a)
	moveTo(b)
	p.name = "renamed"
	f.loads(fileText("", other, p))
	tells("after the move", b)
	moveTo(a)
	p.name = "again"
	f.loads(fileText("", other, p))
	tells("renamed", b)
	f.loads(fileText("", other))
	f.loads(fileText("", other, p))
	tells("removed and configured again", b)
	p.keys = []string{keyText(kms, a), keyText(kms, alias)}
	f.loads(fileText("", other, p))
	tells("with the ARN on top", a) // that is what the operator asked for
}
