# shellcheck shell=bash
# For sourcing: runs a command under a heading, and says how long it took.
step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    "$@"
    printf -- '--- %s: %d s\n' "$name" $((SECONDS - start))
}
