# Every target sets up what it needs: .venv with the pinned requirements-dev.txt, the package built into it, and system
# packages where apt-get may install them. A CPU build of torch is enough: see requirements-dev.txt.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help demo test soak bench bench-check bench-sweep fashion-mnist lint aarch64 aarch64-count aarch64-rivals clean \
        rivals reproduce fuzz wheel wheel-aarch64 build native test-native test-sanitized test-aarch64 test-python soak-native soak-aarch64

PYTHON ?= python3
JOBS ?= $(shell nproc)
# 1: a missing aarch64 compiler or qemu is a failure instead of a visible skip.
PCONV_REQUIRE_AARCH64 ?= 0
# 1: without Fashion-MNIST make fails, instead of the test that trains on it being skipped.
PCONV_REQUIRE_DATASET ?= 0
# 1: no OpenCL device from PoCL is a failure instead of a visible skip.
export PCONV_REQUIRE_OPENCL ?= 0
# Shape of make aarch64-count: IC,OC,H,W.
LAYER ?= 64,64,56,56
# How long make fuzz looks for bytes that crash the reader of model files.
FUZZ_SECONDS ?= 600
# Runs whose medians make bench-check compares; five take more than an hour.
RUNS ?= 5

PY := .venv/bin/python
ARCH := $(shell uname -m)
CORE := build/$(ARCH)-core
QEMU := qemu-aarch64 -cpu cortex-a76 -L /usr/aarch64-linux-gnu
CXX_FILES = $(shell find include src apps tests/native tests/fuzz examples/cpp bench -name '*.h' -o -name '*.cpp' -o -name '*.inl' -o -name '*.c')
CORE_FILES := CMakeLists.txt $(shell find cmake include src -type f)
BINDING_FILES := setup.py pyproject.toml $(wildcard pconv_ops/*.pyx pconv_ops/*.pxd pconv_ops/*.pxi) $(shell find cl -type f)
export PYTHON CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

help:
	@echo "make demo           prune VGG-16, run a photograph through it, show outputs and times"
	@echo "make test           all tests with reduced counts (at most 20 minutes)"
	@echo "make soak           all tests with the long counts"
	@echo "make fuzz           libFuzzer on the reader of model files, FUZZ_SECONDS=600"
	@echo "make lint           formatters and type checker"
	@echo "make bench          pytest-benchmark suites of bench/"
	@echo "make bench-check    the speed lines that a release must meet"
	@echo "make bench-sweep    time against density of each kind of layer, into docs/results/"
	@echo "make rivals         the same pruned networks in other frameworks, into docs/results/ (gigabytes from pip)"
	@echo "make reproduce      the paper's tables and figures on this machine, into docs/results/"
	@echo "make fashion-mnist  accuracy against compression on Fashion-MNIST, into runs/fashion_mnist (hours)"
	@echo "make aarch64        cross-compile library, native tests and pconv_layer_bench into build/aarch64"
	@echo "make aarch64-rivals instructions of layers beside MNN on that core, into docs/results/"
	@echo "make aarch64-count  LAYER=IC,OC,H,W: instructions of a layer on an emulated Cortex-A76"
	@echo "make wheel          dist/: a wheel, installed and tried in an environment of its own"
	@echo "make wheel-aarch64  the same for aarch64 (Python 3.11): cross-compiled, tried under qemu"
	@echo "make clean          remove everything that was built or drawn (out/), .venv and runs/ apart"

# ---- setting up ------------------------------------------------------------------------------------------------------

build/stamps/venv: requirements-dev.txt scripts/setup_system.sh
	scripts/setup_system.sh base
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet -r requirements-dev.txt
	@mkdir -p $(@D) && touch $@

build/stamps/package: build/stamps/venv $(CORE_FILES) $(BINDING_FILES)
	$(PY) -m pip install --quiet --no-build-isolation --no-deps \
	  --config-settings editable_mode=compat --editable .
	@touch $@

build: build/stamps/package

# ---- tests -----------------------------------------------------------------------------------------------------------

test:
	$(MAKE) test-native
	$(MAKE) test-sanitized
	$(MAKE) test-aarch64
	$(MAKE) test-python

native: build/stamps/venv
	cmake -S . -B $(CORE) -DPCONV_BUILD_TESTS=ON -DPCONV_BUILD_APPS=ON
	cmake --build $(CORE)

test-native: native
	ctest --test-dir $(CORE) --output-on-failure

# Without NDEBUG: assertions are checked too. The vector units take minutes to compile so: what they read and write is
# checked by guard pages in every run, by sanitizers in make soak.
SANITIZED_ISAS ?= scalar
test-sanitized: build/stamps/venv
	cmake -S . -B build/sanitized -DPCONV_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=None \
	  -DCMAKE_CXX_FLAGS="-O1 -g" -DPCONV_BUILD_APPS=OFF -DPCONV_ONLY_ISAS="$(SANITIZED_ISAS)"
	cmake --build build/sanitized
	ctest --test-dir build/sanitized --output-on-failure -E isa_symbols

aarch64:
	scripts/setup_system.sh aarch64
	cmake -S . -B build/aarch64 --toolchain cmake/toolchains/aarch64-linux-gnu.cmake
	cmake --build build/aarch64

test-aarch64: build/stamps/venv
	@if scripts/setup_system.sh aarch64; then \
	  $(MAKE) aarch64 && ctest --test-dir build/aarch64 --output-on-failure && \
	  $(PY) bench/aarch64/check_loops.py; \
	elif [ "$(PCONV_REQUIRE_AARCH64)" = 1 ]; then \
	  echo "FAILED: the aarch64 tests are required (PCONV_REQUIRE_AARCH64=1)"; exit 1; \
	else \
	  echo "SKIPPED: aarch64 build, native tests under qemu and loop model (see above for what to install)"; \
	fi

test-python: build
	@scripts/setup_system.sh dataset || [ "$(PCONV_REQUIRE_DATASET)" != 1 ]
	$(PY) -m pytest

soak:
	$(MAKE) test-native test-aarch64
	$(MAKE) test-sanitized SANITIZED_ISAS=
	$(MAKE) soak-native
	$(MAKE) soak-aarch64
	$(MAKE) fuzz wheel wheel-aarch64
	$(MAKE) build
	$(PY) -m pytest --soak

soak-native: native
	@set -e; for test in $(CORE)/tests/native/pconv_*_test; do echo "$$test --soak"; $$test --soak; done

soak-aarch64: build/stamps/venv
	@set -e; if scripts/setup_system.sh aarch64; then $(MAKE) aarch64; \
	  for test in build/aarch64/tests/native/pconv_*_test; do echo "$$test --soak"; $(QEMU) $$test --soak; done; \
	elif [ "$(PCONV_REQUIRE_AARCH64)" = 1 ]; then exit 1; else echo "SKIPPED: long counts under qemu"; fi

# Begins with tests/fuzz/corpus, what earlier runs found, and leaves what is new in build/fuzz/found.
fuzz: build/stamps/venv
	scripts/setup_system.sh fuzz
	cmake -S . -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g" \
	  -DPCONV_SANITIZE=address,undefined -DPCONV_ONLY_ISAS=scalar -DPCONV_BUILD_FUZZERS=ON \
	  -DPCONV_BUILD_TESTS=OFF -DPCONV_BUILD_APPS=OFF
	cmake --build build/fuzz --target pconv_fuzz_model
	mkdir -p build/fuzz/found
	ASAN_OPTIONS=allocator_may_return_null=1 build/fuzz/tests/fuzz/pconv_fuzz_model -max_total_time=$(FUZZ_SECONDS) \
	  -timeout=5 -rss_limit_mb=4096 -malloc_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/ build/fuzz/found tests/fuzz/corpus

# ---- measuring -------------------------------------------------------------------------------------------------------

demo: build
	$(PY) -m pconv_ops demo

bench: build
	$(PY) -m pytest bench --benchmark-only

bench-check: build aarch64
	$(PY) -m pconv_ops bench --net vgg16 --threads 1
	$(PY) bench/check.py --runs $(RUNS)
	$(PY) bench/aarch64/count.py --layer 64,64,56,56 --fail-above 7.5e6

bench-sweep: build
	$(PY) bench/sweeps.py

# The other frameworks live in environments of their own; DeepSparse, which its makers have ended, may be missing.
RIVALS := build/rivals
build/stamps/rivals: bench/rivals/requirements.txt bench/rivals/requirements-deepsparse.txt
	test -x $(RIVALS)/main/bin/python || $(PYTHON) -m venv $(RIVALS)/main
	$(RIVALS)/main/bin/pip install --quiet -r bench/rivals/requirements.txt
	test -x $(RIVALS)/deepsparse/bin/python || $(PYTHON) -m venv $(RIVALS)/deepsparse
	$(RIVALS)/deepsparse/bin/pip install --quiet -r bench/rivals/requirements-deepsparse.txt || \
	  echo "DeepSparse cannot be installed: its rows will say so"
	@mkdir -p $(@D) && touch $@

build/stamps/rivals-models: build/stamps/rivals bench/rivals/models.py bench/rivals/convert.py \
    $(addprefix pconv_ops/,cases.py patterns.py prune.py projections.py zoo.py) | build/stamps/package
	$(PY) bench/rivals/models.py $(RIVALS)/models
	@set -e; for net in $(RIVALS)/models/*; do $(RIVALS)/main/bin/python bench/rivals/convert.py $$net; done
	@touch $@

rivals: build/stamps/rivals-models
	$(PY) bench/rivals/run.py
	$(PY) bench/rivals/run.py --avx2 --threads 1
	$(PY) bench/rivals/run.py --layers --threads 1
	$(PY) bench/rivals/readme.py

# The tables and figures of the paper; figures need what make rivals measured.
reproduce: build native
	@ls docs/results/rivals-*.json docs/results/layers-*.json >/dev/null || { echo "first: make rivals"; exit 1; }
	$(PY) bench/reproduce/pattern_counts.py
	$(PY) bench/reproduce/techniques.py
	$(PY) bench/reproduce/scaling.py
	$(PY) bench/reproduce/figures.py
	$(PY) bench/reproduce/break_even.py

# A wrong LAYER is noticed before minutes of building.
aarch64-count: build/stamps/venv
	@$(PY) bench/aarch64/count.py --layer '$(LAYER)' --check
	$(MAKE) aarch64
	$(PY) bench/aarch64/count.py --layer '$(LAYER)'

# Instructions of the same pruned layers, ours and MNN's, on the emulated core: some 15 minutes.
MNN := $(shell sed -n '/^MNN==/p' bench/rivals/requirements.txt)
aarch64-rivals: build/stamps/rivals build aarch64
	PYTHON=$(PY) scripts/aarch64_python.sh $(AARCH64_PYTHON) $(MNN) flatbuffers
	$(PY) bench/aarch64/beside_mnn.py

# What docs/results/fashion_mnist.md shows: 3 seeds of every scheme, some hours; goes on where it was stopped.
fashion-mnist: build
	scripts/setup_system.sh dataset
	$(PY) -m examples.fashion_mnist

# ---- wheels ----------------------------------------------------------------------------------------------------------

wheel: build/stamps/venv
	rm -rf build/wheel dist/pconv_ops-*-linux_$(ARCH).whl
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet dist/pconv_ops-*-linux_$(ARCH).whl
	cd build/wheel && bin/python $(CURDIR)/tests/check_wheel.py

# Debian's aarch64 Python is 3.11: so must be the one that says how extensions are named.
AARCH64_PYTHON := build/aarch64-python
AARCH64_RUN := PYTHONPATH=$(CURDIR)/$(AARCH64_PYTHON)/site qemu-aarch64 -cpu cortex-a76 \
  -L $(CURDIR)/$(AARCH64_PYTHON)/root $(CURDIR)/$(AARCH64_PYTHON)/root/usr/bin/python3.11
wheel-aarch64: build/stamps/venv
	scripts/setup_system.sh aarch64
	$(PY) -c 'import sys; assert sys.version_info[:2] == (3, 11), "wheel-aarch64 needs Python 3.11"'
	PYTHON=$(PY) scripts/aarch64_python.sh $(AARCH64_PYTHON)
	rm -rf build/lib.linux-aarch64* dist/pconv_ops-*-linux_aarch64.whl $(AARCH64_PYTHON)/site/pconv_ops*
	PCONV_CORE_BUILD=build/aarch64 PCONV_TOOLCHAIN=cmake/toolchains/aarch64-linux-gnu.cmake \
	  CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ LDSHARED="aarch64-linux-gnu-g++ -shared" \
	  LDCXXSHARED="aarch64-linux-gnu-g++ -shared" _PYTHON_HOST_PLATFORM=linux-aarch64 \
	  SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so \
	  CFLAGS="-I$(CURDIR)/$(AARCH64_PYTHON)/root/usr/include/python3.11 -I$(CURDIR)/$(AARCH64_PYTHON)/root/usr/include" \
	  $(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(PY) -m zipfile -e dist/pconv_ops-*-linux_aarch64.whl $(AARCH64_PYTHON)/site
	cd build && $(AARCH64_RUN) $(CURDIR)/tests/check_wheel.py

# ---- style -----------------------------------------------------------------------------------------------------------

lint: build/stamps/venv
	scripts/setup_system.sh lint
	clang-format --dry-run -Werror $(CXX_FILES)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf build dist out *.egg-info .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f pconv_ops/_native*.so pconv_ops/_native.cpp pconv_ops/_eager*.so pconv_ops/_eager.cpp
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .pytest_cache \) -prune -exec rm -rf {} +
