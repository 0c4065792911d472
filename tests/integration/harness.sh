# Sourced by tests/integration/run and, in each case's process, by the case itself.
# Gives: a hulld of its own, a registry on loopback with the test images, checks.

REGISTRY_PORT=${REGISTRY_PORT:-5000}
REGISTRY=127.0.0.1:$REGISTRY_PORT
BUSYBOX=$REGISTRY/busybox:latest
CASE_TIMEOUT=${CASE_TIMEOUT:-300}

# --- of the run ---------------------------------------------------------------------------------

harness_start() {
    . tests/lib/registry.sh
    HARNESS=$(mktemp -d /var/lib/hull-test.XXXXXX) || return 1
    export HARNESS HULL_HOST=unix://$HARNESS/run/hull.sock
    export IMAGES=$(tests/images/build busybox python)
    PASSED=0 FAILED=0 SKIPPED=0 FAILURES=()
    registry_start "$REGISTRY_PORT" "$HARNESS/registry" || return 1
    registry_push "$IMAGES/busybox" "$BUSYBOX" || return 1
    hulld_start || return 1
    hull pull -q "$BUSYBOX" >/dev/null || { echo "harness: cannot pull $BUSYBOX" >&2; tail -20 "$HARNESS/hulld.log" >&2; return 1; }
}

harness_stop() {
    hulld_stop
    registry_stop
    [ -n "${HARNESS_KEEP:-}" ] && echo "kept: $HARNESS" || rm -rf "$HARNESS"
}

# Options are those of hulld.
hulld_start() {
    hulld --root "$HARNESS/state" --exec-root "$HARNESS/run" -H "$HULL_HOST" "$@" >>"$HARNESS/hulld.log" 2>&1 &
    echo $! >"$HARNESS/hulld.pid"
    wait_for 30 hull version >/dev/null 2>&1 || { echo "harness: hulld did not start" >&2; tail -20 "$HARNESS/hulld.log" >&2; return 1; }
}

hulld_stop() {
    local pid
    pid=$(cat "$HARNESS/hulld.pid" 2>/dev/null) || return 0
    hull ps -aq 2>/dev/null | xargs -r hull rm -f >/dev/null 2>&1
    kill "$pid" 2>/dev/null || true
    # A case is not the parent of the one that the run has started.
    wait "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

harness_case() {
    local file=$1 name=$2 started=$SECONDS status limit log=$HARNESS/case.log
    # Of each of its cases, where a file says so.
    limit=$(sed -n 's/^# seconds: //p' "$file")
    timeout -k 10 "${limit:-$CASE_TIMEOUT}" bash -c '. tests/integration/harness.sh; . tests/lib/registry.sh; . "$1"; case_main "$2"' - "$file" "$name" >"$log" 2>&1
    status=$?
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        # Who is still there has hung, or waits for who has.
        { echo 'it was killed at its time limit; processes then:'; ps -eo pid,ppid,etimes,stat,wchan:20,args | grep -v '\]$' | cut -c1-150 | tail -n 35; } >>"$log"
        # What it left would be others' failure.
        hull ps -aq 2>/dev/null | xargs -r timeout 60 hull rm -f >/dev/null 2>&1
    fi
    case $status in
        0) PASSED=$((PASSED + 1)); echo "pass  $(basename "$file" .sh):${name#case_} ($((SECONDS - started)) s)" ;;
        75) SKIPPED=$((SKIPPED + 1)); echo "skip  $(basename "$file" .sh):${name#case_}: $(tail -n 1 "$log")" ;;
        *)
            FAILED=$((FAILED + 1))
            FAILURES+=("$(basename "$file" .sh):${name#case_}")
            echo "FAIL  $(basename "$file" .sh):${name#case_} (status $status, $((SECONDS - started)) s)"
            sed 's/^/      /' "$log" | tail -n 40
            ;;
    esac
}

# Whether a case was run in a machine that has died since; its result is counted, too. The case that
# the machine died in has failed. See tests/integration/in-machine, which tells.
harness_ended_before() {
    [[ ${HULL_TESTS_ENDED:-} == *,* ]] || return 1
    local next=${HULL_TESTS_ENDED%%,*}
    HULL_TESTS_ENDED=${HULL_TESTS_ENDED#*,}
    case $next in
        "pass=$1") PASSED=$((PASSED + 1)) ;;
        "skip=$1") SKIPPED=$((SKIPPED + 1)) ;;
        *)
            FAILED=$((FAILED + 1))
            FAILURES+=("$1")
            [ "$next" = "FAIL=$1" ] || echo "FAIL  $1 (the test machine died)"
            ;;
    esac
}

