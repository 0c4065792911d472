# `hull run`: output, exit status, and how the process is set up.

# Core.
case_output_and_status_are_the_process_own() {
    capture hull run --rm "$BUSYBOX" sh -c 'echo out; echo err >&2; exit 7'
    expect_status 7
    expect_out $'out\n'
    expect_eq "$err" err stderr
}

# Core.
case_signal_death_is_128_plus_n() {
    # The init process of a PID namespace gets from inside no signal that it has no handler for; its children do.
    capture hull run --rm "$BUSYBOX" sh -c 'sh -c "kill -9 \$\$"; exit $?'
    expect_status 137
    capture hull run --rm "$BUSYBOX" sh -c 'kill -TERM $$; exit 3'
    expect_status 3
    capture hull run --rm --init "$BUSYBOX" sh -c 'kill -TERM $$; sleep 5'
    expect_status 143
}

# Core.
case_missing_program_is_127() {
    capture hull run --rm --name t-127 "$BUSYBOX" nonexistent-prog
    expect_status 127
    expect_out ''
    expect_err_has nonexistent-prog
    expect_err_has 'not found'
    hull ps -aq --filter name=t-127 | grep . && fail "the container was left behind"
    capture hull run --rm "$BUSYBOX" /no/such/file
    expect_status 127
    expect_err_has 'no such file'
}

# Core.
case_not_executable_is_126() {
    capture hull run --rm "$BUSYBOX" /etc/passwd
    expect_status 126
    expect_err_has 'permission denied'
    capture hull run --rm "$BUSYBOX" /etc
    expect_status 126
}

# Core.
case_hull_errors_are_125() {
    capture hull run --rm --no-such-flag "$BUSYBOX" true
    expect_status 125
    capture hull run --rm "$REGISTRY/no-such-image:latest" true
    expect_status 125
    expect_err_has no-such-image
    capture hull run --rm -u nosuchuser "$BUSYBOX" true
    expect_status 125
    expect_err_has nosuchuser
    capture hull run --rm -m 1m "$BUSYBOX" true
    expect_status 125
    capture hull run --rm --cpus 512 "$BUSYBOX" true
    expect_status 125
    expect_err_has CPUs
}

