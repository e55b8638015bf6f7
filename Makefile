# dualpool. `make demo` and `make test` are all that is needed; both set up what is missing first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build wheel demo test bench test-tools

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## system packages, Python environment with vLLM, models; does nothing where they are there (PYTHON=, DEVICE=cpu|cuda)
	@scripts/setup.sh

build: setup ## target/release/dualpool
	cargo build --release

wheel: setup ## target/wheels/dualpool-*.whl, which `pip install` puts into any Python from 3.10 on; no Rust is needed there
	PATH="$(CURDIR)/.venv/bin:$$PATH" maturin build --release --out target/wheels

demo: build ## run the main benchmark on this machine and print its table and the path of its report
	target/release/dualpool run dual_pool --budget 4m

test: test-tools setup ## style checks, then every test
	@echo '[test] 1/6 format';          cargo fmt --all --check
	@echo '[test] 2/6 lints';           cargo clippy --workspace --all-targets -- -D warnings
	@cargo clippy --lib --features extension-module -- -D warnings
	@echo '[test] 3/6 Python';          PYTHONPYCACHEPREFIX=target/pycache .venv/bin/python -m compileall -q python
	@# Before the others: it leaves a program without Python where theirs is to be.
	@echo '[test] 4/6 without Python';  cargo test --workspace --no-default-features --test without_python
	@echo '[test] 5/6 unit tests';      cargo test --workspace --lib --bins
	@# Most tests wait more than they compute. Those that want the cores to themselves see to it.
	@echo '[test] 6/6 tests of the whole'; cargo test --workspace --test '*' -- --test-threads=8

# rustup's minimal profile lacks them; better said before the downloads than after.
test-tools:
	@for tool in fmt clippy; do cargo $$tool --version > /dev/null 2>&1 || \
		{ printf 'error: `cargo %s` does not run\n  hint: rustup component add rustfmt clippy\n' "$$tool" >&2; exit 1; }; done
	@# The CUDA kernels are run on the CPU, compiled as C++.
	@c++ --version > /dev/null 2>&1 || { printf 'error: there is no C++ compiler (c++)\n  hint: apt-get install g++\n' >&2; exit 1; }

bench: setup ## criterion benchmarks of the hot paths
	cargo bench
