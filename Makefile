# The commands of this project. `make quickstart` and `make test` work in a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
# Ray and torch leave freed blocks in their own hands: glibc otherwise gives every large tensor back to the kernel and page faults take half the time.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 100000000000
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1

.PHONY: help install install-test peers triton tools swift system-tools quickstart test test-lowest bench chaos attacks fuzz lint types layers pytest format constraints locks sbom licences docs docs-pages kuberay clean frontier

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Every package is compared with the digest of its lock; the package itself is built with the locked setuptools.
LOCKED := install -q --disable-pip-version-check --require-hashes --no-deps
.venv/installed: pyproject.toml deploy/install.sh deploy/locks/runtime.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Monosem needs Python 3.11 or newer, found %d.%d: set PYTHON=…" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	deploy/install.sh $(BIN)/python runtime
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-test: .venv/installed deploy/locks/test.txt
	$(BIN)/pip $(LOCKED) --no-build-isolation -r deploy/locks/test.txt
	@touch $@

install: .venv/installed  ## make .venv with the pinned dependencies

install-test: .venv/installed-test

# Everything but peers.txt is that of .venv, which stands behind their own packages on the path; relative, so that the checkout may move.
.venv-peers/installed: deploy/locks/peers.txt | .venv/installed-test
	rm -rf .venv-peers
	$(BIN)/python -m venv --without-pip .venv-peers
	$(BIN)/pip --python .venv-peers/bin/python $(LOCKED) -r deploy/locks/peers.txt
	@for own in .venv-peers/lib/python3.*/site-packages; do echo "../../../../.venv/$${own#.venv-peers/}" > "$$own/zz-monosem.pth"; done
	@touch $@

peers: .venv-peers/installed  ## make .venv-peers with SAELens, dictionary_learning and sparsify, for benchmarks and tests beside them

# Apart from .venv: there torch and the peers would take Triton up, which without a GPU only interprets.
.venv-triton/installed: deploy/locks/triton.txt | .venv/installed-test
	rm -rf .venv-triton
	$(BIN)/python -m venv --without-pip .venv-triton
	$(BIN)/pip --python .venv-triton/bin/python $(LOCKED) -r deploy/locks/triton.txt
	@for own in .venv-triton/lib/python3.*/site-packages; do echo "../../../../.venv/$${own#.venv-triton/}" > "$$own/zz-monosem.pth"; done
	@touch $@

triton: .venv-triton/installed  # Triton's interpreter, which checks the GPU's kernels on any machine

.venv-swift/installed: deploy/locks/swift.txt
	$(PYTHON) -m venv .venv-swift
	.venv-swift/bin/pip $(LOCKED) -r deploy/locks/swift.txt
	@touch $@

swift: .venv-swift/installed  # a real S3 server for the tests, in its own environment

system-tools: .tools/prometheus  # headless Chromium and Prometheus for the tests that use them, where this user may install them
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  (apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1; } || echo "no chromium: the browser tests will be skipped"

.tools/prometheus:  # Debian's package, unpacked and not installed: an installed one would start a service
	@mkdir -p .tools && cd .tools && rm -rf unpacked && (command -v promtool || { command -v dpkg && command -v apt-get && \
	  { apt-get download -q prometheus || { apt-get update -qq && apt-get download -q prometheus; }; } && \
	  dpkg -x prometheus_*.deb unpacked && rm prometheus_*.deb && mv unpacked/usr/bin prometheus && rm -rf unpacked; }) >/dev/null 2>&1 || \
	  echo "no promtool: the tests of alerts, rules and dashboards will be skipped"

# Not in this repository: 2 MB of another project. Where they cannot be had, the tests that need them are skipped; other bytes than these are an error.
KUBERAY_URL ?= https://raw.githubusercontent.com/ray-project/kuberay/v1.7.0/helm-chart/kuberay-operator/crds
.tools/kuberay: deploy/kuberay.sha256
	@rm -rf $@ $@.partial && mkdir -p $@.partial
	@if (for file in $$(awk '{print $$2}' $<); do curl -fsSL --connect-timeout 10 --max-time 120 -o $@.partial/$$file $(KUBERAY_URL)/$$file || exit 1; done); then \
	  (cd $@.partial && sha256sum --check --quiet ../../$<) && mv $@.partial $@ && touch $@; \
	else rm -rf $@.partial; echo "no CRDs of KubeRay: the tests of the chart against them will be skipped (KUBERAY_CRDS=DIRECTORY names a copy)"; fi

