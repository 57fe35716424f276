package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A workflow is a file of .github/workflows, as far as the tests look.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Env         map[string]string
		Permissions map[string]string
		Steps       []step
	}
}

type step struct {
	Name, Uses, Run string
	Env, With       map[string]string
}

// workflows are those of this checkout, by file, each with its text.
func workflows(t *testing.T) (read map[string]workflow, texts map[string]string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("..", "..", ".github", "workflows", "*.y*ml"))
	if err != nil || len(found) < 2 {
		t.Fatalf("workflows %q, %v", found, err)
	}
	read, texts = map[string]workflow{}, map[string]string{}
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		read[filepath.Base(path)], texts[filepath.Base(path)] = w, string(text)
	}
	return read, texts
}

// What a workflow runs, anybody can run, and no expression reaches a shell: a tag may
// be named by somebody who wants more than a release.
func TestWorkflowsRunWhatAnybodyCan(t *testing.T) {
	read, texts := workflows(t)
	allowed := regexp.MustCompile(`^(make [a-z-]+|sudo --preserve-env env "PATH=\$PATH" \.ci/run)$`)
	for file, w := range read {
		if w.Permissions == nil || len(w.Permissions) > 0 {
			t.Errorf("%s: permissions %v, want {} for the file and what is needed for each job", file, w.Permissions)
		}
		for name, job := range w.Jobs {
			if len(job.Permissions) == 0 {
				t.Errorf("%s: job %s has no permissions of its own", file, name)
			}
			for _, s := range job.Steps {
				if s.Run != "" && !allowed.MatchString(s.Run) {
					t.Errorf("%s: %q is no target of the Makefile alone", file, s.Run)
				}
			}
		}
		for _, line := range regexp.MustCompile(`(?m)^.*\buses:.*$`).FindAllString(texts[file], -1) {
			if !regexp.MustCompile(`uses: [a-z-]+/[a-z-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$`).MatchString(line) {
				t.Errorf("%s: %s: want a full digest and the version behind it", file, strings.TrimSpace(line))
			}
		}
	}
}

// TestReleaseWorkflow runs what the workflow of a release runs, in a clone, with a
// registry of this process and somebody who writes down what GitHub's client is asked.
// Then it has `make rebuild` look at the result.
func TestReleaseWorkflow(t *testing.T) {
	read, _ := workflows(t)
	c := releaseCheckout(t)
	gh, outputs := t.TempDir(), filepath.Join(t.TempDir(), "outputs")
	machine{bin: gh}.script(t, "gh", `echo "$*" >>"$0.calls"; cat >"$0.notes"`)
	registry := startRegistry(t, nil)
	expressions := map[string]string{
		"github.ref_name": testVersion, "github.token": "token", "vars.DOCS_URL": "",
		"github.server_url": "https://git.example", "github.repository": "team/kms", "vars.MAINTAINER": maintainer,
		"vars.IMAGE": registry + "/kms/" + program, "vars.IMAGE_KUBECTL_KMS": registry + "/kms/" + tool,
	}
	w := read["release.yml"].Jobs["release"]
	env := []string{"GITHUB_OUTPUT=" + outputs, "PATH=" + gh + ":" + os.Getenv("PATH"), "ARGS=--targets amd64,arm64," + toolHere().String()}
	env = append(env, evaluated(t, w.Env, expressions)...)
	ran := 0
	for _, s := range w.Steps {
		if s.Run != "" {
			ran++
			c.shell(t, s.Run, append(slices.Clone(env), evaluated(t, s.Env, expressions)...)...)
		}
	}
	if ran < 4 {
		t.Errorf("%d steps run make: the test is wrong", ran)
	}
	told, err := os.ReadFile(outputs)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range products() {
		variable, platforms := "vars.IMAGE", []string{"linux/amd64", "linux/arm64"}
		if p.name == tool {
			variable, platforms = "vars.IMAGE_KUBECTL_KMS", []string{"linux/" + runtime.GOARCH}
		}
		digest, err := os.ReadFile(filepath.Join(c.dir, "bin", "release", p.digest))
		if err != nil {
			t.Fatal(err)
		}
		checkPushed(t, expressions[variable]+":"+testVersion, strings.TrimSpace(string(digest)), platforms)
		if want := "name=" + expressions[variable] + "\ndigest=" + string(digest); !strings.Contains(string(told), want) {
			t.Errorf("later steps are told %q, want %q", told, want)
		}
	}
	calls, err := os.ReadFile(filepath.Join(gh, "gh.calls"))
	if err != nil || !strings.HasPrefix(string(calls), "release create v1.2.3 --draft --verify-tag ") {
		t.Errorf("gh is asked %q, %v", calls, err)
	}
	for name := range readAll(t, filepath.Join(c.dir, "bin", "release")) {
		if !slices.Contains(strings.Fields(string(calls)), "bin/release/"+name) {
			t.Errorf("gh is not given %s: %q", name, calls)
		}
	}
	if notes, err := os.ReadFile(filepath.Join(gh, "gh.notes")); err != nil || strings.TrimSpace(string(notes)) != "What is new." {
		t.Errorf("the notes are %q, %v", notes, err)
	}
	t.Run("rebuilt", func(t *testing.T) { checkRebuilt(t, c) })
}

