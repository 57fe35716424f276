package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	licenceID   = "Apache-2.0"
	imageSuffix = "_oci.tar"

	// maxImage is how many bytes an image may have compressed, for one platform.
	maxImage = 20_000_000

	// caFile is the first place where Go looks for authorities on Linux, see
	// crypto/x509/root_linux.go.
	caFile = "etc/ssl/certs/ca-certificates.crt"

	passwd = `root:x:0:0:root:/root:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
`
	group = `root:x:0:
nonroot:x:65532:
`
	nonroot = 65532
)

// writeImage writes the image as an OCI layout, and beside --out's layout as one
// tar and its digest as text.
func writeImage(r request, built []binary, l licences, dir string, out io.Writer) error {
	index, err := imageIndex(built, l, r.publisher, out)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	what := built[0].product
	name, tag := cmp.Or(r.name, "localhost/"+what.name), cmp.Or(r.tag, defaultTag(built[0]))
	if err := writeLayout(dir, index, name, tag); err != nil {
		return err
	}
	if err := tarLayout(dir, filepath.Join(r.out, what.name+"_"+tag+imageSuffix)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.out, what.digest), []byte(digest.String()+"\n"), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s:%s\n%s\n", name, tag, digest)
	return nil
}

// defaultTag is the version as a tag, which has no plus.
func defaultTag(b binary) string {
	tag := strings.ReplaceAll(b.version, "+", "-")
	if b.fips {
		tag += strings.ReplaceAll(fipsSuffix, "_", "-")
	}
	return tag
}

// writeLayout writes one index of all platforms into a layout. containerd takes
// the whole name from io.containerd.image.name, other tools the tag from
// org.opencontainers.image.ref.name.
func writeLayout(dir string, index v1.ImageIndex, name, tag string) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          name + ":" + tag,
		"org.opencontainers.image.ref.name": tag,
	}))
	if err != nil {
		return err
	}
	// The library's modes are those of its temporary files.
	names, err := filesBelow(os.DirFS(dir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Chmod(filepath.Join(dir, filepath.FromSlash(name)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// filesBelow returns the paths of all files.
func filesBelow(dir fs.FS) (names []string, err error) {
	err = fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// tarLayout writes a layout as one tar, which containerd imports as it is: see
// ImportIndex in containerd's core/images/archive/importer.go. In contrast to
// Docker's format it holds all platforms and keeps the digest.
func tarLayout(dir, path string) error {
	written := os.DirFS(dir)
	names, err := filesBelow(written)
	if err != nil {
		return err
	}
	var files []file
	for _, name := range names {
		data, err := fs.ReadFile(written, name)
		if err != nil {
			return err
		}
		files = append(files, file{name: name, mode: 0o644, data: data})
	}
	var b bytes.Buffer
	if err := writeTar(&b, epoch(), files); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func imageIndex(built []binary, l licences, p publisher, out io.Writer) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range built {
		image, err := platformImage(b, l, p)
		if err != nil {
			return nil, err
		}
		size, err := compressedSize(image)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "%s for %s/%s: %.1f MB compressed\n", b.product.name, b.os, b.processor(), float64(size)/1e6)
		if size > maxImage {
			return nil, fmt.Errorf("the image for %s has %d bytes compressed, at most %d are allowed", b.target, size, maxImage)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: b.os, Architecture: b.arch},
		}})
	}
	annotated, ok := mutate.Annotations(index, annotations(built[0], p)).(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("annotations made a %T of the index", annotated)
	}
	return annotated, nil
}

// annotations are the image's labels too: some tools show only these.
func annotations(b binary, p publisher) map[string]string {
	a := map[string]string{
		"org.opencontainers.image.title":       b.product.name,
		"org.opencontainers.image.description": b.product.label,
		"org.opencontainers.image.version":     b.version,
		"org.opencontainers.image.licenses":    licenceID,
		"org.opencontainers.image.created":     b.time.Format("2006-01-02T15:04:05Z"),
	}
	if b.commit != "" {
		a["org.opencontainers.image.revision"] = b.commit
	}
	if p.project != "" {
		a["org.opencontainers.image.source"], a["org.opencontainers.image.url"] = p.project, p.project
	}
	if p.docs != "" {
		a["org.opencontainers.image.documentation"] = p.docs
	}
	return a
}

func platformImage(b binary, l licences, p publisher) (v1.Image, error) {
	layer, err := imageLayer(b, l)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: b.time}
	ports := map[string]struct{}{} // left out where empty
	for _, port := range b.product.ports {
		ports[port] = struct{}{}
	}
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: b.os, Architecture: b.arch, Created: created,
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			// Manifests give it as their command, or args alone.
			Entrypoint:   []string{"/" + b.product.name},
			User:         b.product.user,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"},
			WorkingDir:   "/",
			ExposedPorts: ports,
			Labels:       annotations(b, p),
		},
	})
	if err != nil {
		return nil, err
	}
	image, err = mutate.Append(image, mutate.Addendum{
		Layer: layer, History: v1.History{Created: created, CreatedBy: "make image"},
	})
	if err != nil {
		return nil, err
	}
	annotated, ok := mutate.Annotations(image, annotations(b, p)).(v1.Image)
	if !ok {
		return nil, fmt.Errorf("annotations made a %T of the image", annotated)
	}
	return annotated, nil
}

// imageLayer has everything that the image has. It is compressed once, here,
// and not by each reader.
func imageLayer(b binary, l licences) (v1.Layer, error) {
	roots, err := rootsPEM()
	if err != nil {
		return nil, err
	}
	compressed, err := tarGzip(b.time, append(directories(),
		file{name: b.product.name, mode: 0o755, data: b.file},
		file{name: caFile, mode: 0o644, data: roots},
		file{name: "etc/passwd", mode: 0o644, data: []byte(passwd)},
		file{name: "etc/group", mode: 0o644, data: []byte(group)},
		file{name: "licenses/LICENSE", mode: 0o644, data: l.own},
		file{name: "licenses/" + thirdPartyFile, mode: 0o644, data: l.others()},
	))
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(compressed)), nil
	}, tarball.WithMediaType(types.OCILayer))
}

func directories() []file {
	return []file{
		{name: "etc/", mode: 0o755},
		{name: "etc/ssl/", mode: 0o755},
		{name: "etc/ssl/certs/", mode: 0o755},
		{name: "home/", mode: 0o755},
		{name: "home/nonroot/", mode: 0o700, uid: nonroot, gid: nonroot},
		{name: "licenses/", mode: 0o755},
		{name: "root/", mode: 0o700},
	}
}

func compressedSize(image v1.Image) (int64, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return 0, err
	}
	size := manifest.Config.Size
	for _, l := range manifest.Layers {
		size += l.Size
	}
	return size, nil
}
