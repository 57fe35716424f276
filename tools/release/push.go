package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// A pushRequest is the command line of push.
type pushRequest struct {
	product product
	from    string // directory of the image's tar and of its digest
	to      name.Tag
	outputs string // file that gets digests as NAME=VALUE; "": none
}

// push brings the image of `make image` or `make release-snapshot` to a registry, as it
// is: the registry knows it by the digest that was built. Credentials are those of
// docker, podman and crane: what `docker login` left, or the helper that it names.
func push(ctx context.Context, args []string, out, progress io.Writer) error {
	r, err := parsePush(args, progress)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "push-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	index, digest, err := builtImage(r.product, r.from, dir)
	if err != nil {
		return err
	}
	err = remote.WriteIndex(r.to, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return refusedPush(r.to, err)
	}
	fmt.Fprintf(out, "%s\n%s@%s\n", r.to, r.to.Context(), digest)
	return writeOutputs(r, index, digest)
}

func parsePush(args []string, progress io.Writer) (pushRequest, error) {
	var r pushRequest
	var image, what string
	set := flag.NewFlagSet("release push", flag.ContinueOnError)
	set.SetOutput(progress)
	set.StringVar(&r.from, "from", "", "`DIR` with the image's tar, such as bin/image")
	set.StringVar(&what, "product", program, "`PROGRAM` whose image it is, "+tool+" or "+program)
	set.StringVar(&image, "image", "", "`REGISTRY/NAME:TAG` to push to")
	set.StringVar(&r.outputs, "outputs", "", "`FILE` that the name and the digests are appended to, as NAME=VALUE")
	if err := set.Parse(args); err != nil {
		return pushRequest{}, err
	}
	if r.from == "" || set.NArg() > 0 {
		return pushRequest{}, errors.New("push wants --from and --image, and no arguments beside flags")
	}
	var err error
	if r.product, err = productOf(what); err != nil {
		return pushRequest{}, err
	}
	r.to, err = parseDestination(image)
	return r, err
}

// parseDestination takes no short names: what they mean depends on the tool.
func parseDestination(image string) (name.Tag, error) {
	const want = "want REGISTRY/NAME:TAG, such as registry.example.com/kms/aws-encryption-provider:v1.2.3"
	registry, repository, _ := strings.Cut(image, "/")
	_, tag, _ := strings.Cut(repository, ":")
	if registry == "" || repository == "" || tag == "" || strings.Contains(image, "@") {
		return name.Tag{}, fmt.Errorf("IMAGE is %q: %s", image, want)
	}
	to, err := name.NewTag(image, name.StrictValidation)
	if err != nil {
		return name.Tag{}, fmt.Errorf("IMAGE is %q: %w; %s", image, err, want)
	}
	return to, nil
}

// builtImage unpacks the one image of a product in a directory and holds it to the digest
// beside it.
func builtImage(p product, from, dir string) (v1.ImageIndex, v1.Hash, error) {
	found, err := filepath.Glob(filepath.Join(from, p.name+"_*"+imageSuffix))
	if err != nil {
		return nil, v1.Hash{}, err
	}
	if len(found) != 1 {
		return nil, v1.Hash{}, fmt.Errorf("%s has %d images of %s, want one: make image writes one into bin/image, make release-snapshot into bin/release", from, len(found), p.name)
	}
	if err := extract(found[0], dir); err != nil {
		return nil, v1.Hash{}, fmt.Errorf("%s: %w", found[0], err)
	}
	index, digest, err := onlyIndex(dir)
	if err != nil {
		return nil, v1.Hash{}, fmt.Errorf("%s: %w", found[0], err)
	}
	said, err := os.ReadFile(filepath.Join(from, p.digest))
	if err != nil {
		return nil, v1.Hash{}, err
	}
	if strings.TrimSpace(string(said)) != digest.String() {
		return nil, v1.Hash{}, fmt.Errorf("%s has the digest %s, and %s beside it says %s: build it again", found[0], digest, p.digest, strings.TrimSpace(string(said)))
	}
	return index, digest, nil
}

// onlyIndex is the index of a layout that writeLayout wrote.
func onlyIndex(dir string) (v1.ImageIndex, v1.Hash, error) {
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		return nil, v1.Hash{}, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, v1.Hash{}, fmt.Errorf("%d images in the layout, want one", len(manifest.Manifests))
	}
	digest := manifest.Manifests[0].Digest
	index, err := top.ImageIndex(digest)
	return index, digest, err
}

// extract unpacks a tar that tarLayout wrote. An entry that leads out of dir fails.
func extract(tarball, dir string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) || h.Typeflag != tar.TypeReg {
			return fmt.Errorf("entry %q is no file of a layout", h.Name)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, h.Name) //nolint:gosec // it is local, see above
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
}

// refusedPush says what to do about a push that failed.
func refusedPush(to name.Tag, err error) error {
	registry := to.RegistryStr()
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		return fmt.Errorf("cannot push to %s: %w; is the name right, and can this machine reach the registry?", to, err)
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("cannot push to %s: not logged in to %s, or the login has expired; log in by `docker login %[2]s` or `crane auth login %[2]s`, for Amazon ECR as docs/image.md shows, then push again: %w", to, registry, err)
	case http.StatusForbidden:
		return fmt.Errorf("cannot push to %s: the login at %s is not allowed to, or has expired (Amazon ECR's lasts 12 hours); log in again, or as somebody who may write there: %w", to, registry, err)
	case http.StatusNotFound:
		return fmt.Errorf("cannot push to %s: %s has no repository %s; create it first, for Amazon ECR by `aws ecr create-repository --repository-name %[3]s`: %w", to, registry, to.RepositoryStr(), err)
	}
	return fmt.Errorf("cannot push to %s: %w", to, err)
}

// writeOutputs appends what later steps of a workflow need: the image's name without
// the tag, the index's digest, and those of each platform.
func writeOutputs(r pushRequest, index v1.ImageIndex, digest v1.Hash) error {
	if r.outputs == "" {
		return nil
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "name=%s\ndigest=%s\n", r.to.Context(), digest)
	for _, d := range manifest.Manifests {
		fmt.Fprintf(&text, "digest-%s=%s\n", d.Platform.Architecture, d.Digest)
	}
	f, err := os.OpenFile(r.outputs, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	return errors.Join(err, f.Close())
}