# Core.
case_environment_merges_with_the_image() {
    capture hull run --rm -e A=2 -e B=3 -e EMPTY= "$BUSYBOX" env
    expect_status 0
    expect_out_has $'A=2\n'
    expect_out_has $'B=3\n'
    expect_out_has $'EMPTY=\n'
    expect_eq "$(grep -c '^PATH=' <<<"$out")" 1 "number of PATH lines"
    expect_out_has 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

# Core.
case_working_directory_is_made() {
    capture hull run --rm -w /workspace/deep "$BUSYBOX" sh -c 'pwd; stat -c "%a %u:%g" .; echo hello'
    expect_status 0
    expect_out $'/workspace/deep\n755 0:0\nhello\n'
    capture hull run --rm -w /etc/passwd "$BUSYBOX" pwd
    [ "$status" -ge 125 ] && [ "$status" -le 127 ] || fail "a file as working directory: status $status"
    expect_err_has /etc/passwd
}

# Core.
case_user_by_name_and_number() {
    capture hull run --rm -u app "$BUSYBOX" sh -c 'id -u; id -g; id -Gn; echo "$HOME"'
    expect_out $'1000\n1000\napp dock\n/home/app\n'
    capture hull run --rm -u app:app "$BUSYBOX" id -Gn
    expect_out $'app\n'
    capture hull run --rm -u 7777 "$BUSYBOX" sh -c 'id -u; echo "$HOME"'
    expect_out $'7777\n/\n'
    capture hull run --rm -u 1000 -e HOME= "$BUSYBOX" sh -c 'echo "[$HOME]"'
    expect_out $'[/home/app]\n'
}

# Core.
case_entrypoint_override() {
    capture hull run --rm --entrypoint echo "$BUSYBOX" a b
    expect_out $'a b\n'
    capture hull run --rm --entrypoint "" "$BUSYBOX" echo hi
    expect_out $'hi\n'
    capture hull run --rm --entrypoint "" "$BUSYBOX"
    expect_status 125
    expect_err_has 'no command specified'
}

# Core.
case_arguments_arrive_exactly() {
    local long
    long=$(head -c 65000 /dev/zero | tr '\0' a)
    hull run --rm "$BUSYBOX" printf '%s|' "$long" '' 'q"uo' $'line1\nline2' >"$T/got"
    printf '%s|' "$long" '' 'q"uo' $'line1\nline2' >"$T/want"
    cmp "$T/got" "$T/want"
}

# Core.
case_stdin_reaches_its_end() {
    capture hull run -i --rm "$BUSYBOX" cat <<<hi
    expect_status 0
    expect_out $'hi\n'
    head -c 20000000 /dev/urandom >"$T/random"
    expect_eq "$(hull run -i --rm "$BUSYBOX" sha256sum <"$T/random" | cut -d' ' -f1)" "$(sha256sum <"$T/random" | cut -d' ' -f1)" "sum of 20 MB of stdin"
}

case_output_is_never_cut() {
    local i want
    want=$(seq 1 150000 | sha256sum)
    for i in 1 2 3; do
        expect_eq "$(hull run --rm "$BUSYBOX" sh -c 'seq 1 150000 >&2' 2>&1 >/dev/null | sha256sum)" "$want" "stderr of run $i"
    done
    hull run -d --name t-cut "$BUSYBOX" seq 1 150000 >/dev/null
    hull wait t-cut >/dev/null
    expect_eq "$(hull logs t-cut | sha256sum)" "$want" "logs"
}

# Core.
case_terminal() {
    capture script -qec "hull run -it --rm $BUSYBOX sh -c 'tty; test -t 0 && test -t 1 && echo both; stty size; exit 5'" /dev/null </dev/null
    expect_out_has /dev/pts/
    expect_out_has both
    expect_status 5
    capture script -qec "stty rows 33 cols 99; hull run -it --rm $BUSYBOX stty size" /dev/null </dev/null
    expect_out_has '33 99'
    capture script -qec "stty -a >$T/before; hull run -it --rm $BUSYBOX nosuchprog; stty -a >$T/after" /dev/null </dev/null
    cmp "$T/before" "$T/after"
}

# What is done to the client's window is done to the guest's terminal.
case_a_windows_size_follows() {
    cat >"$T/window.py" <<'END'
import fcntl, os, pty, select, struct, sys, termios, time

def size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

def until(fd, text, seen=b"", limit=60):
    end = time.time() + limit
    while text not in seen:
        if not select.select([fd], [], [], max(0, end - time.time()))[0]: sys.exit(f"no {text} in {seen}")
        seen += os.read(fd, 4096)
    return seen

pid, terminal = pty.fork()
if pid == 0:
    time.sleep(0.5)
    os.execvp(sys.argv[1], sys.argv[1:])
size(terminal, 30, 101)
until(terminal, b"30 101")
size(terminal, 41, 122)
until(terminal, b"41 122")
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
END
    local loop='trap "stty size; exit 9" WINCH; stty size; while :; do sleep 0.2; done'
    capture timeout 120 python3 "$T/window.py" hull run -it --name t-win "$BUSYBOX" sh -c "$loop"
    expect_status 9
    hull rm t-win >/dev/null
    hull run -d --name t-win "$BUSYBOX" sleep 600 >/dev/null
    capture timeout 120 python3 "$T/window.py" hull exec -it t-win sh -c "$loop"
    expect_status 9
    hull rm -f t-win >/dev/null
}

# A terminal is shown bars, a file none.
case_a_pull_shows_how_far_it_is() {
    registry_push "$IMAGES/python" "$REGISTRY/python:latest"
    hull rmi -f "$REGISTRY/python:latest" >/dev/null 2>&1 || true
    capture hull pull "$REGISTRY/python:latest"
    expect_status 0
    [[ $out$err != *$'\e['* ]] || fail "a file gets what is for terminals: $out$err"
    hull rmi -f "$REGISTRY/python:latest" >/dev/null
    capture script -qec "stty cols 120; hull pull $REGISTRY/python:latest" /dev/null </dev/null
    expect_status 0
    [[ $out == *'=>'* || $out == *'> '* ]] && [[ $out == *$'\e['* ]] || fail "no bars: $(printf %q "$out")"
    [[ $out == *Download* || $out == *MB* || $out == *MiB* ]] || fail "no figures: $(printf %q "$out")"
}

case_read_only_root() {
    capture hull run --rm --read-only --tmpfs /tmp "$BUSYBOX" sh -c 'touch /x; touch /tmp/y && echo tmp; hostname >/dev/null && ls -d /run || true'
    expect_out_has tmp
    expect_err_has 'Read-only file system'
}

case_kernel_is_hulls_own() {
    capture hull run --rm "$BUSYBOX" uname -r
    expect_out_has -hull
    [ "$out" != "$(uname -r)" ] || fail "the container sees the host's kernel"
}

case_processes_are_reaped() {
    capture hull run --rm "$BUSYBOX" sh -c '(sleep 0.1 &) ; (true &); sleep 1; ps -o stat= | grep -c Z'
    expect_out $'0\n'
}

case_groups_that_are_added_hold_for_execs() {
    hull run -d --name t-groups -u app --group-add 4242 "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-groups id -G)" '1000 990 4242' 'as its user'
    expect_eq "$(hull exec -u app:app t-groups id -G)" '1000 4242' 'as its user, of one group'
    expect_eq "$(hull exec -u 0 t-groups id -G)" '0 4242' 'as root'
    hull rm -f t-groups >/dev/null
}

# As with docker: programs tell by this file that an engine runs them.
case_dockerenv() {
    capture hull run --name t-env "$BUSYBOX" stat -c '%s %F' /.dockerenv
    expect_out $'0 regular empty file\n'
    expect_eq "$(hull diff t-env)" '' 'what the container has changed'
    hull rm t-env >/dev/null
}

# A VM's boot takes a moment: what is asked for meanwhile is not lost.
case_who_interrupts_a_start_ends_the_container() {
    gone() { ! hull ps -aq --filter "name=^$1\$" | grep -q .; }
    local signal
    for signal in INT TERM; do
        # With a handler of its own, since a shell's background job ignores SIGINT.
        python3 - "$signal" "$BUSYBOX" <<'PY'
import os, signal, subprocess, sys, time
child = subprocess.Popen(["hull", "run", "--rm", "--name", "t-s", sys.argv[2], "sh", "-c", "trap 'exit 0' INT TERM; while :; do sleep 0.2; done"],
                         preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM)])
while subprocess.run(["hull", "inspect", "t-s"], capture_output=True).returncode:
    time.sleep(0.05)
time.sleep(0.5)
# A first process has no ear for a signal before its program does: whoever gets no answer asks again.
for patience in 15, 60:
    child.send_signal(getattr(signal, "SIG" + sys.argv[1]))
    try:
        child.wait(patience)
        break
    except subprocess.TimeoutExpired:
        continue
sys.exit(child.returncode is None)
PY
        wait_for 20 gone t-s || fail "$signal: it runs on: $(hull ps -a)"
    done
    # The engine's own side: a stop that comes during a start.
    hull create --name t-c "$BUSYBOX" sleep 600 >/dev/null
    hull start t-c >/dev/null &
    sleep 1
    hull stop -t 1 t-c >/dev/null
    wait $!
    expect_eq "$(hull inspect -f '{{.State.Running}}' t-c)" false 'after a stop'
    hull rm t-c >/dev/null
}
