# `make help` lists what there is. Continuous integration runs `make lint` and
# `make test`, the same as anybody.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL: # what is heavy uses all cores by itself

PROGRAM := bin/aws-encryption-provider
KUBECTL_KMS := bin/kubectl-kms
ARGS ?=

# The version is what the build info says: the commit, where there is a git
# repository to ask.
VCS := $(shell git rev-parse --git-dir >/dev/null 2>&1 && echo true || echo false)
# grpc's request tracing pulls in html/template; nobody can see its pages here.
TAGS := grpcnotrace
# Where docs is published, such as https://example.org/kms/docs: what links lead to.
# Empty: links would lead nowhere, and texts say which page `explain` prints.
DOCS_URL ?=
override DOCS_URL := $(DOCS_URL:/=)
# Where this project is, such as https://example.org/team/kms: home page of the packages
# and source of the image. Empty: they name none.
PROJECT_URL ?=
# Who maintains the packages, such as A Team <team@example.org>. Empty: whoever built them.
MAINTAINER ?=
quoted = '$(subst ','\'',$(1))'
PUBLISHER = --docs-url $(call quoted,$(DOCS_URL)) --project-url $(call quoted,$(PROJECT_URL)) --maintainer $(call quoted,$(MAINTAINER))
LDFLAGS := -s -w$(if $(DOCS_URL), -X "main.docsURL=$(DOCS_URL)")
BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -tags $(TAGS) -ldflags '$(LDFLAGS)'

# Every Go module of this checkout; these build other people's servers.
MODULES := . $(patsubst ./%/go.mod,%,$(sort $(wildcard ./cmd/*/go.mod ./tools/go.mod ./tools/*/go.mod ./test/*/go.mod ./test/cluster/*/go.mod ./test/loaders/*/go.mod)))
LOADERS := $(filter test/loaders/%,$(MODULES))
SERVERS := $(filter test/cluster/%,$(MODULES)) $(LOADERS)
# What a node runs, in test-machine: other people's programs, with no file of ours.
NODE := $(patsubst ./%/go.mod,%,$(sort $(wildcard ./test/machine/*/go.mod)))

# Tools are built from tools/go.mod by the Go that is used, once for each.
GOVERSION := $(shell go env GOVERSION)
TOOLS := bin/tools/$(GOVERSION)
LINT := $(CURDIR)/$(TOOLS)/golangci-lint

FUZZTIME ?= 10s
# The version of kube-apiserver in the end-to-end tests; empty: that of
# test/cluster/apiserver. There is a module for each other one beside it.
KUBERNETES ?=
export KUBERNETES
# Bounds on a test that hangs, each ten times what the package takes by itself:
# other work may go on beside it, and the first run compiles.
E2E_TIMEOUT ?= 60m
UNIT_TIMEOUT ?= 30m
PART_TIMEOUT ?= 30m
# What the tests of `make test-unit` and `make test-e2e` are told besides, such
# as TESTFLAGS='-run TestDemo -count=1'.
TESTFLAGS ?=

.PHONY: help
help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the program: bin/aws-encryption-provider
	$(BUILD) -o $(PROGRAM) ./cmd/aws-encryption-provider

.PHONY: build-kubectl-kms
build-kubectl-kms: ## Build the operator's tool, kubectl kms: bin/kubectl-kms
	version=$$(hack/version.sh); CGO_ENABLED=0 go -C cmd/kubectl-kms build -trimpath -buildvcs=$(VCS) -tags $(TAGS) -ldflags "-s -w -X main.release=$$version" -o '$(abspath $(KUBECTL_KMS))' .
	@ln -sf '$(notdir $(KUBECTL_KMS))' '$(dir $(KUBECTL_KMS))kubectl_complete-kms'

.PHONY: run
run: build ## Build and run it over an emulated AWS KMS (ARGS=...)
	@exec $(PROGRAM) dev $(ARGS)

.PHONY: demo
demo: build servers ## A small real control plane that encrypts with it, until Ctrl-C
	@cd test/e2e && go build -o $(CURDIR)/bin/demo ./cmd/demo && PLUGIN=$(CURDIR)/$(PROGRAM) exec $(CURDIR)/bin/demo $(ARGS)

