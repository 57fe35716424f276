package doctor_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/internal/inquiry"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
)

func runningFaults() []fault {
	return []fault{
		{"another program on the socket", "KMS0711", "", func(n *node) {
			l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "unix", n.socket)
			n.must(nil, err)
			n.must(nil, os.Chmod(n.socket, 0o600))
			s := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
			go func() { _ = s.Serve(l) }()
			n.t.Cleanup(func() { _ = s.Close() })
		}},
		{"plugin whose key was disabled", "KMS0101", "", func(n *node) {
			n.run()
			n.must(nil, n.kms.DisableKey(n.key))
		}},
		{"plugin that is ill by itself", "KMS0712", "no cure on this node alone: do not run this configuration on this node yet", func(n *node) {
			n.run()
			n.must(nil, n.kms.DisableKey(n.key))
			n.key = n.createKey(kmsemulator.KeyOptions{})
		}},
		{"plugin with another context", "KMS0713", "encryption context", func(n *node) {
			n.run()
			n.flags = []string{"--encryption-context=cluster=b"}
		}},
		{"plugin with another key", "KMS0713", "writes with", func(n *node) {
			n.run()
			n.key = n.createKey(kmsemulator.KeyOptions{})
		}},
		{"key by flags that nobody lists", "KMS0713", "--decrypt-key is the key below", func(n *node) {
			n.run()
			n.key = n.createKey(kmsemulator.KeyOptions{})
		}},
		{"file with an unlisted key on top", "KMS0713", "below on all nodes, as a read key; then move it to the top on one node after the other", func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.createKey(kmsemulator.KeyOptions{}), n.key)
		}},
		{"file with an unlisted key on top, the health port not known", "KMS0713", "below on all nodes, as a read key", func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.createKey(kmsemulator.KeyOptions{}), n.key)
			n.health = ""
		}},
		{"file with another key alone", "KMS0713", "keep the key with which the plugin writes now", func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.createKey(kmsemulator.KeyOptions{}))
		}},
		{"file whose first key only reads so far", "KMS0713", "first see that every other node lists", func(n *node) {
			next := n.createKey(kmsemulator.KeyOptions{})
			n.runsWith(n.key, next)
			n.keysFile(next, n.key)
		}},
		{"key that does not exist, where another one runs", "KMS0103", "not compared, because of KMS0103", func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.key[:len(n.key)-12]+"000000000000", n.key)
		}},
		{"file without a key that reads", "KMS0728", "keep the key below the others", func(n *node) {
			n.runsWith(n.key, n.createKey(kmsemulator.KeyOptions{}))
			n.keysFile(n.key)
		}},
		{"file without a second context of the key", "KMS0728", "keep the key below the others", func(n *node) {
			n.runsWith(n.key, n.key+"\n    encryptionContext: {cluster: b}")
			n.keysFile(n.key)
		}},
		{"file with a context on top that may be listed", "KMS0713", "where not every node lists", func(n *node) {
			context := n.key + "\n    encryptionContext: {cluster: b}"
			n.runsWith(n.key, context)
			n.keysFile(context, n.key)
		}},
		{"file with another context on top", "KMS0713", "with the new encryption context below on all nodes", func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.key+"\n    encryptionContext: {cluster: b}", n.key)
		}},
		{"file with a higher epoch", "KMS0713", "on one node after the other, and soon on all", func(n *node) {
			n.runsWith(n.key)
			n.providersFile("- name: a\n  epoch: 2\n  listen: " + n.socket + "\n" + keysOf(n.key))
		}},
		{"file with a lower epoch", "KMS0713", "the key_id is one that was there before", func(n *node) {
			n.providersFile("- name: a\n  epoch: 2\n  listen: " + n.socket + "\n" + keysOf(n.key))
			n.runsByFile()
			n.keysFile(n.key)
		}},
		{"file with an alias of another key on top", "KMS0713", "below on all nodes, as a read key", func(n *node) {
			n.runsWith(n.key)
			n.must(nil, n.kms.CreateAlias(kmstest.Region, "alias/next", n.createKey(kmsemulator.KeyOptions{})))
			n.keysFile("alias/next", n.key)
		}},
		{"alias that was moved", "KMS0713", "follows its alias by itself within two minutes", func(n *node) {
			n.must(nil, n.kms.CreateAlias(kmstest.Region, "alias/etcd", n.key))
			n.runsWith("alias/etcd")
			n.works() // else it may resolve the alias after the move
			n.must(nil, n.kms.UpdateAlias(kmstest.Region, "alias/etcd", n.createKey(kmsemulator.KeyOptions{})))
			n.keysFile("alias/etcd\n    region: "+kmstest.Region, n.key)
		}},
		{"second of two providers with another key", "KMS0713", "/t: this configuration writes with another key", func(n *node) {
			two := func(key string) string {
				return "- name: a\n  listen: " + n.socket + "\n" + keysOf(n.key) + "- name: b\n  listen: " + filepath.Join(n.dir, "t") + "\n" + keysOf(key)
			}
			n.providersFile(two(n.key))
			n.runsByFile()
			n.providersFile(two(n.createKey(kmsemulator.KeyOptions{})))
		}},
		{"file without a provider that runs", "KMS0729", "/t", func(n *node) {
			n.providersFile("- name: a\n  listen: " + n.socket + "\n" + keysOf(n.key) + "- name: b\n  listen: " + filepath.Join(n.dir, "t") + "\n" + keysOf(n.key))
			n.runsByFile()
			n.keysFile(n.key)
		}},
		{"file whose only provider moved", "KMS0729", "no provider of this configuration is at ", func(n *node) {
			n.keysFile(n.key)
			n.runsByFile()
			n.providersFile("- name: a\n  listen: " + filepath.Join(n.dir, "t") + "\n" + keysOf(n.key))
		}},
		{"file that the plugin has not taken over", "KMS0732", "its.yaml:1: providers: is missing", func(n *node) {
			n.runsWith(n.key)
			n.keysFile(n.key)
			n.must(nil, os.WriteFile(filepath.Join(n.dir, "its.yaml"), []byte(fileHead+"nonsense: 1\n"), 0o600))
			n.until(func() bool {
				p, err := inquiry.AskProcess(n.t.Context(), n.health, time.Second)
				return err == nil && p.Refused != ""
			})
		}},
	}
}