kuberay:  ## KubeRay's CRDs of v1.7.0 in .tools/kuberay, compared with their digests, for the tests of the chart
	@[ -n "$$KUBERAY_CRDS" ] || $(MAKE) --no-print-directory .tools/kuberay

quickstart: install  ## the whole way on the embedded model and text; leaves runs/quickstart/report.html (STORE=URL, SCRATCH=1, ARGS=key=value)
	$(BIN)/monosem run quickstart $(if $(STORE),store=$(STORE)) $(if $(SCRATCH),--from-scratch) $(ARGS)

test: install-test swift peers triton tools system-tools kuberay lint types layers pytest  ## lint, types, layer contracts and all tests

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy sae services jobs

layers:
	$(BIN)/lint-imports

pytest:  # two processes: much of the time is waiting for servers, clusters and processes to start, die and come back
	$(BIN)/pytest -n 2 --no-loadscope-reorder $(ARGS)

chaos: install-test swift  ## the long form of the chaos tests: kills, faults, damage and whole runs on hosts of their own, in rounds (ROUNDS=5)
	$(BIN)/pytest tests/chaos --chaos-rounds=$(or $(ROUNDS),5) $(ARGS)

attacks: install-test  ## damaged and hostile inputs before every command that reads them, as a table (ATTACKS=640)
	$(BIN)/python -m tests.attacks --sample $(or $(ATTACKS),640) $(ARGS)

fuzz: install-test  ## the parsers against generated input, 5,000 examples each (drawn anew each time)
	$(BIN)/pytest -m fuzz --hypothesis-profile=fuzz --timeout=3600 $(ARGS)

test-lowest: .venv-tools/installed  ## the library's tests with the oldest packages that pyproject.toml allows (Linux: 5 GB, with CUDA)
	$(PYTHON) -m venv .venv-lowest
	.venv-tools/bin/python -m uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct \
	  '.[models,report,s3,serve,explain]' 'moto[server]==5.2.5' 'hypothesis>=6.100' 'pytest>=8' 'pytest-timeout>=2.3' 'pytest-xdist>=3.6'
	.venv-lowest/bin/python -m pytest -q -m "not ray and not browser and not fuzz" $(or $(ARGS),tests/sae/kernels tests/sae/architectures tests/sae/training)

bench: install-test peers  ## benchmarks against limits and peers: a JSON line each, then the table (ONLY=name for one)
	@$(BIN)/python -m tests.benchmarks $(ONLY)

format: install-test  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

frontier: install  ## L0 against FVU and loss recovered of every architecture: runs/frontier/report.html and deploy/frontier.svg
	for stage in harvest train evaluate report; do $(BIN)/monosem $$stage -c frontier $(ARGS) || exit 1; done
	$(BIN)/python deploy/frontier.py runs/frontier deploy/frontier.svg

clean:  ## remove what quickstart wrote
	rm -rf runs/quickstart

.venv-tools/installed: deploy/locks/tools.txt
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip $(LOCKED) -r deploy/locks/tools.txt
	@touch $@

tools: .venv-tools/installed  # what makes locks, bill of materials and licences

locks: .venv-tools/installed  # after a change of constraints.txt or of a list of requirements: deploy/locks
	.venv-tools/bin/python deploy/lock.py

sbom: install .venv-tools/installed  ## a bill of materials of the installed packages in CycloneDX's format: build/monosem.cdx.json
	@mkdir -p build
	.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o build/monosem.cdx.json .venv

.venv-docs/installed: deploy/locks/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip $(LOCKED) -r deploy/locks/docs.txt
	@touch $@

# A copy in which pages, examples and pictures lie as in the repository, so that the same links hold here and in the site.
docs: .venv-docs/installed  ## the documentation as a site that fetches nothing from elsewhere: build/site/index.html
	@rm -rf build/site-source build/site && mkdir -p build/site-source
	@tar -c README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md CITATION.cff LICENSE docs/*.md examples/*.py deploy/*.svg deploy/*.png deploy/site.css | \
	  tar -x -C build/site-source
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet
	@echo "build/site/index.html"

docs-pages: install  # the pages of docs/ that repeat what the code declares
	$(BIN)/python deploy/pages.py

licences: install .venv-tools/installed  # what is installed, under which licence: docs/licences.md
	.venv-tools/bin/python deploy/licences.py

constraints:  # pin what a fresh environment resolves to (after a change of dependencies), and lock the embedded corpus to it
	{ echo "# Pinned versions of everything, so that every machine installs the same and the embedded corpus is the same text."; \
	  echo "# Made by: make constraints"; echo "torch==2.13.0"; $(BIN)/pip freeze --exclude-editable | grep -v '^torch=='; } > constraints.txt
