package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/aws-encryption-provider/test/e2e/cluster"
)

// An instruction is one that a document gives. The test follows it on the first of
// two nodes while KMS cannot be reached.
type instruction struct {
	doc, words string // where it stands, and how it begins

	first func(d *drill) // what the document has done before, while KMS answers; nil: nothing
	amid  func(d *drill) // the instruction
	then  func(d *drill) // what comes next in the document, when KMS is back; nil: nothing

	silent bool // the first node's API server need not write before KMS is back
}

// A drill is two nodes on which instructions are followed one after the other.
type drill struct {
	*stage

	nodes []*node
	book  ledger // acknowledged by either node

	key, other string
	named      int // secrets so far
}

// TestInstructionsOnOneNodeAmidAnOutage: what the documents tell one to restart,
// reload, promote or take out is done on one node of two, at the worst moment: KMS
// cannot be reached. Meanwhile v2 API servers write on. When KMS is back, each node
// reads what the other has written, all that was acknowledged is there, and it
// reads after a cold start too.
func TestInstructionsOnOneNodeAmidAnOutage(t *testing.T) {
	t.Parallel()
	for name, all := range map[string][]instruction{
		"keys":        changesOfKeys(),
		"files":       changesOfTheFile(),
		"program":     restartsOfTheProgram(),
		"API servers": changesOfAPIServers(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			d := &drill{stage: s, key: s.key(), other: s.key(), book: ledger{}}
			d.nodes = s.nodesThatReload(2, d.key)
			for _, i := range all {
				d.follow(i)
			}
			coldStart(d.nodes)
			d.readEachOther()
		})
	}
}

func (d *drill) follow(i instruction) {
	d.t.Helper()
	d.standsIn(i)
	if i.first != nil {
		i.first(d)
	}
	d.writeOnEach(0)
	d.readEachOther()

	start := time.Now()
	d.kms.Unlisten()
	i.amid(d)
	writing := 0
	if i.silent {
		writing = 1
	}
	d.writeOnEach(writing)
	d.must(d.kms.Listen(d.t.Context()))

	for _, n := range d.nodes {
		d.eventually(3*time.Minute, "a node is well again", func(ctx context.Context) error {
			return expectCheck(ctx, n.server, "/readyz", http.StatusOK)
		})
	}
	if i.then != nil {
		i.then(d)
	}
	d.writeOnEach(0)
	d.readEachOther()
	d.t.Logf("%s: %s: followed in %v", i.doc, i.words, time.Since(start).Round(100*time.Millisecond))
}

// standsIn demands that the document still says so.
func (d *drill) standsIn(i instruction) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", i.doc))
	d.must(err)
	if !strings.Contains(strings.Join(strings.Fields(string(text)), " "), i.words) {
		d.t.Fatalf("%s does not say %q any more: follow here what it says now", i.doc, i.words)
	}
}

// writeOnEach writes through every API server from this one on.
func (d *drill) writeOnEach(from int) {
	d.t.Helper()
	for _, n := range d.nodes[from:] {
		for range 2 {
			d.must(d.writeOn(d.t.Context(), n))
		}
	}
}

func (d *drill) writeOn(ctx context.Context, n *node) error {
	d.named++
	name := fmt.Sprintf("drill-%d", d.named)
	err := n.server.CreateSecret(ctx, name, value(name))
	if err == nil {
		d.book[name] = value(name)
	}
	return err
}

// readEachOther demands that each node reads all that either has written.
func (d *drill) readEachOther() {
	d.t.Helper()
	for _, n := range d.nodes {
		d.readsAll(n.server, d.book)
	}
}

// writesUnderSoon writes through the node until that is done under this key_id.
func (d *drill) writesUnderSoon(n *node, keyID string) {
	d.t.Helper()
	d.eventually(followLimit, "an API server writes under the key_id", func(ctx context.Context) error {
		if err := expectCheck(ctx, n.server, cluster.KMSCheck, http.StatusOK); err != nil { // it asks Status
			return err
		}
		if err := d.writeOn(ctx, n); err != nil {
			return err
		}
		return n.writesUnder(ctx, keyID)
	})
}

// keeps demands that the node's plugin says that it does not take its file over.
func (d *drill) keeps(n *node) {
	d.t.Helper()
	d.eventually(reloadLimit, "the plugin keeps what it has", func(ctx context.Context) error {
		return expectText(ctx, n.plugin.Health+"/readyz?verbose", "configuration not reloaded since")
	})
}

