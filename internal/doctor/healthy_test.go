package doctor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
	"sigs.k8s.io/aws-encryption-provider/internal/generatedtest"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func TestNoFalseAlarmWhereAllIsWell(t *testing.T) {
	for name, c := range map[string]struct {
		tls    bool
		change func(n *node)
		says   string
	}{
		"flags": {change: func(*node) {}, says: "flags: valid"},
		"file": {change: func(n *node) {
			n.file = n.write("c.yaml", fmt.Sprintf(fileHead+
				"providers:\n- name: a\n  listen: %s\n  keys:\n  - key: %s\n    encryptionContext: {cluster: a}\n", n.socket, n.key))
		}, says: "c.yaml: valid"},
		"key id": {change: func(n *node) { n.keyFlag = n.key[strings.LastIndexByte(n.key, '/')+1:] }, says: "is arn:aws:kms:"},
		"two providers": {change: func(n *node) {
			n.providersFile(fmt.Sprintf("- name: a\n  listen: %s\n%s- name: b\n  listen: %s/t\n%s", n.socket, keysOf(n.key), n.dir, keysOf(n.key)))
			n.second = "  - kms: {apiVersion: v2, name: b, endpoint: \"unix://" + n.dir + "/t\", timeout: 3s}\n"
		}, says: "providers: 2"},
		"a timeout of 10s": {change: func(n *node) {
			n.second = "  - kms: {apiVersion: v2, name: b, endpoint: \"unix://SOCKET\", timeout: 10s}\n"
		}, says: "agrees with this configuration"},
		"alias": {change: func(n *node) {
			n.must(nil, n.kms.CreateAlias(kmstest.Region, "alias/etcd", n.key))
			n.keyFlag = "alias/etcd"
		}, says: "is arn:aws:kms:"},
		"DescribeKey denied": {change: func(n *node) {
			n.kms.Deny(n.key, "DescribeKey")
			n.kms.Deny(n.key, "GetKeyRotationStatus")
		}, says: "kms:DescribeKey is not allowed"},
		"mrk-": {change: func(n *node) { n.key = n.createKey(kmsemulator.KeyOptions{MultiRegion: true}) }, says: "multi-Region"},
		"a socket by a link, as /var/run is one": {change: func(n *node) {
			n.must(nil, os.Mkdir(filepath.Join(n.dir, "run"), 0o700))
			n.must(nil, os.Symlink("run", filepath.Join(n.dir, "var-run")))
			n.socket, n.linked = filepath.Join(n.dir, "run", "p", "s"), filepath.Join(n.dir, "var-run", "p", "s")
		}, says: "agrees with this configuration"},
		"an entry that leads to the socket by a link": {change: func(n *node) {
			n.linked = filepath.Join(n.dir, "link")
			n.must(nil, os.Symlink("s", n.linked))
		}, says: "agrees with this configuration"},
		"custom endpoint over TLS": {tls: true, change: func(n *node) {
			n.t.Setenv("AWS_ENDPOINT_URL_KMS", "")
			n.flags = []string{"--kms-endpoint=" + n.kms.URL}
		}, says: "TLS 1.3, X25519MLKEM768"},
	} {
		t.Run(name, func(t *testing.T) {
			start := kmstest.Start
			if c.tls {
				start = kmstest.StartTLS
			}
			n := newNode(t, start(t))
			c.change(n)
			n.encryptionConfig(entryV2 + n.second + toClear)
			for _, when := range []string{"before", "after"} { // the start of the plugin
				r := n.examine()
				if codes, _ := findings(r); len(codes) > 0 {
					t.Errorf("%s the start: finds %q:\n%s", when, codes, text(t, r))
				}
				if !strings.Contains(text(t, r), c.says) {
					t.Errorf("%s the start: want %q in:\n%s", when, c.says, text(t, r))
				}
				leaksNothing(t, n, r)
				if when == "before" {
					if want := "Before the first start on this node, look at the nodes that run already: they have to list arn:aws:kms:"; !strings.Contains(text(t, r), want) {
						t.Errorf("want %q in:\n%s", want, text(t, r))
					}
					n.run()
				}
			}
		})
	}
}

// TestNoAlarmAtChangesThatHurtNobody: a plugin runs, and the configuration is the
// next one.
func TestNoAlarmAtChangesThatHurtNobody(t *testing.T) {
	for name, change := range map[string]func(n *node){
		"what runs already": func(n *node) { n.runsWith(n.key) },
		"the same in another file": func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.key)
		},
		"a key below": func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.key, n.createKey(kmsemulator.KeyOptions{}))
		},
		"further keys in another order": func(n *node) {
			b, c := n.createKey(kmsemulator.KeyOptions{}), n.createKey(kmsemulator.KeyOptions{})
			n.runsWith(n.key, b, c)
			n.keysFile(n.key, c, b)
		},
		"from an alias to its key": func(n *node) {
			n.must(nil, n.kms.CreateAlias(kmstest.Region, "alias/etcd", n.key))
			n.runsWith("alias/etcd\n    region: " + kmstest.Region)
			n.keysFile(n.key)
		},
		"from a key to an alias of it": func(n *node) {
			n.must(nil, n.kms.CreateAlias(kmstest.Region, "alias/etcd", n.key))
			n.runsWith(n.key)
			n.keysFile("alias/etcd\n    region: " + kmstest.Region)
		},
		"the pairs of a context in another order": func(n *node) {
			n.runsWith(n.key + "\n    encryptionContext: {a: b, c: d}")
			n.keysFile(n.key + "\n    encryptionContext: {c: d, a: b}")
		},
		"from flags to a file": func(n *node) {
			n.run()
			n.keysFile(n.key)
		},
		"another name of the provider": func(n *node) {
			n.runsWith(n.key)
			n.providersFile("- name: b\n  listen: " + n.socket + "\n" + keysOf(n.key))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, kmstest.Start(t))
			change(n)
			r := n.examine()
			if codes, _ := findings(r); len(codes) > 0 {
				t.Errorf("finds %q:\n%s", codes, text(t, r))
			}
			if !strings.Contains(text(t, r), "is well: "+n.key) {
				t.Errorf("did not ask the plugin:\n%s", text(t, r))
			}
		})
	}
}

func TestKeyThatOnlyReadsNeedNotEncrypt(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	old := n.createKey(kmsemulator.KeyOptions{})
	n.kms.Deny(old, "Encrypt")
	n.flags = []string{"--decrypt-key=" + old}
	r := n.examine()
	if codes, _ := findings(r); len(codes) > 0 {
		t.Errorf("finds %q:\n%s", codes, text(t, r))
	}
}

func TestEveryLinkLeadsToASection(t *testing.T) {
	t.Parallel()
	generatedtest.Current(t, "../../docs/doctor-codes.md", doctor.Page(), *update)
	ids := map[string]bool{}
	for _, c := range cause.Codes() {
		ids[c.String()] = true
	}
	for _, c := range doctor.Codes() {
		info := c.Info()
		if ids[info.ID] {
			t.Errorf("%s is used twice", info.ID)
		}
		ids[info.ID] = true
		if info.What == "" || info.Next == "" || !strings.Contains(doctor.Page(), "\n## "+info.ID+"\n") {
			t.Errorf("%s has no cause, instruction or section", info.ID)
		}
	}
}
