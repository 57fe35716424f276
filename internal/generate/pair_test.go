package generate_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sigs.k8s.io/aws-encryption-provider/internal/config"
	"sigs.k8s.io/aws-encryption-provider/internal/encryptionconfig"
	"sigs.k8s.io/aws-encryption-provider/internal/generate"
)

// options are those of providers at these sockets.
func options(sockets ...string) generate.Options {
	cfg := &config.Config{KMSTimeout: 2500 * time.Millisecond, Socket: config.Socket{Group: -1, Mode: 0o600}, Health: config.Health{Address: ":8080", LivezPath: "/livez"}}
	for i, socket := range sockets {
		cfg.Providers = append(cfg.Providers, config.Provider{Name: fmt.Sprint(i), Listen: socket})
	}
	return generate.Options{
		Config: cfg, Args: []string{"--key=alias/a"}, FileAt: generate.DefaultConfigAt, PathAt: generate.DefaultEncConfig,
		Image: generate.Image("v1.2.3", false), Program: generate.DefaultProgram, CacheSize: generate.DefaultCacheSize,
	}
}

func kind(t testing.TB, name string) generate.Kind {
	t.Helper()
	for _, k := range generate.Kinds() {
		if k.Name == name {
			return k
		}
	}
	t.Fatalf("no kind %s", name)
	return generate.Kind{}
}

// parsed reads a file in the short form of [short]: "secrets: identity".
func parsed(t testing.TB, lines string) *encryptionconfig.Configuration {
	t.Helper()
	if lines == "" {
		return nil
	}
	c := &encryptionconfig.Configuration{APIVersion: encryptionconfig.APIVersion, Kind: encryptionconfig.Kind}
	for line := range strings.Lines(lines) {
		names, providers, _ := strings.Cut(strings.TrimSpace(line), ": ")
		r := encryptionconfig.Resource{Resources: strings.Split(names, ",")}
		for one := range strings.FieldsSeq(providers) {
			r.Providers = append(r.Providers, provider(t, one))
		}
		c.Resources = append(c.Resources, r)
	}
	return c
}

