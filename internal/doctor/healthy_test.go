package doctor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/doctor"
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
			n.encryptionConfig(entryV2 + toClear)
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
					n.run()
				}
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
	const page = "../../docs/doctor-codes.md"
	if *update {
		if err := os.WriteFile(page, []byte(doctor.Page()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != doctor.Page() {
		t.Errorf("%s is stale: run make generate", page)
	}
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
		if info.What == "" || info.Next == "" || !strings.Contains(string(got), "\n## "+info.ID+"\n") {
			t.Errorf("%s has no cause, instruction or section", info.ID)
		}
	}
}