// expectText fails unless the page, whatever its status is, has these words.
func expectText(ctx context.Context, url string, words ...string) error {
	text, err := cluster.Text(ctx, url)
	if err != nil {
		return err
	}
	if missing := lacks(text, words...); missing != nil {
		return fmt.Errorf("%s lacks %q: %s", url, missing, text)
	}
	return nil
}

func changesOfKeys() []instruction {
	return []instruction{
		{
			doc: "docs/rotation.md", words: "### 2. Add it below, on every node",
			amid: func(d *drill) { d.nodes[0].hold(d.key, d.other) },
			then: func(d *drill) { d.nodes[1].hold(d.key, d.other) },
		},
		{
			doc: "docs/rotation.md", words: "### 3. Move it to the top, on every node",
			amid: func(d *drill) { d.promote(d.other, d.key) },
			then: func(d *drill) { d.promoted(d.other) },
		},
		{
			doc: "docs/rotation.md", words: "move OLD to the top again, and leave NEW below",
			amid: func(d *drill) { d.promote(d.key, d.other) },
			then: func(d *drill) { d.promoted(d.key) },
		},
		{
			doc: "docs/rotation.md", words: "### 6. Take the old key out, on every node",
			first: func(d *drill) {
				for _, n := range d.nodes {
					n.hold(d.other, d.key)
				}
				for _, n := range d.nodes {
					d.writesUnderSoon(n, d.keyID(d.other))
				}
				d.must(d.nodes[1].server.RewriteSecrets(d.t.Context()))
			},
			amid: func(d *drill) { d.nodes[0].hold(d.other) },
			then: func(d *drill) { d.nodes[1].hold(d.other) },
		},
	}
}

// promote gives the first node a file with another key on top, which it does not
// take over before it has tried that key.
func (d *drill) promote(keys ...string) {
	d.t.Helper()
	n := d.nodes[0]
	n.ring.Keys = keys
	d.must(n.plugin.SetFile(cluster.ProviderConfiguration(d.kms.URL(), n.ring)))
	d.keeps(n)
}

// promoted waits until the first node writes with the key.
func (d *drill) promoted(key string) {
	d.t.Helper()
	d.must(d.nodes[0].plugin.WaitLoaded(d.t.Context(), 2*time.Minute))
	d.writesUnderSoon(d.nodes[0], d.keyID(key))
}

func changesOfTheFile() []instruction {
	return []instruction{
		{
			doc: "docs/rotation.md", words: "Raise it on every node, one after the other.",
			amid: func(d *drill) {
				n := d.nodes[0]
				n.ring.Epoch = 1
				d.must(n.plugin.SetFile(cluster.ProviderConfiguration(d.kms.URL(), n.ring)))
				d.keeps(n)
			},
			then: func(d *drill) {
				d.must(d.nodes[0].plugin.WaitLoaded(d.t.Context(), 2*time.Minute))
				d.writesUnderSoon(d.nodes[0], d.keyID(d.key)+"&epoch=1")
				d.nodes[1].ring.Epoch = 1
				d.configure(d.nodes[1].plugin, d.nodes[1].ring)
			},
		},
		{
			doc: "docs/configuration.md", words: "kill -HUP",
			amid: func(d *drill) {
				d.must(d.nodes[0].plugin.Signal(syscall.SIGHUP))
				d.must(d.nodes[0].plugin.WaitLoaded(d.t.Context(), reloadLimit))
			},
		},
		{
			doc: "docs/runbooks/EncryptionProviderReloadFailed.md", words: "Mend the file or put the last one back",
			first: func(d *drill) {
				d.must(d.nodes[0].plugin.SetFile("broken: yes\n"))
				d.keeps(d.nodes[0])
			},
			amid: func(d *drill) { d.configure(d.nodes[0].plugin, d.nodes[0].ring) },
		},
		{
			// The nodes in the other order: the second has promoted a key that the
			// first does not list.
			doc: "docs/rotation.md", words: "List NEW below OLD on the other nodes.",
			first: func(d *drill) {
				d.nodes[1].hold(d.other, d.key)
				d.eventually(followLimit, "a node wrote what the other cannot read", func(ctx context.Context) error {
					d.must(expectCheck(ctx, d.nodes[1].server, cluster.KMSCheck, http.StatusOK))
					d.must(d.writeOn(ctx, d.nodes[1]))
					if _, err := d.nodes[0].server.Secrets(ctx); err == nil {
						return errors.New("it reads all")
					}
					return nil
				})
				d.nodes[0].hold(d.key, d.other)
				d.readEachOther()
				d.nodes[0].hold(d.key)
			},
			amid: func(d *drill) { d.nodes[0].hold(d.key, d.other) },
		},
	}
}