// What a release has is signed together with its SBOM, and so is each platform of an
// image: a target without a step would be shipped unsigned.
func TestReleaseWorkflowSignsEveryTarget(t *testing.T) {
	read, _ := workflows(t)
	signed := map[string]string{} // subjects by SBOM; those of images by their digest
	var sums int
	for _, s := range read["release.yml"].Jobs["release"].Steps {
		if !strings.HasPrefix(s.Uses, "actions/attest@") {
			continue
		}
		sbom := s.With["sbom-path"]
		switch {
		case s.With["subject-checksums"] == "bin/release/SHA256SUMS":
			sums++
		case s.With["subject-digest"] != "":
			signed[s.With["subject-name"]+" "+s.With["subject-digest"]] = sbom
		default:
			signed[sbom] = strings.Join(strings.Fields(s.With["subject-path"]), " ")
		}
	}
	if sums != 1 {
		t.Errorf("%d steps sign SHA256SUMS", sums)
	}
	expected := 0
	expect := func(key, want string) {
		expected++
		if signed[key] != want {
			t.Errorf("%s\nis signed with %q,\nwant %q", key, signed[key], want)
		}
	}
	for _, p := range products() {
		step := map[string]string{program: "push", tool: "push-kubectl-kms"}[p.name]
		for _, target := range p.targets {
			b := built(target, "${{ github.ref_name }}")
			var subjects []string
			for _, suffix := range []string{".tar.gz", ".zip", ".deb", ".rpm"} {
				if slices.Contains(suffixes(target), suffix) {
					subjects = append(subjects, "bin/release/"+p.name+"_*_"+target.system()+suffix)
				}
			}
			expect("bin/release/"+artifact(b, ".spdx.json"), strings.Join(subjects, " "))
			if slices.Contains(p.ofImage(), target) {
				expect("${{ steps."+step+".outputs.name }} ${{ steps."+step+".outputs.digest-"+target.arch+" }}", "bin/release/"+artifact(b, ".spdx.json"))
			}
		}
		expect("${{ steps."+step+".outputs.name }} ${{ steps."+step+".outputs.digest }}", "")
	}
	if len(signed) != expected {
		t.Errorf("%d things are signed, want %d: %q", len(signed), expected, signed)
	}
}

// suffixes are what a release has for a target besides its SBOM.
func suffixes(t target) []string {
	switch t.os {
	case windows:
		return []string{".zip"}
	case darwin:
		return []string{".tar.gz"}
	}
	return []string{".tar.gz", ".deb", ".rpm"}
}

// checkRebuilt publishes a part of a release, with one sum changed, and demands that a
// rebuild names that file and takes the others for the same.
func checkRebuilt(t *testing.T, c checkout) {
	t.Helper()
	all, err := readSums(filepath.Join(c.dir, "bin", "release", "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for file, sum := range all {
		if strings.HasPrefix(file, program) && strings.Contains(file, "_arm64.") || strings.HasPrefix(file, tool+"_") && !strings.HasSuffix(file, imageSuffix) {
			sums[file] = sum
		}
	}
	tampered := program + "_v1.2.3_linux_arm64.rpm"
	if sums[tampered] == "" {
		t.Fatalf("no %s in %v", tampered, sums)
	}
	sums[tampered] = oneSum
	var text strings.Builder
	for file, sum := range sums {
		fmt.Fprintf(&text, "%s  %s\n", sum, file)
	}
	published := filepath.Join(t.TempDir(), "SHA256SUMS")
	if err := os.WriteFile(published, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := c.tryShell(t, "make rebuild", "VERSION="+testVersion, "CHECKSUMS="+published, "PROJECT_URL="+project, "MAINTAINER="+maintainer)
	if err == nil {
		t.Error("a file that is another passes")
	}
	if !strings.Contains(out, fmt.Sprintf("1 of %d files are not what %s says: %s\n", len(sums), published, tampered)) {
		t.Errorf("it says\n%s", out)
	}
	for file := range sums {
		if same := strings.Contains(out, "same       "+file+"\n"); same != (file != tampered) {
			t.Errorf("%s is the same: %t\n%s", file, same, out)
		}
	}
}

// releaseCheckout is a checkout that can make a release: with the tools, and with the
// version in the changelog.
func releaseCheckout(t *testing.T) checkout {
	t.Helper()
	c := newCheckout(t, filepath.Join("..", ".."))
	if err := os.CopyFS(filepath.Join(c.dir, "tools", "release"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"CHANGELOG.md": "# Changelog\n\n## v1.2.3\n\nWhat is new.\n\n## v1.2.2\n\nOld.\n", ".gitignore": "/bin/\n"} {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.git(t, "add", ".")
	c.git(t, "commit", "--quiet", "--message", "changelog")
	c.git(t, "tag", "--force", testVersion)
	c.commit = strings.TrimSpace(c.git(t, "rev-parse", "HEAD"))
	return c
}

func (c checkout) shell(t *testing.T, command string, env ...string) {
	t.Helper()
	if out, err := c.tryShell(t, command, env...); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func (c checkout) tryShell(t *testing.T, command string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-eo", "pipefail", "-c", command)
	cmd.Dir = c.dir
	cmd.Env = append(ownEnvironment(), env...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s:\n%s", command, out)
	return string(out), err
}

// evaluated are variables with what their expressions stand for.
func evaluated(t *testing.T, env, expressions map[string]string) (pairs []string) {
	t.Helper()
	expression := regexp.MustCompile(`\$\{\{ *([^}]*[^ }]) *\}\}`)
	for name, value := range env {
		pairs = append(pairs, name+"="+expression.ReplaceAllStringFunc(value, func(whole string) string {
			inner := expression.FindStringSubmatch(whole)[1]
			got, known := expressions[inner]
			if !known {
				t.Errorf("the test does not know %s", whole)
			}
			return got
		}))
	}
	return pairs
}
