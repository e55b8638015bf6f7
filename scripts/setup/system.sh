# Compilers and system libraries. Sourced by scripts/setup.sh.

# What the build needs of the system -> how to see that it is there -> the Debian package that brings it.
system_packages() {
    local tool missing=()
    for tool in git cc cargo; do
        command -v "$tool" > /dev/null || die "\`$tool\` is not installed" "$(tool_hint "$tool")"
    done
    command -v pkg-config > /dev/null || missing+=(pkg-config)
    has_library 'hwloc >= 2.8' || missing+=(libhwloc-dev)
    has_library libudev || missing+=(libudev-dev)
    if [ ${#missing[@]} -gt 0 ]; then install_debian "${missing[@]}"; fi
}

tool_hint() {
    case $1 in
        git) echo 'apt-get install git' ;;
        cc) echo 'apt-get install build-essential' ;;
        cargo) echo 'install Rust 1.95 or newer with rustup (https://rustup.rs)' ;;
    esac
}

has_library() { command -v pkg-config > /dev/null && pkg-config --exists "$1"; }

install_debian() {
    if [ "$(id -u)" -ne 0 ]; then
        die "system packages are missing: $*" "as root: apt-get install $* (or their equivalents), then repeat this command"
    fi
    if ! command -v apt-get > /dev/null; then
        die "system packages are missing and there is no apt-get: $*" "install their equivalents with this system's package manager"
    fi
    say "installing system packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" > /dev/null \
        || die "apt-get could not install: $*" "see its messages above; install them by hand, then repeat this command"
}
