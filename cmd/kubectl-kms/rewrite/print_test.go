package rewrite_test

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
)

const schemaFile = "../../../deploy/kubectl-kms-migrate.schema.json"

// admissions are what a test says.
type admissions rewrite.Admission

func (a admissions) Of(context.Context, []rewrite.Resource) (rewrite.Admission, error) {
	return rewrite.Admission(a), nil
}

// everything runs a migration that fills every field of a report, and prints as a
// command does.
func everything(t *testing.T, form string, o rewrite.Options) (r *rewrite.Report, out string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster("changed", "fresh", "gone", "good", "other", "refused-1", "refused-2", "uncompared")
		c.objects["fresh"].stale, c.objects["fresh"].doubt = false, true
		c.notRead = []string{"not read: /openshift.io in etcd"}
		c.lost = []rewrite.Left{{Path: "/registry/secrets/default/k2", Resource: "secrets", Outcome: rewrite.OutcomeUnreadable, Cause: "no provider of the encryption configuration reads aescbc k2", Next: "List it"}}
		c.answer = func(_ context.Context, c *cluster, name string, _ int) (int64, error) {
			switch name {
			case "changed":
				c.mu.Lock()
				c.objects[name].size = 1234
				c.mu.Unlock()
			case "gone":
				c.remove(name)
			case "other":
				c.write(name, false)
			case "refused-1", "refused-2":
				return 0, &rewrite.RefusalError{Code: 403, Cause: "webhook no.example.com refuses it", Next: "Ask its owner"}
			case "uncompared":
				c.mu.Lock()
				c.looks = []error{rewrite.ErrNotCompared}
				c.mu.Unlock()
			}
			return 0, errAsUsual
		}
		var b bytes.Buffer
		o.Workers = 1
		o.Announce = func(r *rewrite.Report) error {
			if form != "table" {
				return nil
			}
			return r.PrintPlan(&b, false)
		}
		a := admissions{Mutating: []string{"webhook m of mutatingwebhookconfiguration c, asked about secrets"}, Unknown: "this user may not list mutatingadmissionpolicies"}
		var err error
		if r, err = rewrite.Run(t.Context(), o, c, c, c, a); err != nil {
			t.Fatal(err)
		}
		if err := r.Print(&b, rewrite.PrintOptions{Form: form}); err != nil {
			t.Fatal(err)
		}
		out = b.String()
	})
	return r, out
}

func TestTheTable(t *testing.T) {
	t.Parallel()
	_, got := everything(t, "table", rewrite.Options{})
	want := `read: etcd
API servers: both write under aws; two of them
RESOURCE  UNDER       STALE  IN DOUBT
secrets   kms v2 aws      8         1
may change what is written: webhook m of mutatingwebhookconfiguration c, asked about secrets
webhooks and policies that may change what is written: not known: this user may not list mutatingadmissionpolicies
Each is written as it is. What admission changes on the way cannot be undone: that is what a backup of etcd from before is for.
ROUND  SENT  WRITTEN  NOT WRITTEN  CONFLICTS  GONE  REFUSED  FAILED  CHANGED
    1     8        3            1          1     1        2       0        1
longer or shorter than before, by admission or because a newer kube-apiserver stores them otherwise:
  /registry/secrets/default/changed: 1,234 bytes, was 100
2 objects: webhook no.example.com refuses it. Ask its owner
  /registry/secrets/default/refused-1
  /registry/secrets/default/refused-2
1 object: no provider of the encryption configuration reads aescbc k2. List it
  /registry/secrets/default/k2
3 of 9 rewritten; 3 need you; 1 no longer stale by other writes or deletions; 1 gone; 1 not written, since the API server takes them for fresh; 1 longer or shorter than before; not read: /openshift.io in etcd; read: etcd; API servers: both write under aws.
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, got = everything(t, "table", rewrite.Options{DryRun: true})
	if !strings.HasSuffix(got, "dry run: 8 objects would be sent, nothing was; 1 needs you; not read: /openshift.io in etcd; read: etcd; API servers: both write under aws.\n") || strings.Contains(got, "backup") {
		t.Errorf("a dry run:\n%s", got)
	}
}

func TestJSONAndYAMLAreAsTheSchemaSays(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]rewrite.Options{"all": {}, "dry run": {DryRun: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, text := everything(t, "json", o)
			var fromJSON, fromYAML any
			if err := json.Unmarshal([]byte(text), &fromJSON); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(fromJSON); err != nil {
				t.Error(err)
			}
			var b bytes.Buffer
			if err := r.Print(&b, rewrite.PrintOptions{Form: "yaml"}); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal(b.Bytes(), &fromYAML); err != nil {
				t.Fatal(err)
			}
			again, err := json.Marshal(fromYAML)
			if err != nil {
				t.Fatal(err)
			}
			var fromYAMLAsJSON any
			if err := json.Unmarshal(again, &fromYAMLAsJSON); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(fromJSON, fromYAMLAsJSON); diff != "" {
				t.Errorf("(-JSON +YAML):\n%s", diff)
			}
			var back rewrite.Report
			if err := json.Unmarshal([]byte(text), &back); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(&back, r) {
				t.Errorf("(-report +JSON):\n%s", cmp.Diff(r, &back))
			}
		})
	}
}

// TestTheSentenceNeverSaysMoreThanIsKnown: in every result that is not "nothing left".
func TestTheSentenceNeverSaysMoreThanIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, prepare := range map[string]func(*cluster){
			"left": func(c *cluster) {
				c.answer = only("a", func(context.Context, *cluster, string, int) (int64, error) { return 0, refusal(422) })
			},
			"not known":  func(c *cluster) { c.notRead = []string{"not read: events"} },
			"not proved": func(c *cluster) { c.noEtcd = true },
			"refused":    func(c *cluster) { c.judged = []rewrite.Judgement{{Reasons: []string{"nobody knows"}}} },
			"planned":    func(*cluster) {},
		} {
			c := newCluster("a", "b")
			prepare(c)
			r := c.run(t, rewrite.Options{DryRun: name == "planned"})
			if string(r.Result) != name || strings.Contains(r.Text, "nothing stale is left") || strings.Contains(r.Text, "done") {
				t.Errorf("%q: %q: %s", name, r.Result, r.Text)
			}
		}
	})
}
