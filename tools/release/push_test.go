package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// startRegistry is a registry in this process. guard, unless nil, answers first.
func startRegistry(t *testing.T, guard func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	served := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if guard == nil || !guard(w, r) {
			served.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", "")
	return strings.TrimPrefix(server.URL, "http://")
}

// writtenImage is a directory as make image leaves it, of a program that only has to
// be there.
func writtenImage(t *testing.T) (dir, digest string) {
	t.Helper()
	dir = t.TempDir()
	var binaries []binary
	for _, arch := range []string{"amd64", "arm64"} {
		b := built(daemonFor(arch, false), testVersion)
		b.file = []byte(arch)
		binaries = append(binaries, b)
	}
	if err := writeImage(request{out: dir}, binaries, licences{}, filepath.Join(dir, "oci"), io.Discard); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(filepath.Join(dir, daemon().digest))
	if err != nil {
		t.Fatal(err)
	}
	return dir, strings.TrimSpace(string(said))
}

// checkPushed demands the index of all platforms under the digest that was built.
func checkPushed(t *testing.T, image, digest string, want []string) {
	t.Helper()
	tag, err := name.NewTag(image)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := index.Digest(); err != nil || got.String() != digest {
		t.Errorf("the registry has %s, %v; built was %s", got, err, digest)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range manifest.Manifests {
		platforms = append(platforms, d.Platform.String())
		pushed, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if layers, err := pushed.Layers(); err != nil || len(layers) != 1 {
			t.Errorf("%s has %d layers, %v", d.Platform, len(layers), err)
		}
	}
	if !slices.Equal(platforms, want) {
		t.Errorf("platforms %q, want %q", platforms, want)
	}
}

func TestPushBringsBothPlatforms(t *testing.T) {
	image := startRegistry(t, nil) + "/kms/" + program + ":" + testVersion
	dir, digest := writtenImage(t)
	outputs := filepath.Join(t.TempDir(), "outputs")
	var said strings.Builder
	if err := run(t.Context(), []string{"push", "--from", dir, "--image", image, "--outputs", outputs}, &said, io.Discard); err != nil {
		t.Fatal(err)
	}
	checkPushed(t, image, digest, []string{"linux/amd64", "linux/arm64"})
	repository := strings.TrimSuffix(image, ":"+testVersion)
	if want := image + "\n" + repository + "@" + digest + "\n"; said.String() != want {
		t.Errorf("it says\n%s, want\n%s", said.String(), want)
	}
	text, err := os.ReadFile(outputs)
	lines := strings.Split(string(text), "\n")
	if err != nil || len(lines) != 5 || lines[0] != "name="+repository || lines[1] != "digest="+digest ||
		!strings.HasPrefix(lines[2], "digest-amd64=sha256:") || !strings.HasPrefix(lines[3], "digest-arm64=sha256:") {
		t.Errorf("outputs %q, %v", text, err)
	}
}

// demandLogin lets nobody in but one user.
func demandLogin(w http.ResponseWriter, r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	if user == "AWS" && password == "secret" {
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

func TestPushTakesTheLoginOfDocker(t *testing.T) {
	host := startRegistry(t, demandLogin)
	dir, _ := writtenImage(t)
	args := []string{"push", "--from", dir, "--image", host + "/" + program + ":v1"}
	err := run(t.Context(), args, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "not logged in to "+host) || !strings.Contains(err.Error(), "docker login "+host) {
		t.Errorf("without a login: %v", err)
	}
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("AWS:secret")))
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), args, io.Discard, io.Discard); err != nil {
		t.Errorf("with a login: %v", err)
	}
}

func TestPushSaysWhatToDo(t *testing.T) {
	answering := func(status int) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v2/" {
				w.WriteHeader(status)
			}
			return r.URL.Path != "/v2/"
		}
	}
	for status, want := range map[int]string{
		http.StatusForbidden:        "Amazon ECR's lasts 12 hours",
		http.StatusNotFound:         "aws ecr create-repository --repository-name kms/" + program,
		http.StatusMethodNotAllowed: "cannot push to",
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			host := startRegistry(t, answering(status))
			dir, _ := writtenImage(t)
			err := run(t.Context(), []string{"push", "--from", dir, "--image", host + "/kms/" + program + ":v1"}, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

// A tar is what somebody has put into the directory.
func TestPushUnpacksNothingElsewhere(t *testing.T) {
	for _, name := range []string{"../outside", "/tmp/outside", "a/../../outside"} {
		path := filepath.Join(t.TempDir(), "image_oci.tar")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(writeTar(f, epoch(), []file{{name: name, mode: 0o644}}), f.Close()); err != nil {
			t.Fatal(err)
		}
		if err := extract(path, filepath.Join(t.TempDir(), "inside")); err == nil || !strings.Contains(err.Error(), "is no file of a layout") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPushRefusesWhatItCannotName(t *testing.T) {
	dir, _ := writtenImage(t)
	other, _ := writtenImage(t)
	if err := os.WriteFile(filepath.Join(other, daemon().digest), []byte("sha256:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, image, want string }{
		{dir, "", "want REGISTRY/NAME:TAG"},
		{dir, "aws-encryption-provider:v1", "want REGISTRY/NAME:TAG"},
		{dir, "registry.example.com/kms", "want REGISTRY/NAME:TAG"},
		{dir, "registry.example.com:5000/kms", "want REGISTRY/NAME:TAG"},
		{dir, "registry.example.com/kms:v1@sha256:abc", "want REGISTRY/NAME:TAG"},
		{dir, "registry.example.com/KMS:v1", "want REGISTRY/NAME:TAG"},
		{t.TempDir(), "registry.example.com/kms:v1", "make image writes one"},
		{other, "registry.example.com/kms:v1", "build it again"},
		{"", "registry.example.com/kms:v1", "push wants --from"},
	} {
		err := run(t.Context(), []string{"push", "--from", c.from, "--image", c.image}, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("push of %q to %q: %v, want %q", c.from, c.image, err, c.want)
		}
	}
}
