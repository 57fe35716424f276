package daemon

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/testkit"
)

func TestWhatTakesEffectAtARestartIsSaid(t *testing.T) {
	t.Parallel()
	_, p, f := runOne(t, "")
	f.loads(fileText("health: {livezPath: /other}\nlog: {level: error}\n", p))
	for _, want := range []string{"what changed under health takes effect at a restart", "what changed under log takes effect at a restart"} {
		testkit.Until(t, want, func() bool { return f.log.Has(want) })
	}
	f.waitFor("/livez", http.StatusOK, "ok")
}

func TestReloadTellsWhatItDid(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	named := func(name string, keys ...string) providerText {
		return providerText{name: name, listen: dir + "/" + name, keys: keys}
	}
	f := runFiled(t, filing{dir: dir}, fileText("", named("same", keyText(kms, a)), named("other", keyText(kms, a)), named("gone", keyText(kms, a))))
	f.ready()
	text := fileText("", named("same", keyText(kms, a)), named("other", keyText(kms, b, "encryptionContext: {c: d}")), named("new", keyText(kms, b)))
	f.loads(text)
	f.settled()
	for _, want := range []string{
		`"msg":"configuration reloaded","file":"` + f.file + `","hash":"` + hashOf(text) + `","added":["new"],"removed":["gone"],"changed":["other"],"carried":["same"]`,
		"provider other writes with " + b + " (encryption context c=d) from now on, which was not among its keys before: nodes that do not list it yet cannot read what this one writes; " +
			"add a key below the others on all nodes first, then move it to the top on all",
		"provider other no longer lists " + a + ", with which it wrote until now: what is stored under that cannot be read; keep it below the others until all is rewritten",
	} {
		testkit.Until(t, want, func() bool { return f.log.Has(want) })
	}
	if f.log.Has("provider new writes") || f.log.Has("provider same") {
		t.Errorf("a warning about a provider that is new, or that did not change:\n%s", f.log)
	}
	for series, want := range map[string]string{
		"aws_encryption_provider_config_reload_success":                    "1",
		`aws_encryption_provider_config_info{hash="` + hashOf(text) + `"}`: "1",
	} {
		if got := f.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	if f.metric("aws_encryption_provider_config_reload_timestamp_seconds") == "" {
		t.Error("the metrics do not say when the configuration was loaded")
	}
}

func TestKeyThatWasBelowGoesOnTopWithoutAWarning(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, a), keyText(kms, b)}}
	f := runFiled(t, filing{dir: dir}, fileText("", p))
	f.ready()
	p.keys = []string{keyText(kms, b, "sourceARN: \"arn:aws:eks:us-west-2:111122223333:cluster/c\""), keyText(kms, a)}
	f.loads(fileText("", p))
	p.keys = p.keys[:1]
	f.loads(fileText("", p))
	testkit.Until(t, "both are told", func() bool { return strings.Count(f.log.String(), "configuration reloaded") == 2 })
	if f.log.Has("was not among its keys before") || f.log.Has("no longer lists") {
		t.Errorf("a warning about steps that are in order:\n%s", f.log)
	}
}

func TestVerboseReadinessNamesKeysAndConfiguration(t *testing.T) {
	t.Parallel()
	kms := kmstest.Start(t)
	a, b := createKey(t, kms), createKey(t, kms)
	dir := testkit.Directory(t)
	p := providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, a), keyText(kms, b)}}
	text := fileText("", p)
	f := runFiled(t, filing{dir: dir}, text)
	f.ready()
	details := `provider aws: ok, key_id ` + a + `[^\n]*\n  socket ` + p.listen + `\n  key ` + a + ` writes: healthy\n  key ` + b + ` reads: (?:unknown|authorised[^\n]*)\n`
	f.waitFor("/readyz?verbose", http.StatusOK, `^`+details+`configuration `+f.file+`: hash `+hashOf(text)+`, loaded at [0-9TZ:-]{20}\n$`)
	f.waitFor("/readyz/aws?verbose", http.StatusOK, `^`+details+`$`)
	f.waitFor("/readyz", http.StatusOK, `^provider aws: ok[^\n]*\n$`)
	f.waitFor("/readyz/0", http.StatusNotFound, "no provider has that name; there are aws")
}

// What is wrong with a credentials file is said while the old credentials go on:
// nobody would look for it before they end.
func TestReloadTellsOfBrokenCredentials(t *testing.T) {
	kms := kmstest.Start(t)
	a := createKey(t, kms)
	dir := testkit.Directory(t)
	file := filepath.Join(dir, "credentials")
	c := kmstest.Credential()
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[default]\naws_access_key_id = " + c.AccessKeyID + "\naws_secret_access_key = " + c.SecretAccessKey + "\n")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	f := runFiled(t, filing{dir: dir}, fileText("", providerText{name: "aws", listen: dir + "/s", keys: []string{keyText(kms, a)}}))
	f.ready()
	write("[[[")
	f.Reload()
	caller := newCaller(t, dir+"/s")
	testkit.Until(t, "the log names provider and cause", func() bool {
		caller.seals()
		return f.log.Has(`"provider":"aws","key":"` + a + `","code":"KMS03`)
	})
}
