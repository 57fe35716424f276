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
	return fmt.Sprintf("%s_%s_linux_%s%s", program, b.version, b.target, suffix)
}

// writeSnapshot writes what a release has.
func writeSnapshot(r request, built []binary, l licences, layoutDir string, out io.Writer) error {
	var plain []binary
	for _, b := range built {
		document, err := sbom(b, l)
		if err != nil {
			return err
		}
		packed, err := archive(r.source, r.publisher, b, l, document)
		if err != nil {
			return err
		}
		installed, err := debian(r.source, r.publisher, b, l, document)
		if err != nil {
			return err
		}
		rpm, err := redHat(r.source, r.publisher, b, l, document)
		if err != nil {
			return err
		}
		for name, data := range map[string][]byte{
			artifact(b, ".spdx.json"): document, artifact(b, ".tar.gz"): packed, artifact(b, ".deb"): installed, artifact(b, ".rpm"): rpm,
		} {
			if err := os.WriteFile(filepath.Join(r.out, name), data, 0o644); err != nil {
				return err
			}
		}
		if !b.fips {
			plain = append(plain, b)
		}
	}
	if len(plain) > 0 {
		if err := writeImage(r, plain, l, layoutDir, out); err != nil {
			return err
		}
	}
	return writeChecksums(r.out, out)
}

// archive is a tar of the program and what should be read with it.
func archive(source string, p publisher, b binary, l licences, document []byte) ([]byte, error) {
	dir := artifact(b, "/")
	files := []file{
		{name: dir, mode: 0o755},
		{name: dir + program, mode: 0o755, data: b.file},
		{name: dir + program + ".spdx.json", mode: 0o644, data: document},
		{name: dir + "LICENSE", mode: 0o644, data: l.own},
		{name: dir + thirdPartyFile, mode: 0o644, data: l.others()},
	}
	changes, err := os.ReadFile(filepath.Join(source, "CHANGELOG.md"))
	if err != nil {
		return nil, err
	}
	files = append(files, file{name: dir + "CHANGELOG.md", mode: 0o644, data: changes})
	for _, name := range unitFiles() {
		unit, err := p.unit(source, name, "") // nobody knows where the archive is unpacked
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: dir + name, mode: 0o644, data: unit})
	}
	pages, err := documentation(source, p.docs)
	if err != nil {
		return nil, err
	}
	for name, data := range pages {
		files = append(files, file{name: dir + name, mode: 0o644, data: data})
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