func provider(t testing.TB, text string) encryptionconfig.Provider {
	t.Helper()
	switch text {
	case "identity":
		return encryptionconfig.Provider{Identity: &encryptionconfig.Identity{}}
	case "aescbc":
		return encryptionconfig.Provider{AESCBC: &encryptionconfig.Keys{Keys: []encryptionconfig.Key{{Name: "key1", Secret: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}}}
	case "secretbox":
		return encryptionconfig.Provider{Secretbox: &encryptionconfig.Keys{Keys: []encryptionconfig.Key{{Name: "key1", Secret: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}}}
	}
	m := regexp.MustCompile(`^(v[12]):([^@]+)(@?/.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%q is no provider", text)
	}
	version := m[1]
	if version == "v1" {
		version = "" // its default, and how it is written
	}
	return encryptionconfig.Provider{KMS: &encryptionconfig.KMS{APIVersion: version, Name: m[2], Endpoint: encryptionconfig.Endpoint(strings.TrimPrefix(m[3], "@"))}}
}

// short is a file in one line for each entry.
func short(t testing.TB, text string) string {
	t.Helper()
	c, err := encryptionconfig.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var b strings.Builder
	for _, r := range c.Resources {
		b.WriteString(strings.Join(r.Resources, ",") + ":")
		for _, p := range r.Providers {
			if p.KMS == nil {
				b.WriteString(" " + p.String())
				continue
			}
			b.WriteString(" " + p.KMS.Version() + ":" + p.KMS.Name + "@" + p.KMS.Socket())
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// TestPair: from what the API servers have, by one line for each entry, to what
// they are given.
func TestPair(t *testing.T) {
	const ours = "v2:aws-encryption-provider@/run/a"
	for name, c := range map[string]struct {
		present          string
		with             func(*generate.Options)
		sockets          []string
		readers, writers string
	}{
		"nothing yet": {
			readers: "secrets: identity " + ours,
			writers: "secrets: " + ours + " identity",
		},
		"resources": {
			with:    func(o *generate.Options) { o.Resources = []string{"secrets", "pandas.example.com", "*.apps"} },
			readers: "secrets,pandas.example.com,*.apps: identity " + ours,
			writers: "secrets,pandas.example.com,*.apps: " + ours + " identity",
		},
		"local keys": {
			present: "secrets: aescbc identity",
			readers: "secrets: aescbc " + ours + " identity",
			writers: "secrets: " + ours + " aescbc identity",
		},
		"local keys that are on their way out": {
			present: "secrets: identity aescbc",
			readers: "secrets: identity " + ours + " aescbc",
			writers: "secrets: " + ours + " identity aescbc",
		},
		"everything is encrypted, nothing is read in the clear": {
			present: "secrets: secretbox",
			readers: "secrets: secretbox " + ours,
			writers: "secrets: " + ours + " secretbox",
		},
		"another plugin": {
			present: "secrets: v2:vault@/run/vault identity",
			readers: "secrets: v2:vault@/run/vault " + ours + " identity",
			writers: "secrets: " + ours + " v2:vault@/run/vault identity",
		},
		"our own of v1, so that v2 needs another name": {
			present: "secrets: v1:aws-encryption-provider@/run/a identity",
			readers: "secrets: v1:aws-encryption-provider@/run/a v2:aws-encryption-provider-2@/run/a identity",
			writers: "secrets: v2:aws-encryption-provider-2@/run/a v1:aws-encryption-provider@/run/a identity",
		},
		"our own under a name of its own": {
			present: "secrets: aescbc v2:mine@/run/a identity",
			readers: "secrets: aescbc v2:mine@/run/a identity",
			writers: "secrets: v2:mine@/run/a aescbc identity",
		},
		"a second name on one socket": {
			present: "secrets: v2:mine@/run/a identity",
			with:    func(o *generate.Options) { o.Names = []string{"next"} },
			readers: "secrets: v2:mine@/run/a v2:next@/run/a identity",
			writers: "secrets: v2:next@/run/a v2:mine@/run/a identity",
		},
		"two providers, the new one first": {
			present: "secrets: " + ours + " identity",
			sockets: []string{"/run/b", "/run/a"},
			readers: "secrets: " + ours + " v2:aws-encryption-provider-2@/run/b identity",
			writers: "secrets: v2:aws-encryption-provider-2@/run/b " + ours + " identity",
		},
		"two providers from nothing": {
			sockets: []string{"/run/a", "/run/b"},
			readers: "secrets: identity " + ours + " v2:aws-encryption-provider-2@/run/b",
			writers: "secrets: " + ours + " identity v2:aws-encryption-provider-2@/run/b",
		},
		"every entry that encrypts, each under a name of its own": {
			present: "events: identity\nsecrets: aescbc identity\nconfigmaps: secretbox",
			readers: "events: identity\nsecrets: aescbc " + ours + " identity\nconfigmaps: secretbox v2:aws-encryption-provider-2@/run/a",
			writers: "events: identity\nsecrets: " + ours + " aescbc identity\nconfigmaps: v2:aws-encryption-provider-2@/run/a secretbox",
		},
		"one entry of several": {
			present: "secrets: aescbc identity\nconfigmaps: secretbox",
			with:    func(o *generate.Options) { o.Resources = []string{"configmaps"} },
			readers: "secrets: aescbc identity\nconfigmaps: secretbox " + ours,
			writers: "secrets: aescbc identity\nconfigmaps: " + ours + " secretbox",
		},
		"a resource that is new": {
			present: "secrets: " + ours + " identity",
			with:    func(o *generate.Options) { o.Resources = []string{"configmaps"} },
			readers: "secrets: " + ours + " identity\nconfigmaps: identity v2:aws-encryption-provider-2@/run/a",
			writers: "secrets: " + ours + " identity\nconfigmaps: v2:aws-encryption-provider-2@/run/a identity",
		},
		"nothing is encrypted on purpose": {
			present: "events: identity",
			readers: "events: identity\nsecrets: identity " + ours,
			writers: "events: identity\nsecrets: " + ours + " identity",
		},
		"an endpoint with one slash": {
			present: "secrets: aescbc v2:mine@/run/a identity",
			with: func(o *generate.Options) {
				o.Present.Resources[0].Providers[1].KMS.Endpoint = "unix:/run/a"
			},
			readers: "secrets: aescbc v2:mine@/run/a identity",
			writers: "secrets: v2:mine@/run/a aescbc identity",
		},
		"an old head": {
			present: "secrets: aescbc identity",
			with: func(o *generate.Options) {
				o.Present.APIVersion, o.Present.Kind = "v1", "EncryptionConfig"
			},
			readers: "secrets: aescbc " + ours + " identity",
			writers: "secrets: " + ours + " aescbc identity",
		},
		"v1": {
			with:    func(o *generate.Options) { o.KMSv1 = true },
			readers: "secrets: identity v1:aws-encryption-provider@/run/a",
			writers: "secrets: v1:aws-encryption-provider@/run/a identity",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.sockets == nil {
				c.sockets = []string{"/run/a"}
			}
			o := options(c.sockets...)
			o.Present = parsed(t, c.present)
			if c.with != nil {
				c.with(&o)
			}
			files, err := kind(t, "encryption-config").Generate(o)
			if err != nil {
				t.Fatal(err)
			}
			if got := short(t, files[0].Text); got != c.readers {
				t.Errorf("readers of %q: got\n%s\nwant\n%s", c.present, got, c.readers)
			}
			if got := short(t, files[1].Text); got != c.writers {
				t.Errorf("writers of %q: got\n%s\nwant\n%s", c.present, got, c.writers)
			}
			if !files[0].Secret || !files[1].Secret {
				t.Error("files that may have keys in them are not marked")
			}
		})
	}
}

// TestPairOrder: whatever is there, readers write as before, read what writers
// write, and nothing that was readable stops being so.
func TestPairOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		some := []string{"identity", "aescbc", "secretbox", "v1:old@/run/a", "v2:own@/run/a", "v2:other@/run/x", "v1:aws-encryption-provider@/run/y", "v2:aws-encryption-provider-2@/run/b"}
		before := rapid.SliceOfNDistinct(rapid.SampledFrom(some), 1, len(some), rapid.ID).Draw(r, "present")
		o := options(rapid.SampledFrom([][]string{{"/run/a"}, {"/run/b"}, {"/run/a", "/run/b"}, {"/run/c", "/run/a"}}).Draw(r, "sockets")...)
		o.KMSv1 = rapid.Bool().Draw(r, "v1")
		o.Present = parsed(t, "secrets: "+strings.Join(before, " "))
		o.Resources = []string{"secrets"}
		files, err := kind(t, "encryption-config").Generate(o)
		if err != nil {
			if !strings.Contains(err.Error(), "writes with") {
				r.Fatal(err)
			}
			return
		}
		list := func(text string) []string { return strings.Fields(strings.TrimPrefix(short(t, text), "secrets: ")) }
		readers, writers := list(files[0].Text), list(files[1].Text)
		names := map[string]bool{}
		for _, one := range writers {
			if name, _, ok := strings.Cut(one[strings.IndexByte(one, ':')+1:], "@"); ok {
				if names[name] {
					r.Fatalf("%q has the name %s twice", writers, name)
				}
				names[name] = true
			}
		}
		same := func(what string, a, b []string) {
			for _, one := range a {
				if !slices.Contains(b, one) {
					r.Fatalf("%s: %q has no %s", what, b, one)
				}
			}
		}
		if readers[0] != before[0] {
			r.Fatalf("readers %q write otherwise than %q", readers, before)
		}
		if want := "@" + o.Config.Providers[0].Listen; !strings.HasSuffix(writers[0], want) {
			r.Fatalf("writers %q do not write to %s", writers, want)
		}
		same("readers read what was readable", before, readers)
		same("readers read what writers write", writers, readers)
		same("writers read what readers do", readers, writers)
	})
}

func TestTimeoutFitsKMSTimeout(t *testing.T) {
	for limit, want := range map[time.Duration]string{
		time.Second: "3s", 2500 * time.Millisecond: "3s", 2701 * time.Millisecond: "3.1s", 34700 * time.Millisecond: "35s",
	} {
		o := options("/run/a")
		o.Config.KMSTimeout = limit
		files, err := kind(t, "encryption-config").Generate(o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(files[1].Text, "timeout: "+want+"\n") {
			t.Errorf("kms-timeout %v: want timeout %s in\n%s", limit, want, files[1].Text)
		}
	}
}

// Whoever stops the program must not kill it while it goes on serving.
func TestTimeToStopFitsShutdownDelay(t *testing.T) {
	for delay, want := range map[time.Duration][2]string{
		0: {}, 24 * time.Second: {}, 25 * time.Second: {"terminationGracePeriodSeconds: 35\n", ""},
		34 * time.Second: {"terminationGracePeriodSeconds: 44\n", ""}, 35 * time.Second: {"terminationGracePeriodSeconds: 45\n", "TimeoutStopSec=45\n"},
	} {
		for i, c := range []struct{ kind, setting string }{{"static-pod", "terminationGracePeriodSeconds"}, {"systemd", "TimeoutStopSec"}} {
			o := options("/run/kms/a")
			o.Config.ShutdownDelay = delay
			files, err := kind(t, c.kind).Generate(o)
			if err != nil {
				t.Fatal(err)
			}
			if text := files[0].Text; !strings.Contains(text, want[i]) || want[i] == "" && strings.Contains(text, c.setting) {
				t.Errorf("shutdown-delay %v: want %q in\n%s", delay, want[i], text)
			}
		}
	}
}

// TestRefuses: each mistake is told with its flag.
func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		kind, present string
		sockets       []string
		with          func(*generate.Options)
		want          string
	}{
		"nothing to do":            {kind: "encryption-config", present: "secrets: v2:a@/run/kms/a identity", want: `--encryption-config: writes with kms v2 "a" at unix:///run/kms/a already`},
		"nothing to do, old head":  {kind: "encryption-config", present: "secrets: v2:a@/run/kms/a identity", with: func(o *generate.Options) { o.Present.APIVersion, o.Present.Kind = "v1", "EncryptionConfig" }, want: "already"},
		"what is there is refused": {kind: "encryption-config", present: "secrets: aescbc\nsecrets.: identity", with: func(o *generate.Options) { o.Present.Resources[0].Providers[0].AESCBC.Keys[0].Secret = "AA==" }, want: "kube-apiserver would refuse what these flags and --encryption-config make: resources[0].providers[0].aescbc.keys[0].secret: is a key of 1 bytes"},
		"part of an entry":         {kind: "encryption-config", present: "secrets,configmaps: aescbc", with: func(o *generate.Options) { o.Resources = []string{"secrets"} }, want: "resources[0] of the present file has configmaps too"},
		"below a wildcard":         {kind: "encryption-config", present: "*.*: aescbc", with: func(o *generate.Options) { o.Resources = []string{"secrets"} }, want: `secrets is already among "*.*" of resources[0]`},
		"below the core group":     {kind: "encryption-config", present: "*.: aescbc", with: func(o *generate.Options) { o.Resources = []string{"secrets"} }, want: `secrets is already among "*."`},
		"overlap":                  {kind: "encryption-config", with: func(o *generate.Options) { o.Resources = []string{"secrets", "*.*"} }, want: `--resources: "secrets" is among "*.*" of the same list`},
		"twice":                    {kind: "encryption-config", with: func(o *generate.Options) { o.Resources = []string{"secrets", "secrets"} }, want: `"secrets" stands in the list twice`},
		"star":                     {kind: "encryption-config", with: func(o *generate.Options) { o.Resources = []string{"*"} }, want: "*.* for everything"},
		"capitals":                 {kind: "encryption-config", with: func(o *generate.Options) { o.Resources = []string{"Secret"} }, want: `"Secret" has capital letters`},
		"events of their group":    {kind: "encryption-config", with: func(o *generate.Options) { o.Resources = []string{"events.events.k8s.io"} }, want: "write events"},
		"a blank in a resource":    {kind: "encryption-config", with: func(o *generate.Options) { o.Resources = []string{"a b"} }, want: `"a b" is no resource`},
		"a name that is taken":     {kind: "encryption-config", present: "secrets: v2:a@/run/other identity", with: func(o *generate.Options) { o.Names = []string{"a"} }, want: `--name: "a" is the name of another provider`},
		"a name with a colon":      {kind: "encryption-config", with: func(o *generate.Options) { o.Names = []string{"a:b"} }, want: `--name: "a:b"`},
		"more names than sockets":  {kind: "encryption-config", with: func(o *generate.Options) { o.Names = []string{"a", "b"} }, want: "2 names for 1 providers"},
		"a socket in /run":         {kind: "static-pod", sockets: []string{"/run/a.sock"}, want: "--listen: /run/a.sock: its directory /run would be mounted as a whole, and it has the sockets of everything"},
		"a socket kOps cannot see": {kind: "kops", want: "kOps shows kube-apiserver only what is in /srv/kubernetes/kube-apiserver"},
		"a secret in the open":     {kind: "static-pod", with: func(o *generate.Options) { o.Env = []string{"AWS_SECRET_ACCESS_KEY=hunter2"} }, want: "--env: AWS_SECRET_ACCESS_KEY would stand in the output"},
		"a token in the open":      {kind: "static-pod", with: func(o *generate.Options) { o.Env = []string{"AWS_CONTAINER_AUTHORIZATION_TOKEN=hunter2"} }, want: "give AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"},
		"a password in the open":   {kind: "static-pod", with: func(o *generate.Options) { o.Env = []string{"HTTPS_PROXY=http://me:hunter2@proxy:3128"} }, want: "--env: the password in HTTPS_PROXY would stand in the output"},
		"a variable twice":         {kind: "static-pod", with: func(o *generate.Options) { o.Env = []string{"A=1", "A=2"} }, want: "--env: A is given twice"},
		"no variable":              {kind: "systemd", with: func(o *generate.Options) { o.Env = []string{"a b=c"} }, want: `--env: "a b" is no NAME=VALUE`},
		"relative paths": {kind: "systemd", with: func(o *generate.Options) {
			o.FileAt, o.PathAt, o.Program, o.Mounts = "a", "/b/../c", "d", []string{"e"}
		}, want: `--encryption-config-path: "/b/../c" goes up by "..": write where that leads, /c
--config-path: "a" is no absolute path: give one, such as /etc/aws-encryption-provider/config.yaml
--mount: "e" is no absolute path: give one, such as /etc/aws-encryption-provider/aws/FILE
--program: "d" is no absolute path: give one, such as /usr/bin/aws-encryption-provider`},
		"a port that moves": {kind: "static-pod", with: func(o *generate.Options) { o.Config.Health.Address = "127.0.0.1:0" }, want: "--health-port: port 0"},
		"no image":          {kind: "static-pod", with: func(o *generate.Options) { o.Image = "" }, want: "--image"},
		"a user below 0":    {kind: "static-pod", with: func(o *generate.Options) { o.RunAsUser = -1 }, want: "--run-as-user: must not be negative"},
		"the pair of KCP":   {kind: "kubeadmcontrolplane", present: "secrets: v2:a@/run/kms/a identity", want: "already"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.sockets == nil {
				c.sockets = []string{"/run/kms/a"}
			}
			o := options(c.sockets...)
			o.Present = parsed(t, c.present)
			if c.with != nil {
				c.with(&o)
			}
			files, err := kind(t, c.kind).Generate(o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v and %d files, want %q", err, len(files), c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a secret is told: %v", err)
			}
		})
	}
}

// Tags have no plus, and each build has its own.
func TestImageIsWhatMakeImageMakes(t *testing.T) {
	for name, c := range map[string]struct {
		version string
		fips    bool
		want    string
	}{
		"a release":         {"v1.2.3", false, "localhost/aws-encryption-provider:v1.2.3"},
		"with FIPS 140-3":   {"v1.2.3", true, "localhost/aws-encryption-provider:v1.2.3-fips140"},
		"uncommitted":       {"v0.0.0-20261125101112-abcdefabcdef+dirty", false, "localhost/aws-encryption-provider:v0.0.0-20261125101112-abcdefabcdef-dirty"},
		"no repository":     {"(devel)", false, "localhost/aws-encryption-provider:devel"},
		"a test, or go run": {"", true, "localhost/aws-encryption-provider:devel-fips140"},
	} {
		if got := generate.Image(c.version, c.fips); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