.PHONY: bench
bench: build ## Measure it and print the table of docs/bench.md (ARGS=...)
	@cd test/bench && exec go run . $(ARGS)

# Whose image is built or pushed: aws-encryption-provider, into bin/image, or kubectl-kms,
# into bin/image-kubectl-kms.
PRODUCT ?= aws-encryption-provider
IMAGES := bin/image$(addprefix -,$(filter-out aws-encryption-provider,$(PRODUCT)))
.PHONY: image
image: $(TOOLS)/release ## The container image in bin/image: an OCI layout, and a tar of it (PRODUCT=kubectl-kms; ARGS=...)
	@$(TOOLS)/release image --product '$(PRODUCT)' --out $(IMAGES) --replace $(IMAGES) $(PUBLISHER) $(ARGS)

.PHONY: release-snapshot
release-snapshot: $(TOOLS)/release ## What a release has, in bin/release: archives, packages, SBOMs, images, checksums (ARGS=...)
	@$(TOOLS)/release snapshot --out bin/release --replace bin/release $(PUBLISHER) $(ARGS)

# What goes to a registry: the image of make image, or FROM=bin/release.
FROM ?= $(IMAGES)
.PHONY: push
push: $(TOOLS)/release ## The built image to a registry (IMAGE=registry/name:tag; FROM=bin/release; PRODUCT=kubectl-kms)
	@$(TOOLS)/release push --product '$(PRODUCT)' --from '$(FROM)' --image '$(IMAGE)' $(if $(GITHUB_OUTPUT),--outputs '$(GITHUB_OUTPUT)')

.PHONY: rebuild
rebuild: $(TOOLS)/release ## Build a release again and compare (VERSION=v1.2.3 CHECKSUMS=SHA256SUMS)
	@$(TOOLS)/release rebuild --version '$(VERSION)' --checksums '$(CHECKSUMS)' $(PUBLISHER)

.PHONY: release-notes
release-notes: ## What CHANGELOG.md says of a release (VERSION=v1.2.3)
	@hack/release-notes.sh '$(VERSION)'

.PHONY: release-draft
release-draft: ## A draft of a release on GitHub, of bin/release (VERSION=v1.2.3; needs gh)
	@hack/release-draft.sh '$(VERSION)'

.PHONY: test
test: test-unit test-kubectl-kms test-docs test-release test-manifests test-loaders test-observability test-e2e ## All tests: unit with the race detector, kubectl kms, docs, release, manifests, loaders, alerts, end to end

.PHONY: test-unit race
test-unit: ## Unit tests with the race detector
	@echo '== unit tests with the race detector'
	go test -race -timeout $(UNIT_TIMEOUT) $(TESTFLAGS) ./...
race: test-unit ## The same as test-unit

# -count=1: Go does not see the servers that it runs.
.PHONY: test-kubectl-kms
test-kubectl-kms: servers ## kubectl kms, on real etcds of two minors, with the race detector
	@echo '== kubectl kms, on real etcds'
	go -C cmd/kubectl-kms test -race -count=1 -timeout $(UNIT_TIMEOUT) $(TESTFLAGS) ./...

.PHONY: test-long
test-long: servers ## kubectl kms migrate of 5,000 Secrets under load, at its own rate: CI does not run it
	@echo '== kubectl kms migrate, 5,000 Secrets'
	KUBECTL_KMS_SECRETS=5000 KUBECTL_KMS_RATE=50 go -C cmd/kubectl-kms test -count=1 -timeout $(PART_TIMEOUT) -run '^TestMigrate$$' -v $(TESTFLAGS) .

# -count=1: Go does not see the files of other modules that it reads.
.PHONY: test-docs
test-docs: servers ## What the docs tell one to type runs, and their links lead somewhere
	@echo '== docs: bash blocks and links'
	go -C test/docs test -count=1 -parallel 4 -timeout $(PART_TIMEOUT) $(TESTFLAGS) ./...

# -count=1: Go does not see that this depends on the program's own files.
.PHONY: test-release
test-release: ## Release, package and image: built twice, compared, installed and run
	@echo '== release and image, built twice'
	@hack/rpm.sh >/dev/null
	go -C tools/release test -count=1 -timeout $(PART_TIMEOUT) $(TESTFLAGS) ./...