# Many failures are no accident, and are not tried again.
MAX_AGAIN=3
harness_again() {
    AGAIN=()
    [ "$FAILED" -gt 0 ] && [ "$FAILED" -le "$MAX_AGAIN" ] || return 0
    local failures=("${FAILURES[@]}") failure before
    FAILURES=() FAILED=0
    for failure in "${failures[@]}"; do
        before=$PASSED
        harness_case "tests/integration/cases/${failure%%:*}.sh" "case_${failure#*:}"
        [ "$PASSED" = "$before" ] || AGAIN+=("$failure")
    done
}

harness_summary() {
    [ ${#AGAIN[@]} = 0 ] || printf 'passed only when run again: %s\n' "${AGAIN[@]}"
    [ "$FAILED" = 0 ] || printf 'failed: %s\n' "${FAILURES[@]}"
    echo "$PASSED passed (${#AGAIN[@]} of them the second time), $FAILED failed, $SKIPPED skipped"
    [ "$FAILED" = 0 ] && [ "$PASSED" -gt 0 ]
}

# --- of a case ----------------------------------------------------------------------------------

# Each case has a folder of its own ($T) and its containers are removed at its end.
case_main() {
    T=$(mktemp -d "$HARNESS/case.XXXXXX")
    trap '[ $? = 0 ] || { tell_ends; stop_jobs; }; case_leftovers; rm -rf "$T"' EXIT
    set -e
    "$1"
}

# Servers that a case has started have the ports of the same case when it is run again; the engine stays.
stop_jobs() { jobs -p | grep -vx "$(cat "$HARNESS/hulld.pid")" | xargs -r kill 2>/dev/null; }

# Removes what a case made, and did not remove if it failed: others have the same names.
case_leftovers() {
    local kind
    hull ps -aq --filter "name=^t-" 2>/dev/null | xargs -r hull rm -f >/dev/null 2>&1
    hull network ls --format '{{.Name}}' 2>/dev/null | grep '^t-' | xargs -r hull network rm >/dev/null 2>&1
    ip netns list 2>/dev/null | awk '/^t-/ { print $1 }' | while read -r kind; do
        ip netns pids "$kind" | xargs -r kill -9 2>/dev/null
        ip netns del "$kind"
    done
    ip -o link 2>/dev/null | sed -nE 's/^[0-9]+: (t-[^:@]*).*/\1/p' | while read -r kind; do ip link del "$kind" 2>/dev/null; done
}

# Why VMs ended that nobody ended: a case that failed may have failed by that.
tell_ends() {
    hull ps -aq --filter "name=^t-" 2>/dev/null |
        xargs -r hull inspect -f '{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.State.Error}}' 2>/dev/null |
        awk 'NF > 3 { print "its VM ended:", $0 }'
}

skip() { echo "$*"; exit 75; }
fail() { echo "failed: $*"; exit 1; }

# capture COMMAND...: runs it; leaves $out, $err (files' contents) and $status.
capture() {
    status=0
    "$@" >"$T/out" 2>"$T/err" || status=$?
    out=$(cat "$T/out"; echo .) out=${out%.}
    err=$(cat "$T/err")
}

expect_status() { [ "$status" = "$1" ] || fail "exit status $status, expected $1; stdout: $out; stderr: $err"; }
expect_out() { [ "$out" = "$1" ] || fail "stdout is $(printf %q "$out"), expected $(printf %q "$1"); stderr: $err"; }
expect_err_has() { [[ $err == *"$1"* ]] || fail "stderr does not name $(printf %q "$1"): $err"; }
expect_out_has() { [[ $out == *"$1"* ]] || fail "stdout has no $(printf %q "$1"): $out"; }
expect_eq() { [ "$1" = "$2" ] || fail "${3:-value}: $(printf %q "$1"), expected $(printf %q "$2")"; }

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local limit=$1 deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || { echo "not within $limit s: $*" >&2; return 1; }
        sleep 0.2
    done
}

# What Hull could leave on a host: its processes, mounts, sockets, folders of running sandboxes, taps and
# the rules that pin them.
host_leftovers() {
    ps -eo comm=,pid=,args= | grep -E '^(hull-vmm|containerd-shim|hull-unpack|virtiofsd) ' || true
    grep -F "$HARNESS" /proc/mounts || true
    find "$HARNESS/run" -mindepth 2 \( -path '*/sandboxes/*' -o -path '*/bundles/*' \) 2>/dev/null || true
    find "$HARNESS/run/shims" -type s 2>/dev/null || true
    find "$HARNESS/state" -name '*.tmp*' -o -name '*.partial' 2>/dev/null || true
    { ip -o link; nft list ruleset; } 2>/dev/null | grep -oE '(^[0-9]+: |chain )h[0-9][0-9a-f]{13}\b' || true
}
expect_clean_host() { wait_for 20 no_leftovers || fail "left behind: $(host_leftovers)"; }
no_leftovers() { [ -z "$(host_leftovers)" ]; }
