# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs.
BIN := .venv/bin
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --exclude-newer "1 week" pyproject.toml
PURE := etltd/wire.py,etltd/broadcast.py,etltd/exposition.py,etltd/handover.py,etltd/outbox.py,etltd/trigger.py,etltd/stats.py,etltd/ratelimit.py,etltd/sanitize.py,etltd/bus/envelope.py,etltd/bus/sequence.py,etltd/bus/buffer.py,etltd/bus/backoff.py,etltd/bus/stats.py,loadclient/pacing.py,loadclient/payload.py,loadclient/ledger.py,loadclient/merge.py,loadclient/histogram.py,loadclient/protocol.py,loadclient/report.py,loadclient/result.py,loadclient/sequences.py,loadclient/series.py,loadclient/stationarity.py,loadclient/stored.py,loadclient/totals.py,loadclient/verdict.py,loadclient/voices.py,loadclient/network/conditions.py,loadclient/network/path.py,ebpf/decode.py,loadclient/compare/analysis.py,loadclient/compare/ancova.py,loadclient/compare/bisection.py,loadclient/compare/design.py,loadclient/compare/fingerprint.py,loadclient/compare/html/drawn.py,loadclient/compare/html/findings.py,loadclient/compare/html/told.py,loadclient/compare/replacements.py,loadclient/compare/report.py,loadclient/compare/simulation.py,loadclient/compare/slices.py,loadclient/compare/statistics.py,loadclient/compare/study.py,loadclient/compare/studyfile.py,loadclient/compare/verdict.py
PYTHON := $(BIN)/python
JOBS ?= -n auto --maxprocesses 4 --dist loadgroup

.PHONY: help demo demo-fresh compare test fmt lint type dashboards-render bench curves fuzz mutants soak soak-bus siege audit lock clean stack stack-load stack-down

help: ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/.run ## ET and LT under the same load, every message accounted for
	@$(PYTHON) -m loadclient demo

compare: .venv/.report ## ET against LT in interleaved pairs, about three minutes, with a page
	@mkdir -p report && $(PYTHON) -m loadclient compare --quick --json report/compare.json --html report/compare.html

test: .venv/.dev ## all tests that can run here, with coverage
	@$(BIN)/coverage erase
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/coverage run -m pytest $(JOBS) $(ARGS)
	@$(BIN)/coverage combine -q && $(BIN)/coverage report --fail-under=90
	@$(BIN)/coverage report --fail-under=100 --include="$(PURE)" >/dev/null || { echo "a pure module is not wholly tested"; exit 1; }
	@$(BIN)/coverage report --fail-under=90 --omit="$(PURE)" >/dev/null || { echo "of what is not pure, less than 90 % is tested"; exit 1; }

stack: ## the full view in containers: both daemons, probe, Prometheus, Grafana
	@deploy/stack.sh up

stack-load: ## the same load on both daemons of the stack at the same time (CONNS, RATE, DURATION...)
	@deploy/stack.sh load

stack-down: ## remove the stack: containers, networks and volumes
	@deploy/stack.sh down

fmt: .venv/.dev ## format the code
	@$(BIN)/ruff check -q --fix-only . && $(BIN)/ruff format -q .

lint: .venv/.dev ## ruff, formatting, spelling
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell

type: .venv/.dev ## mypy, strict
	@$(BIN)/mypy

dashboards-render: .venv/.run ## draw the boards by Grafana's components from PROMETHEUS=URL
	@$(PYTHON) -m dashboards render --prometheus $(or $(PROMETHEUS),http://127.0.0.1:9090) --out report/boards $(ARGS)

bench: .venv/.dev ## ratios with intervals, never bare times
	@$(PYTHON) -m pytest -q -s tests/bench && $(PYTHON) tests/bench/versus.py $(ARGS)

curves: .venv/.dev ## scaling curves as a page, report/curves.html, about five minutes
	@$(PYTHON) tests/bench/curves.py $(ARGS)

soak-bus: .venv/.dev ## three instances on two networks over NATS, faults in turn, SECONDS=600 (as root)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTHON) tests/bench/bus_soak.py $(or $(SECONDS),600)

fuzz: .venv/.dev ## coverage-guided fuzzing, SECONDS=60 for each target (installs atheris; THEN=forget leaves the corpus)
	@$(PYTHON) -m pip install -q "atheris>=3,<4"
	@for target in $(or $(TARGET),decoder outbox batch modes); do $(PYTHON) -m tests.fire.fuzz $$target $(or $(SECONDS),60) $(THEN) || exit 1; done

demo-fresh: .venv/.dev ## `make demo` in a fresh clone and a terminal of 80 columns, as you or (root) as USERS="a b"
	@$(PYTHON) tests/deploy/fresh_demo.py $(USERS)

mutants: .venv/.dev ## remove one guard at a time; the tests must notice (about ten minutes; NAME=traps: ET's own)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PYTHON) tests/mutants.py $(if $(NAME),"$(NAME)")

soak: .venv/.dev ## mixed load with churn on both modes at once, MINUTES=60 (every night: MINUTES=10; gently: PACE=0.1)
	@$(PYTHON) -m tests.fire.soak both $(or $(MINUTES),60) $(PACE)

siege: .venv/.dev ## attacks at full size, what bystanders notice of them as a factor (ATTACK=..., ROUNDS=8, SECONDS=1.5)
	@$(PYTHON) -m tests.fire.siege --rounds $(or $(ROUNDS),8) --seconds $(or $(SECONDS),1.5) $(ATTACK)

audit: .venv/.dev ## known weaknesses of the locked dependencies (installs pip-audit, asks PyPI, then OSV)
	@test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && .venv/audit/bin/pip install -q "pip-audit>=2.10,<3"; } || echo "audit: NOT DONE: pip-audit could not be installed"
	@test ! -x .venv/audit/bin/pip-audit || .venv/audit/bin/python tests/audit.py requirements-dev.lock

lock: ## resolve the dependencies anew (needs uv), a week's cooldown
	$(LOCK) -o requirements.lock
	$(LOCK) --extra bus -o requirements-bus.lock
	$(LOCK) --extra report -o requirements-report.lock
	$(LOCK) --extra report --extra dashboards --extra bus --group dev -o requirements-dev.lock

clean: ## remove what the other targets made
	rm -rf .venv .coverage* .pytest_cache .mypy_cache .ruff_cache report

.venv/.run: requirements.lock pyproject.toml deploy/setup.sh
	@deploy/setup.sh run && touch $@

.venv/.report: requirements-report.lock pyproject.toml deploy/setup.sh
	@deploy/setup.sh report && touch $@ .venv/.run

.venv/.dev: requirements-dev.lock pyproject.toml deploy/setup.sh
	@deploy/setup.sh dev && touch $@ .venv/.run .venv/.report
