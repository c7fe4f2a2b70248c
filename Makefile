# make report [TARGET=name-or-pid], make demo, make test: each sets up what it needs, once.
PYTHON ?= python3
export PYTHON
# What an interpreter can break: everything but terminals, browsers, ELF files, and what compares with other tools.
OTHER_TESTS := tests --ignore=tests/render/test_html_browser.py --ignore=tests/test_top.py --ignore=tests/test_parity.py \
  --ignore=tests/test_containment.py --ignore=tests/test_every_socket.py --ignore=tests/trace/test_unwinder.py \
  --ignore=tests/trace/test_call_sites.py --ignore=tests/trace/test_every_socket_traced.py --ignore=tests/fuzz \
  --ignore=tests/trace/test_hydrogen_order.py --ignore=tests/trace/test_leaks.py
VENV ?= .venv
export VENV
SECONDS := 600
# Most tests wait: for a trace, a terminal, a browser. Those of a file share what they trace.
IN_PARALLEL := --numprocesses=3 --dist=loadfile
BENCHMARKS := plain_report.py footprint.py scheduling.py descriptors.py call_sites.py live_view.py
.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: report
report: ## Report TARGET=name-or-pid, or a demonstration server of ours, as root with a trace
	@scripts/setup report
	@if [ -n "$(TARGET)" ]; then $(VENV)/bin/threadinfo report -- "$(TARGET)"; else scripts/demo; fi

.PHONY: demo
demo: ## A demonstration server that stays up until Ctrl-C, with something to trace
	@scripts/setup report
	@scripts/demo stay

.PHONY: test
test: ## Lint, types, all tests
	@scripts/setup test
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest $(IN_PARALLEL)

.PHONY: coverage
coverage: ## The tests, with which lines they ran; half as long again
	@scripts/setup test
	$(VENV)/bin/pytest $(IN_PARALLEL) --cov --cov-report=term:skip-covered

.PHONY: pythons
pythons: ## The tests again on the oldest and newest other Python that is there
	@for python in $$(scripts/pythons); do \
	  echo "=== $$($$python --version)"; \
	  PYTHON=$$python VENV=.venv-other scripts/setup test && .venv-other/bin/pytest -q $(IN_PARALLEL) $(OTHER_TESTS) || exit; \
	done

.PHONY: fuzz
fuzz: ## Random sequences of calls while we trace, SECONDS=600 of them, against what the programs counted themselves
	@scripts/setup test
	$(VENV)/bin/python -m tests.fuzz --seconds $(SECONDS)
	$(VENV)/bin/python tests/fuzz/scheduling.py --seconds $(SECONDS)

.PHONY: bench
bench: ## Measure us and the peers side by side
	@scripts/setup bench
	@for program in $(BENCHMARKS); do $(VENV)/bin/python benchmarks/$$program || exit; done

.PHONY: schema
schema: ## Write docs/*.schema.json anew from the model
	@scripts/setup report
	$(VENV)/bin/python -c 'import sys; from threadinfo.render.json import report_schema; sys.stdout.buffer.write(report_schema())' \
	  > docs/report.schema.json
	$(VENV)/bin/python -c 'import sys; from threadinfo.render.json import events_schema; sys.stdout.buffer.write(events_schema())' \
	  > docs/events.schema.json

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf $(VENV) .venv-other build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
