# Sourced by the scripts: messages, and a sign of life while a long command runs.

say() { printf '==> %s\n' "$1" >&2; }

# The first line says what is wrong, the following ones what to do.
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [[ $# -eq 0 ]] || printf '       %s\n' "$@" >&2
    exit 1
}

# with_progress LOG DESCRIBE COMMAND...: runs COMMAND with its output appended to LOG; meanwhile shows the seconds and what the
# function DESCRIBE prints: one line that changes on a terminal, a line every 15 seconds elsewhere. Returns COMMAND's status.
with_progress() {
    local log=$1 describe=$2 started=$SECONDS told=0 elapsed status=0
    shift 2
    # A process group of its own, so that Ctrl-C ends the compilers too and not only the command that started them.
    set -m
    "$@" >>"$log" 2>&1 </dev/null &
    local child=$!
    set +m
    trap 'kill -TERM -- "-$child" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$child" 2>/dev/null; do
        elapsed=$((SECONDS - started))
        if [[ -t 2 ]]; then
            printf '\r\033[K    %4d s  %.100s' "$elapsed" "$("$describe")" >&2
        elif ((elapsed - told >= 15)); then
            printf '    %4d s  %s\n' "$elapsed" "$("$describe")" >&2
            told=$elapsed
        fi
        sleep 0.5
    done
    wait "$child" || status=$?
    trap - INT TERM
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
    return "$status"
}
