package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/audit/audittest"
	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/store"
)

const schemaFile = "../../../deploy/kubectl-kms-audit.schema.json"

// everything fills every field of a report.
const everything = `snapshot
unread /openshift.io
caveat It has no digest.
/registry/secrets/default/a v2 aws ` + newARN + `?material=3d8a
/registry/secrets/default/b v1 aws-v1 size=4
/registry/secrets/default/c aescbc k1
/registry/secrets/default/d secretbox k1
/registry/secrets/default/e aesgcm k1
/registry/secrets/default/f v2 aws other wrapped=3x type=0
/registry/secrets/default/g v1 aws-v1 wrapped=bare
/registry/namespaces/default plaintext
/registry/ranges/serviceips plaintext
/registry/secrets/default/x raw k8s:enc:x
old /registry/secrets/default/x raw k8s:enc:x
`

func everythingReport(t *testing.T) *audit.Report {
	t.Helper()
	return run(t, audit.Options{
		Config: config(t, secretsV2), ConfigName: "enc.yaml", Objects: true, Question: only(t, newARN), Elsewhere: []string{"events"},
	}, everything)
}

func printed(t testing.TB, r *audit.Report, form string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.Print(&b, audit.PrintOptions{Form: form}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestJSONAndYAMLAreAsTheSchemaSays(t *testing.T) {
	t.Parallel()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*audit.Report{
		"everything": everythingReport(t),
		"little":     run(t, audit.Options{}, "etcd\n/registry/namespaces/default plaintext\n"),
		"objects":    run(t, audit.Options{Objects: true}, everything),
		"yes":        run(t, audit.Options{Resources: []string{"secrets"}, Question: only(t, "plaintext")}, "snapshot\n/registry/secrets/a/b plaintext\n"),
	} {
		var fromJSON, fromYAML any
		if err := json.Unmarshal(printed(t, r, "json"), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(fromJSON); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := yaml.Unmarshal(printed(t, r, "yaml"), &fromYAML); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(fromYAML)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := json.Marshal(fromJSON); err != nil || !bytes.Equal(want, again) {
			t.Errorf("%s: YAML says\n%s\nand JSON\n%s", name, again, want)
		}
	}
	var broken map[string]any
	if err := json.Unmarshal(printed(t, everythingReport(t), "json"), &broken); err != nil {
		t.Fatal(err)
	}
	broken["more"] = 1
	if err := schema.Validate(broken); err == nil {
		t.Error("the schema takes a field that it does not describe")
	}
}

// Every field that the schema describes is one of a report, and the other way round.
func TestTheSchemaHasTheReportsFields(t *testing.T) {
	t.Parallel()
	var fields func(reflect.Type) []string
	fields = func(of reflect.Type) (names []string) {
		for f := range of.Fields() {
			if f.Anonymous {
				names = append(names, fields(f.Type)...)
			}
			if f.Anonymous || !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
		return names
	}
	data := string(mustRead(t, schemaFile))
	for _, of := range []any{audit.Report{}, audit.PlaceReport{}, audit.Row{}, audit.Object{}, audit.Unreadable{}, audit.UnreadableItem{}, audit.Verdict{}, audit.APIServers{}, audit.WrittenUnder{}} {
		for _, name := range fields(reflect.TypeOf(of)) {
			if name == "-" {
				continue
			}
			if name == "" || !strings.Contains(data, `"`+name+`": {`) {
				t.Errorf("the schema lacks %T's %q", of, name)
			}
		}
	}
}

// Nothing that a value holds may come out, in no form.
func TestNothingSecretIsPrinted(t *testing.T) {
	t.Parallel()
	const planted = "PLANTED-8d1f"
	texts := `/registry/secrets/default/a plaintext ` + planted + `
/registry/secrets/default/b raw {"metadata":{"managedFields":[{"manager":"` + planted + `","fieldsV1":{"f:` + planted + `":{}}}]}}
/registry/secrets/default/c raw k8s:enc:` + planted + `
/registry/secrets/default/d raw "k8s:enc:kms:v2:` + planted + `"
/registry/secrets/default/e raw k8s:enc:aescbc:v1:` + planted + `
/registry/secrets/default/f v2 aws key wrapped=1` + planted + ` annotation=a.example.com:` + planted + `
/registry/secrets/default/g v1 aws-v1 wrapped=` + planted + `
/registry/secrets/default/h raw "k8s:enc:kms:v2:aws:` + planted + `"
/registry/secrets/default/i raw "k8s:enc:kms:v1:aws:` + planted + `"
/registry/a/b/c/d/e raw "k8s:enc:aesgcm:v1:k1:` + planted + strings.Repeat("x", 40) + `"
/registry/apiregistration.k8s.io/apiservices/v1.example.com raw {"spec":{"service":{"name":"` + planted + `"}}}
`
	for _, kind := range []string{"etcd\n", "snapshot\n", "snapshot\nold "} {
		r, err := audit.Run(t.Context(), places(t, kind+texts), audit.Options{
			Objects: true, Config: config(t, secretsV2), ConfigName: "enc.yaml", Question: only(t, newARN),
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range audit.Forms() {
			out := string(printed(t, r, form))
			for _, secret := range []string{planted, secretOfTests, "managedFields"} {
				if strings.Contains(out, secret) {
					t.Errorf("%s has %s:\n%s", form, secret, out)
				}
			}
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestPrintSaysThatItFailed(t *testing.T) {
	t.Parallel()
	for _, form := range audit.Forms() {
		if err := everythingReport(t).Print(brokenWriter{}, audit.PrintOptions{Form: form}); err == nil {
			t.Errorf("%s: want an error", form)
		}
	}
}

// Whatever etcd holds, audit ends, and prints nothing but plain ASCII.
func FuzzRun(f *testing.F) {
	f.Add("/registry/secrets/default/a", []byte("k8s:enc:kms:v2:aws:x"), "aws")
	f.Add("/registry/a.b/c/\n", []byte("k8s:enc:aescbc:v1:k\u202e:"+strings.Repeat("x", 32)), "")
	f.Add("/registry/apiregistration.k8s.io/apiservices/v1.a\x1b", []byte(`{"spec":{"service":{}}}`), "a:b")
	f.Fuzz(func(t *testing.T, path string, value []byte, provider string) {
		q := &audit.Question{}
		var err error
		if q.Key, err = audit.ParseKey("provider:" + provider); err != nil {
			return
		}
		s := &audittest.Store{Values: []store.KeyValue{{Key: []byte("/registry/secrets/a/b")}, {Key: []byte(path), Value: value}, {Key: []byte(path), Value: value, Older: true}}}
		s.Reading = store.Reading{Place: path, OlderRead: true, Unread: []string{path}, Caveats: []string{provider}}
		r, err := audit.Run(t.Context(), []audit.Place{{Reader: s}}, audit.Options{Objects: true, Resources: []string{"secrets"}, Question: q})
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range audit.Forms() {
			for _, b := range printed(t, r, form) {
				if b != '\n' && (b < ' ' || b > '~') {
					t.Fatalf("%s: %q is printed", form, b)
				}
			}
		}
	})
}