// TestUnlistedKeyIsToldInAnOutage: the ARN says which key is meant, though KMS
// does not.
func TestUnlistedKeyIsToldInAnOutage(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.runsWith(n.key)
	n.keysFile(n.createKey(kmsemulator.KeyOptions{}), n.key)
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1") // of the doctor alone: the plugin has read its settings
	codes, said := findings(n.examine())
	if !slices.Equal(codes, []string{"KMS0204", "KMS0713"}) || !strings.Contains(said, "change no key while KMS does not answer") {
		t.Errorf("finds %q:\n%s", codes, said)
	}
}

// TestPluginWhoseKeyIsRefusedIsComparedByItsHealthPort: Status names no key_id then.
func TestPluginWhoseKeyIsRefusedIsComparedByItsHealthPort(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.runsWith(n.key)
	n.must(nil, n.kms.DisableKey(n.key))
	n.keysFile(n.createKey(kmsemulator.KeyOptions{}))
	n.until(func() bool {
		r := inquiry.Ask(t.Context(), inquiry.Question{Socket: n.socket, Timeout: time.Second})
		return r.KeyID == ""
	})
	codes, said := findings(n.examine())
	if !slices.Equal(codes, []string{"KMS0712"}) || !strings.Contains(said, "no cure on this node alone: do not run this configuration on this node yet") {
		t.Errorf("finds %q:\n%s", codes, said)
	}
}

// A key that KMS refuses is another key all the same: whoever cures the refusal must not
// take the configuration to one node alone.
func TestARefusedKeyOnTopIsAnotherKey(t *testing.T) {
	n := newNode(t, kmstest.Start(t))
	n.runsWith(n.key)
	next := n.createKey(kmsemulator.KeyOptions{})
	n.must(nil, n.kms.DisableKey(next))
	n.keysFile(next, n.key)
	r := n.examine()
	if codes, _ := findings(r); !slices.Equal(codes, []string{"KMS0101", "KMS0713"}) {
		t.Errorf("finds %q, want the refusal and the other key:\n%s", codes, text(t, r))
	}
	if want := "below on all nodes, as a read key"; !strings.Contains(text(t, r), want) {
		t.Errorf("does not say %q:\n%s", want, text(t, r))
	}
}
