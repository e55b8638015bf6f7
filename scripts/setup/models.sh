# The models: one to serve, and tiny ones for tests. Sourced by scripts/setup.sh.

models() {
    make_model python/tools/make_smollm2.py models/smollm2-135m-instruct
    make_model python/tools/make_tiny_models.py models
}

# SCRIPT FOLDER: runs the script unless its stamp says that this version of it has made the folder.
make_model() {
    local script=$1 folder=$2 stamp
    stamp=$folder/.made-by-$(basename "$script" .py)-$(hash_of "$script")
    [ -e "$stamp" ] && return
    say "running $script"
    mkdir -p "$folder"
    HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error .venv/bin/python "$script" "$folder" 2> "$folder/.log" \
        || { tail -20 "$folder/.log" >&2; die "$script failed" "its messages are above and in $folder/.log; repeat with: make setup"; }
    rm -f "$folder"/.made-by-"$(basename "$script" .py)"-* "$folder/.log"
    touch "$stamp"
}