# -count=1: Go does not see the files of other modules that it reads.
.PHONY: test-manifests
test-manifests: ## What generate writes, decoded by kube-apiserver, kubeadm and Cluster API
	@echo '== generated manifests, decoded'
	go -C test/manifests test -count=1 -timeout $(PART_TIMEOUT) $(TESTFLAGS) ./...

# -count=1: Go does not see the files of other modules that it reads.
.PHONY: test-loaders
test-loaders: loaders ## EncryptionConfigurations, as kube-apiserver's loaders of five versions take them
	@echo '== EncryptionConfigurations, compared with kube-apiserver of $(notdir $(LOADERS))'
	go -C test/loaders test -count=1 -timeout $(PART_TIMEOUT) $(TESTFLAGS) ./...

# Apart from the unit tests, since it takes promtool out of a Debian package.
.PHONY: test-observability
test-observability: ## Alerts and dashboard, by promtool on metrics of the program over the emulator
	@echo '== alerts and dashboard, on recorded metrics'
	@hack/promtool.sh >/dev/null
	go -C test/observability test -count=1 -timeout $(PART_TIMEOUT) $(TESTFLAGS) ./...

# One package after the other (-p 1): some of its tests bound the time of a call.
.PHONY: test-e2e
test-e2e: build servers $(TOOLS)/progress ## The built program under a real kube-apiserver and etcd (KUBERNETES=1.35.4)
	@echo '== end-to-end tests; about ten minutes'
	cd test/e2e && PLUGIN=$(CURDIR)/$(PROGRAM) go test -p 1 -count=1 -json -timeout $(E2E_TIMEOUT) $(TESTFLAGS) ./... | $(CURDIR)/$(TOOLS)/progress

.PHONY: smoke-aws
smoke-aws: build ## The program with a key of yours in the real AWS KMS (KEY=ARN); never in CI
	@cd test/e2e && go run ./cmd/smoke --program '$(CURDIR)/$(PROGRAM)' --key '$(KEY)'

