# shellcheck shell=bash
# For sourcing: runs a command under a heading, and says how long it took.
step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    "$@"
    printf -- '--- %s: %d s\n' "$name" $((SECONDS - start))
}

# A machine that cannot fetch the toolchain of rust-toolchain.toml may have the same version as `stable`.
pinned=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
if command -v rustup >/dev/null && ! rustup toolchain list | grep -q "^$pinned-" &&
    [[ $(rustup run stable rustc --version) == "rustc $pinned "* ]]; then
    export RUSTUP_TOOLCHAIN=stable
fi
