package apiservers_test

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/apiservers"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

const schemaFile = "../../../deploy/kubectl-kms-status.schema.json"

// everything fills every field of a report.
func everything(t *testing.T) *apiservers.Report {
	t.Helper()
	o, opts := three(), parse(t, file)
	both(o, 1, func(a *apiservers.Answer) { a.Keys[0].Hash = hash(oldKey) })
	o.Asked[2] = apiservers.Asked{Address: "10.0.0.2:6443", Err: errors.New("10.0.0.2:6443: it does not answer in time. Ask there")}
	o.Asked = append(o.Asked, apiservers.Asked{Address: "https://a:6443", Answers: o.Asked[0].Answers})
	opts.From, opts.KeyIDs = "admin.conf", []string{oldKey}
	opts.Probe = &apiservers.Probe{
		Stored:    []apiservers.Stored{{Address: "10.0.0.0:6443", Resource: "secrets", Format: "kms v2", Provider: "aws", KeyID: newKey}},
		NotProbed: []apiservers.NotProbed{{Resource: "pods", Reason: "a new one would do something"}},
	}
	return apiservers.Judge(o, opts)
}

func printed(t *testing.T, r *apiservers.Report, form string) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b, form, true); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestJSONAndYAMLAreAsTheSchemaSays(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	nobody := apiservers.Judge(&apiservers.Observation{}, apiservers.Options{})
	for name, r := range map[string]*apiservers.Report{
		"everything": everything(t), "three": apiservers.Judge(three(), apiservers.Options{From: "admin.conf"}), "nobody": nobody,
	} {
		var fromJSON, fromYAML any
		if err := json.Unmarshal([]byte(printed(t, r, "json")), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(fromJSON); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := yaml.Unmarshal([]byte(printed(t, r, "yaml")), &fromYAML); err != nil {
			t.Fatal(err)
		}
		again, _ := json.Marshal(fromYAML)
		want, _ := json.Marshal(fromJSON)
		if diff := cmp.Diff(string(want), string(again)); diff != "" {
			t.Errorf("%s: JSON and YAML differ (-JSON +YAML):\n%s", name, diff)
		}
	}
}

// Every field and every kind of reason is in the schema.
func TestTheSchemaHasTheReportsFields(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []any{
		apiservers.Report{},
		apiservers.APIServer{},
		apiservers.Key{},
		apiservers.Write{},
		apiservers.NotCovered{},
		apiservers.NotProbed{},
		apiservers.File{},
		apiservers.Verdict{},
		apiservers.Reason{},
	} {
		for f := range reflect.TypeOf(of).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || !strings.Contains(string(data), `"`+name+`": {`) {
				t.Errorf("the schema lacks %T's %q", of, name)
			}
		}
	}
	for _, kind := range apiservers.Kinds() {
		if !strings.Contains(string(data), `"`+string(kind)+`"`) {
			t.Errorf("the schema lacks the reason %q", kind)
		}
	}
}

func TestTableFitsATerminal(t *testing.T) {
	t.Parallel()
	got := printed(t, everything(t), "table")
	want := `asked as admin.conf says, at the addresses of EndpointSlice default/kubernetes
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("it begins\n%s", got)
	}
	for line := range strings.Lines(got) {
		if line = strings.TrimSuffix(line, "\n"); len(line) > report.Columns && !strings.Contains(line, "?material=") {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for _, text := range []string{
		"no answer", "not asked", "not probed: pods", oldKey, "verdict: not converged: ", "cp-1        10.0.0.1:6443  v1.37.2    625f01ff  aws       afb232b0   20s", "kms v2 aws",
	} {
		if !strings.Contains(got, text) {
			t.Errorf("it lacks %q:\n%s", text, got)
		}
	}
	if lines := strings.Split(strings.TrimSpace(got), "\n"); !strings.HasSuffix(lines[len(lines)-1], ".") {
		t.Errorf("it does not end with the verdict:\n%s", got)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestPrintSaysThatItFailed(t *testing.T) {
	t.Parallel()
	for _, form := range apiservers.Forms() {
		if err := everything(t).Print(brokenWriter{}, form, false); err == nil {
			t.Errorf("%s: want an error", form)
		}
	}
}