# Not a part of `make test`: it needs root and up to an hour, and no commit has to
# wait for it. Run it before a release, and where units or package change.
.PHONY: test-machine
test-machine: build $(TOOLS)/release ## The package and the pods on a machine with systemd and a kubelet, in qemu
	@rm -rf bin/machine
	@$(TOOLS)/release snapshot --out bin/machine --targets $$(go env GOARCH) >/dev/null
	@echo '== kubelet and containerd, built once for each version'
	@for dir in $(NODE); do \
		CGO_ENABLED=0 GOFLAGS="$${GOFLAGS:-} -trimpath" go -C $$dir build -ldflags '-s -w' -o $(CURDIR)/bin/machine/node/ tool || exit 1; done
	@test/machine/run.sh bin/machine/*_$$(go env GOARCH).deb $(PROGRAM) bin/machine/*_oci.tar bin/machine/node

.PHONY: servers
servers: ## Build kube-apiserver, etcd and their clients for the tests, or find them in the cache
	@echo '== kube-apiserver, etcd and their clients, built once for each version'
	cd test/e2e && go run ./cmd/servers

# The test builds them too: this fills Go's cache, and shows how far it is.
.PHONY: loaders
loaders: ## Build kube-apiserver's loaders of EncryptionConfigurations, of five versions
	@for dir in $(LOADERS); do \
		start=$$SECONDS; echo "== building $$dir (half a minute the first time)"; \
		go -C $$dir build -trimpath -o /dev/null . || exit 1; \
		echo "   $$((SECONDS - start)) s"; \
	done

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME (10s)
	@FUZZTIME=$(FUZZTIME) hack/fuzz.sh

.PHONY: lint
lint: lint-text lint-workflows lint-tidy lint-go lint-tools vulncheck ## All checks: linters, formatting, tidy modules, vulnerabilities

# The mains of other people's servers are checked with the flags that they are
# built with, so that the compiler's work is shared, and only by linters that do
# not read all of Kubernetes for it.
SERVER_LINTERS := depguard,errcheck,forbidigo,gochecknoglobals,gochecknoinits,ineffassign,modernize,noctx,nolintlint,revive

.PHONY: lint-go
lint-go: tools ## golangci-lint in every module, formatting included
	@failed=; for dir in $(MODULES); do \
		start=$$SECONDS flags= only=; \
		case " $(SERVERS) " in *" $$dir "*) flags=-trimpath only=--enable-only=$(SERVER_LINTERS) ;; esac; \
		echo "== golangci-lint in $$dir"; \
		(cd $$dir && GOFLAGS="$${GOFLAGS:-} $$flags" $(LINT) run $$only ./...) || failed="$$failed $$dir"; \
		echo "   $$((SECONDS - start)) s"; \
	done; \
	$(LINT) fmt --diff || failed="$$failed formatting"; \
	if [ -n "$$failed" ]; then echo "lint-go failed:$$failed" >&2; exit 1; fi

.PHONY: lint-tidy
lint-tidy: ## Is each go.mod what `go mod tidy` would write?
	@failed=; for dir in $(MODULES) $(NODE); do \
		echo "== go mod tidy -diff in $$dir"; \
		(cd $$dir && go mod tidy -diff) || failed="$$failed $$dir"; \
	done; \
	if [ -n "$$failed" ]; then echo "lint-tidy failed, make tidy helps:$$failed" >&2; exit 1; fi

.PHONY: lint-text
lint-text: ## No tracked file names a directory of this machine or a package registry
	@echo '== texts'
	@hack/check-text.sh

# No shellcheck and no pyflakes: what a workflow runs is a target of this file.
.PHONY: lint-workflows
lint-workflows: tools ## actionlint: are the workflows of .github well-formed?
	@echo '== actionlint'
	@$(TOOLS)/actionlint -shellcheck= -pyflakes=

.PHONY: lint-tools
lint-tools: ## The tools' own tests
	@echo '== tests of the tools'
	go -C tools test ./...

# All of Kubernetes has findings that no release fixes; what is built of it for
# the tests serves nobody, and test/manifests decodes this project's own files.
.PHONY: vulncheck
vulncheck: tools ## govulncheck: is a known vulnerability reached?
	@echo '== govulncheck'
	@$(TOOLS)/vulncheck -tags $(TAGS) .
	@$(TOOLS)/vulncheck -test $(filter-out . test/manifests $(SERVERS),$(MODULES))

.PHONY: fmt
fmt: tools ## Format all Go files
	$(LINT) fmt

.PHONY: generate
generate: ## Write what is generated: docs/errors.md, docs/doctor-codes.md, docs/status-codes.md, docs/metrics.md, docs/flags.md, deploy/manifests, deploy/completion, deploy/observability's alerts, what guides show
	go test ./internal/kmsserver -run Page -update
	go test ./internal/doctor -run Link -update
	go test ./internal/inquiry -run Page -update
	go test ./internal/metrics -update
	go test ./internal/alerts -update
	go test ./internal/cli -run 'Generates|Manifest|Guides' -update
	go -C cmd/kubectl-kms test ./cli -run Generates -update

.PHONY: tidy
tidy: ## go mod tidy in every module
	@for dir in $(MODULES); do (cd $$dir && go mod tidy); done

.PHONY: update-vulndb
update-vulndb: tools ## Pin the newest vulnerability database
	$(TOOLS)/vulncheck -update tools/vulncheck/vulndb.txt

.PHONY: clean
clean: ## Remove what was built here; the caches of Go and of the servers stay
	rm -rf bin

.PHONY: tools
tools: $(addprefix $(TOOLS)/,golangci-lint vulncheck progress)

# This one builds all that tools/go.mod names: actionlint, gofumpt and govulncheck as well.
$(TOOLS)/golangci-lint: tools/go.mod tools/go.sum
	@echo '== building golangci-lint, actionlint, gofumpt and govulncheck (two minutes the first time)'
	go -C tools build -trimpath -buildvcs=false -ldflags '-s -w' -o $(CURDIR)/$(TOOLS)/ tool
	@touch $@

$(TOOLS)/vulncheck: $(wildcard tools/vulncheck/*)
	go -C tools build -trimpath -buildvcs=false -o $(CURDIR)/$@ ./vulncheck
$(TOOLS)/release: $(wildcard tools/release/* internal/alerts/* docs/docs.go)
	go -C tools/release build -trimpath -buildvcs=false -o $(CURDIR)/$@ .
$(TOOLS)/progress: $(wildcard tools/progress/*)
	go -C tools build -trimpath -buildvcs=false -o $(CURDIR)/$@ ./progress
