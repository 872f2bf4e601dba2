# Everything a contributor runs. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

export CGO_ENABLED := 0
export GOTOOLCHAIN := local

VERSION ?= $(shell git describe --tags --always --dirty --match 'v*' 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse --short=9 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
GOBUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
# Where wherry begins, so that builds are handed over before Go's runtime starts.
ENTRY   := $(if $(filter linux/amd64 linux/arm64,$(shell go env GOOS)/$(shell go env GOARCH)),-E github.com/wherry-engine/wherry/internal/cli/early.entry)
PREFIX  ?= /usr/local
# What is installed; those for another processor are made by scripts/build_for.
BIN     ?= bin
EMBED   := internal/embedded/bin

# What the machine promises; a condition named here fails a test instead of skipping it.
PROMISE  = WHERRY_REQUIRE=$$(scripts/promise)

# RUN=pattern narrows any test target, as in `make test-script RUN=TestScript/run`.
RUN     ?=
RUNFLAG  = $(if $(RUN),-run '$(RUN)')

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

.PHONY: build
build: embed ## bin/wherryd, bin/wherry and bin/wherry-build, which are a whole installation, and bin/wherry-registry
	@mkdir -p bin
	$(GOBUILD) -o bin/wherryd ./cmd/wherryd
	go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS) $(ENTRY)' -o bin/wherry ./cmd/wherry
	$(GOBUILD) -o bin/wherry-build ./cmd/wherry-build
	$(GOBUILD) -o bin/wherry-registry ./cmd/wherry-registry
	@# The linker writes page by page, and so a program lies in the kernel's cache, from
	@# where each start maps it: that takes longer than with one that was written at
	@# once, as an installed one was.
	@for p in wherryd wherry wherry-build wherry-registry; do \
		dd if=bin/$$p of=bin/$$p.new bs=8M status=none; chmod 755 bin/$$p.new; mv bin/$$p.new bin/$$p; done

# The programs wherryd carries inside itself, so they are built first.
.PHONY: embed
embed:
	@mkdir -p $(EMBED)
	$(GOBUILD) -o $(EMBED)/wherry-init ./cmd/wherry-init
	$(GOBUILD) -o $(EMBED)/wherry-keeper ./cmd/wherry-keeper
	$(GOBUILD) -o $(EMBED)/wherry-hello ./cmd/wherry-hello

.PHONY: clients
clients: ## the client for macOS, Windows and Linux on arm64, in bin/clients
	LDFLAGS='$(LDFLAGS)' scripts/build_clients

.PHONY: run
run: build ## start a private engine, run hello-world and a busybox, show it, leave nothing behind
	@scripts/try_it

.PHONY: dev
dev: build ## an engine with its own root and socket in .cache/dev, in the foreground
	@scripts/dev_engine

.PHONY: needs
needs: ## install what the tests use (Debian, as root), or say what is missing
	@scripts/install_needs

.PHONY: test
test: needs build ## everything: layout rules, units, API goldens, scripts, peers, isolation, crash, VM, leak check
	@$(PROMISE) scripts/test_all

.PHONY: test-unit
test-unit: embed ## what needs neither root nor a built engine
	go vet ./...
	go test ./internal/... ./cmd/...

.PHONY: test-root
test-root: build ## the tests of the built engine, as root
	$(PROMISE) go test -count=1 $(RUNFLAG) ./test/api/... ./test/script/... ./test/build/... ./test/compare/... ./test/python/... ./test/network/... ./test/isolation/... ./test/crash/... ./test/acceptance/... ./test/remote/...

.PHONY: test-script
test-script: build ## the CLI scripts, with wherry and with docker
	$(PROMISE) go test -count=1 $(RUNFLAG) ./test/script/...

.PHONY: test-compare
test-compare: build ## the same commands against dockerd and wherryd, and by docker and wherry, side by side
	$(PROMISE) go test -count=1 -v $(RUNFLAG) ./test/compare/...

.PHONY: test-python
test-python: build ## Debian's python3-docker against the engine
	$(PROMISE) go test -count=1 $(RUNFLAG) ./test/python/...

.PHONY: test-vm
test-vm: build ## the runtime's tests in a VM with cgroup v2
	$(PROMISE) go test -count=1 -timeout 20m $(RUNFLAG) ./test/vm/...

.PHONY: test-arm64
test-arm64: build ## what can run of the tests on arm64, in a VM, and the package there; takes half an hour
	$(PROMISE) go test -count=1 -v -timeout 60m -run 'ARM64$$' ./test/vm -all

.PHONY: test-sentinel
test-sentinel: build ## Redis Sentinel's failovers with the timeouts as written, 30 s and 180 s; takes minutes
	go test -count=1 -v -run TestSentinelAsWritten ./test/examples -as-written

.PHONY: bench
bench: build ## times, memory and builds beside docker.io, podman and the bare kernel
	go run ./test/bench $(BENCHFLAGS)
	@[ -n "$(BENCHFLAGS)" ] || go run ./test/bench -builds 5

.PHONY: bench-network
bench-network: build ## throughput, connections and the kernel's work per packet through networks and ports, beside docker.io
	go test -count=1 -run '^$$' -bench Traffic -benchtime 101x -timeout 20m ./test/network
	go test -count=1 -run '^$$' -bench Path -benchtime 21x -timeout 20m ./test/network

.PHONY: lint
lint: ## gofmt and golangci-lint, built on the spot the first time
	@scripts/lint

.PHONY: man
man: embed ## the manual pages, in bin/man
	rm -rf bin/man
	go run ./cmd/wherry-man bin/man

.PHONY: install
install: build man ## programs, manual pages, shell completion and systemd units below $(PREFIX)
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin share/man/man1 share/man/man8 share/bash-completion/completions share/zsh/site-functions share/fish/vendor_completions.d lib/systemd/system lib/sysusers.d)
	install -m 0755 $(addprefix $(BIN)/,wherryd wherry wherry-build wherry-registry) $(DESTDIR)$(PREFIX)/bin/
	install -m 0644 bin/man/man1/* $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 0644 bin/man/man8/* $(DESTDIR)$(PREFIX)/share/man/man8/
	bin/wherry completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/wherry
	bin/wherry completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_wherry
	bin/wherry completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/wherry.fish
	sed 's|@bindir@|$(PREFIX)/bin|' dist/systemd/wherry.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/wherry.service
	install -m 0644 dist/systemd/wherry.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	install -m 0644 dist/systemd/wherry.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/wherry.conf
	@[ -n "$(DESTDIR)" ] || echo "with systemd: systemd-sysusers && systemctl daemon-reload && systemctl enable --now wherry.socket wherry.service"

.PHONY: deb
deb: build ## a Debian package, in bin; ARCH=arm64 or amd64 names another processor than this machine's
	LDFLAGS='$(LDFLAGS)' ARCH='$(ARCH)' scripts/build_deb

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .cache $(EMBED)/wherry-*
