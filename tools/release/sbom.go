package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

// goModule is what vulnerability databases call Go's standard library.
const goModule = "stdlib"

// sbom is an SPDX 2.3 document in JSON: the program, and each module that its
// build info names. The program's checksum makes the document's name unique.
//
// The daemon's Go module has the path of another project's, whose releases it takes the
// place of, and the tool is built of it too. So nothing here names that module or that project's repository, or a
// scanner would take its advisories for this program's: the purl is a generic one, by
// the checksum, and there is no CPE.
func sbom(b binary, l licences) ([]byte, error) {
	sum := sha256.Sum256(b.file)
	checksum := hex.EncodeToString(sum[:])
	main := &spdx.Package{
		PackageName: b.product.name, PackageSPDXIdentifier: common.ElementID(b.product.name), PackageVersion: b.version,
		PackageFileName: b.executable(), PackageDownloadLocation: noAssertion,
		PackageChecksums:        []spdx.Checksum{{Algorithm: spdx.SHA256, Value: checksum}},
		PackageLicenseConcluded: licenceID, PackageLicenseDeclared: licenceID, PackageCopyrightText: noAssertion,
		PackageSupplier:       &spdx.Supplier{Supplier: noAssertion},
		PrimaryPackagePurpose: "APPLICATION",
		PackageSourceInfo:     sourceInfo(b),
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: "pkg:generic/" + b.product.name + "@" + url.QueryEscape(b.version) + "?checksum=sha256:" + checksum,
		}},
	}
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      artifact(b, ""),
		DocumentNamespace: "https://spdx.org/spdxdocs/" + artifact(b, "") + "-" + checksum,
		CreationInfo: &spdx.CreationInfo{
			Created:  b.time.Format("2006-01-02T15:04:05Z"),
			Creators: []spdx.Creator{{CreatorType: "Tool", Creator: program + "-release"}},
		},
		Packages:      []*spdx.Package{main},
		Relationships: []*spdx.Relationship{relationship("DOCUMENT", common.TypeRelationshipDescribe, main.PackageSPDXIdentifier)},
	}
	for _, m := range linked(b) {
		p := modulePackage(m.path, m.version, l.id(m.path))
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, relationship(main.PackageSPDXIdentifier, common.TypeRelationshipDependsOn, p.PackageSPDXIdentifier))
	}
	var out bytes.Buffer
	err := spdxjson.Write(doc, &out, spdxjson.Indent(" "), spdxjson.EscapeHTML(false))
	return out.Bytes(), err
}

// sourceInfo is what a rebuild needs to know.
func sourceInfo(b binary) string {
	info := fmt.Sprintf("built by %s for %s/%s", b.goVer, b.os, b.processor())
	if b.commit != "" {
		info += " of commit " + b.commit
	}
	return info
}

// linked are the modules of a binary, the standard library among them.
func linked(b binary) []moduleLicence {
	modules := []moduleLicence{{path: goModule, version: strings.TrimPrefix(b.goVer, "go")}}
	for _, d := range b.deps {
		modules = append(modules, moduleLicence{path: d.Path, version: d.Version})
	}
	slices.SortFunc(modules, func(a, b moduleLicence) int { return strings.Compare(a.path, b.path) })
	return modules
}

func modulePackage(path, version, licence string) *spdx.Package {
	id := regexp.MustCompile(`[^A-Za-z0-9.-]`).ReplaceAllString("go-"+path, "-")
	return &spdx.Package{
		PackageName: path, PackageSPDXIdentifier: common.ElementID(id), PackageVersion: version,
		PackageDownloadLocation: noAssertion, PackageCopyrightText: noAssertion,
		PackageLicenseConcluded: licence, PackageLicenseDeclared: noAssertion,
		PackageSupplier:       &spdx.Supplier{Supplier: noAssertion},
		PrimaryPackagePurpose: "LIBRARY",
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: "pkg:golang/" + path + "@" + version,
		}},
	}
}

func relationship(from common.ElementID, kind string, to common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{
		RefA: common.MakeDocElementID("", string(from)), Relationship: kind, RefB: common.MakeDocElementID("", string(to)),
	}
}
