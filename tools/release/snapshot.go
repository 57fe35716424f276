package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// epoch is the time of files that are not the program's own.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// artifact is the name of what is shipped for a binary: program, version,
// system, and what comes behind.
func artifact(b binary, suffix string) string {
	return fmt.Sprintf("%s_%s_%s%s", b.program, b.version, b.system(), suffix)
}

// writeProduct writes what a release has of one program.
func writeProduct(r request, built []binary, l licences, layoutDir string, out io.Writer) error {
	var plain []binary
	for _, b := range built {
		files, err := artifacts(r.source, r.publisher, b, l)
		if err != nil {
			return err
		}
		for suffix, data := range files {
			if err := os.WriteFile(filepath.Join(r.out, artifact(b, suffix)), data, 0o644); err != nil {
				return err
			}
		}
		if b.os == linux && !b.fips {
			plain = append(plain, b)
		}
	}
	if len(plain) == 0 {
		return nil
	}
	return writeImage(r, plain, l, layoutDir, out)
}

// artifacts are what is shipped of a binary beside images, by what comes behind in the
// names of the files.
func artifacts(source string, p publisher, b binary, l licences) (map[string][]byte, error) {
	document, err := sbom(b, l)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{".spdx.json": document}
	makers := map[string]func(string, publisher, binary, licences, []byte) ([]byte, error){".tar.gz": archive, ".deb": debian, ".rpm": redHat}
	switch b.os {
	case darwin:
		delete(makers, ".deb")
		delete(makers, ".rpm")
	case windows:
		clear(makers)
		makers[".zip"] = archive
	}
	for suffix, maker := range makers {
		if files[suffix], err = maker(source, p, b, l, document); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// archive is a tar, for Windows a zip, of the program and what should be read with it.
func archive(source string, p publisher, b binary, l licences, document []byte) ([]byte, error) {
	dir := artifact(b, "/")
	files := []file{
		{name: dir, mode: 0o755},
		{name: dir + b.executable(), mode: 0o755, data: b.file},
		{name: dir + b.product.name + ".spdx.json", mode: 0o644, data: document},
		{name: dir + "LICENSE", mode: 0o644, data: l.own},
		{name: dir + thirdPartyFile, mode: 0o644, data: l.others()},
	}
	changes, err := os.ReadFile(filepath.Join(source, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	files = append(files, file{name: dir + "CHANGELOG.md", mode: 0o644, data: changes})
	for _, name := range b.product.units {
		unit, err := p.unit(source, name, "") // nobody knows where the archive is unpacked
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: dir + name, mode: 0o644, data: unit})
	}
	pages, err := documentation(source, p.docs, b.product.pages)
	if err != nil {
		return nil, err
	}
	for name, data := range pages {
		files = append(files, file{name: dir + name, mode: 0o644, data: data})
	}
	if b.os == windows { // where not everybody may make links
		return zipped(b.time, files)
	}
	for _, alias := range b.product.aliases {
		files = append(files, file{name: dir + alias, mode: 0o777, link: b.executable()})
	}
	return tarGzip(b.time, files)
}

// writeChecksums writes SHA256SUMS, which `sha256sum -c` reads.
func writeChecksums(dir string, out io.Writer) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), e.Name())
	}
	fmt.Fprintf(out, "%s", sums.Bytes())
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums.Bytes(), 0o644)
}