func restartsOfTheProgram() []instruction {
	return []instruction{
		{
			doc: "docs/failures.md", words: "give a longer `outageGrace`",
			first: func(d *drill) { d.grace(d.nodes[0], 2*time.Second) },
			amid: func(d *drill) {
				d.eventually(2*time.Minute, "the check failed", func(ctx context.Context) error {
					return expectCheck(ctx, d.nodes[0].server, cluster.KMSCheck, http.StatusInternalServerError, "KMS0")
				})
				d.grace(d.nodes[0], time.Hour)
				d.eventually(time.Minute, "the check is ok again", func(ctx context.Context) error {
					return expectCheck(ctx, d.nodes[0].server, cluster.KMSCheck, http.StatusOK)
				})
			},
		},
		{
			doc: "docs/failures.md", words: "restart this program, with the same configuration",
			amid: func(d *drill) {
				d.restartPlugin(d.nodes[0])
				d.eventually(time.Minute, "the check is ok", func(ctx context.Context) error {
					return expectCheck(ctx, d.nodes[0].server, cluster.KMSCheck, http.StatusOK)
				})
			},
		},
		{
			doc: "docs/rotation.md", words: "each step restarts the program, one control plane after the other",
			first: func(d *drill) {
				for _, n := range d.nodes {
					n.hold(d.key, d.other)
				}
			},
			amid: func(d *drill) {
				n := d.nodes[0]
				n.ring.Keys = []string{d.other, d.key}
				d.must(n.plugin.SetFile(cluster.ProviderConfiguration(d.kms.URL(), n.ring)))
				d.restartPlugin(n)
				d.eventually(2*time.Minute, "the check failed", func(ctx context.Context) error {
					return expectCheck(ctx, n.server, cluster.KMSCheck, http.StatusInternalServerError, "KMS0")
				})
			},
			then: func(d *drill) { d.writesUnderSoon(d.nodes[0], d.keyID(d.other)) },
		},
	}
}

// grace gives the node this outageGrace, and waits until its plugin has it.
func (d *drill) grace(n *node, grace time.Duration) {
	d.t.Helper()
	n.ring.Grace = grace
	d.configure(n.plugin, n.ring)
}

// restartPlugin ends the node's plugin and starts it. KMS need not be there.
func (d *drill) restartPlugin(n *node) {
	d.t.Helper()
	d.must(n.plugin.Stop(stopLimit))
	d.must(n.plugin.Program.Start())
}

func changesOfAPIServers() []instruction {
	return []instruction{
		{
			doc: "docs/migration.md", words: "An API server takes it when it is restarted, or within a minute by",
			amid: func(d *drill) {
				n := d.nodes[0]
				second := n.provider()
				second.Name = "second"
				d.must(n.server.SetEncryption(cluster.Encryption(n.provider(), second)))
				d.eventually(3*time.Minute, "the API server tried its new file", func(ctx context.Context) error {
					page, err := cluster.Text(ctx, n.plugin.Health+"/metrics")
					if err != nil {
						return err
					}
					calls := map[string]string{"operation": "encrypt", "class": "outage"}
					if v, _ := cluster.ParseMetrics(page).Value("aws_encryption_provider_calls_total", calls); v == 0 {
						return errors.New("it has not asked for another seed")
					}
					return nil
				})
			},
			then: func(d *drill) { d.must(d.nodes[0].server.WaitLoaded(d.t.Context(), 3*time.Minute)) },
		},
		{
			doc: "docs/migration.md", words: "Restart one, [while KMS answers]",
			amid: func(d *drill) {
				n := d.nodes[0]
				d.must(n.server.Kill())
				d.must(n.server.StartUnready(d.t.Context()))
				d.must(expectCheck(d.t.Context(), n.server, "/readyz", http.StatusInternalServerError))
			},
			silent: true,
		},
		wayBack(),
	}
}

// wayBack is to the predecessor, and forth again.
func wayBack() instruction {
	var predecessor *cluster.Predecessor
	return instruction{
		doc: "docs/upgrade.md", words: "Start the predecessor on the same socket, with its old command line.",
		amid: func(d *drill) {
			d.must(d.nodes[0].plugin.Stop(stopLimit))
			predecessor = d.predecessor(d.key, d.nodes[0].ring.Socket)
		},
		then: func(d *drill) {
			d.writesUnderSoon(d.nodes[0], d.key)
			d.readEachOther()
			d.must(predecessor.Stop(stopLimit))
			d.must(d.nodes[0].plugin.Start(d.t.Context()))
			d.writesUnderSoon(d.nodes[0], d.keyID(d.key))
		},
	}
}
