#!/usr/bin/env bash
# Brings in what is missing: system packages, the virtual environment with vLLM, the models. Each step leaves a stamp named after the
# hash of what it was made from, so a second run does nothing, and a changed lock file or script makes its step run again.
#
# DEVICE=cpu or DEVICE=cuda overrides what is found; PYTHON names the Python 3.11 to use.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '[setup] %s\n' "$*"; }
die() { printf 'error: %s\n' "$1" >&2; shift; printf '  hint: %s\n' "$@" >&2; exit 1; }
hash_of() { cat "$@" | sha256sum | cut -c1-12; }

source scripts/setup/system.sh
source scripts/setup/python.sh
source scripts/setup/models.sh

system_packages
python_environment
models
