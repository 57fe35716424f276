package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	thirdPartyFile = "THIRD-PARTY-LICENSES.txt"
	noAssertion    = "NOASSERTION" // SPDX's word for unknown
)

// licences are the texts that go with the program: its own and those of all that
// is linked into it, which ask for it in their own words.
type licences struct {
	program string
	own     []byte
	modules []moduleLicence // sorted by module
}

type moduleLicence struct {
	path, version string
	id            string // an SPDX expression
	texts         []byte
}

// others are the texts of all that is linked, one after the other.
func (l licences) others() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "What is linked into %s, and the licences of it.\n", l.program)
	for _, m := range l.modules {
		fmt.Fprintf(&b, "\n%s\n%s %s (%s)\n%[1]s\n\n%[5]s", strings.Repeat("=", 80), m.path, m.version, m.id, m.texts)
	}
	return b.Bytes()
}

// id returns the licence of a module.
func (l licences) id(path string) string {
	for _, m := range l.modules {
		if m.path == path {
			return m.id
		}
	}
	return noAssertion
}

// readLicences collects the texts from the modules that the binaries name, all of one
// program, and from Go. A module without any is an error: it could not be shipped.
func readLicences(ctx context.Context, module, source string, built []binary) (licences, error) {
	own, err := os.ReadFile(filepath.Join(source, "LICENSE"))
	if err != nil {
		return licences{}, err
	}
	l := licences{program: built[0].product.name, own: own}
	versions := map[string]string{}
	for _, b := range built {
		for _, d := range b.deps {
			versions[d.Path] = d.Version
		}
	}
	dirs, err := moduleDirs(ctx, module)
	if err != nil {
		return licences{}, err
	}
	dirs[goModule], versions[goModule] = goRoot(ctx), built[0].goVer
	for path, version := range versions {
		m := moduleLicence{path: path, version: version}
		if m.texts, err = licenceTexts(dirs[path]); err != nil {
			return licences{}, fmt.Errorf("%s: %w", path, err)
		}
		m.id = licenceOf(string(m.texts))
		l.modules = append(l.modules, m)
	}
	slices.SortFunc(l.modules, func(a, b moduleLicence) int { return strings.Compare(a.path, b.path) })
	return l, nil
}

// moduleDirs maps each module of a module's build list to its directory.
func moduleDirs(ctx context.Context, module string) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-json", "all")
	cmd.Dir, cmd.Stderr = module, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m all: %w", err)
	}
	dirs := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return dirs, nil
		} else if err != nil {
			return nil, err
		}
		dirs[m.Path] = m.Dir
	}
}

func goRoot(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// licenceTexts are the licences and notices at the root of a module.
func licenceTexts(dir string) ([]byte, error) {
	if dir == "" {
		return nil, errors.New("its source is not there: go mod download")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	named := regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)(\..*|-.*)?$`)
	var b bytes.Buffer
	for _, e := range entries {
		if e.IsDir() || !named.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s\n", bytes.TrimSpace(text))
	}
	if b.Len() == 0 {
		return nil, errors.New("it has no licence at its root")
	}
	return b.Bytes(), nil
}

// licenceOf names the licences of a text by the words that only they have.
func licenceOf(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	has := func(words string) bool { return strings.Contains(text, words) }
	var ids []string
	if has("Apache License Version 2.0") || has("under the Apache License, Version 2.0") {
		ids = append(ids, "Apache-2.0")
	}
	switch redistribution := has("Redistribution and use in source and binary forms"); {
	case redistribution && (has("Neither the name") || has("may be used to endorse")):
		ids = append(ids, "BSD-3-Clause")
	case redistribution:
		ids = append(ids, "BSD-2-Clause")
	}
	if has("Permission to use, copy, modify, and") {
		ids = append(ids, "ISC")
	}
	if has("Permission is hereby granted, free of charge, to any person obtaining a copy") {
		ids = append(ids, "MIT")
	}
	if has("Mozilla Public License, version 2.0") {
		ids = append(ids, "MPL-2.0")
	}
	if len(ids) == 0 {
		return noAssertion
	}
	return strings.Join(ids, " AND ")
}
