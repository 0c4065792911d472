# Changes of the host are told to those who watch shared files in containers (inotify).

# The host's own programs, in a guest.
TOOLS='-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro'

# watch.py PATH...: says "ready", then one line for each event at a path: the path, what it is, the
# name, the number of a renaming, and what a file that was watched and modified holds. One that is
# replaced is watched anew.
watch_program() {
    mkdir "$T/p"
    cat >"$T/p/watch.py" <<'PY'
import ctypes, os, struct, sys
BITS = {2: "MODIFY", 4: "ATTRIB", 8: "CLOSE_WRITE", 0x40: "MOVED_FROM", 0x80: "MOVED_TO",
        0x100: "CREATE", 0x200: "DELETE", 0x400: "DELETE_SELF", 0x800: "MOVE_SELF"}
MORE = {0x4000: "OVERFLOW", 0x8000: "IGNORED"}
libc = ctypes.CDLL(None, use_errno=True)
inotify = libc.inotify_init1(0)
paths, cookies = {}, {}
def watch(path):
    number = libc.inotify_add_watch(inotify, os.fsencode(path), sum(BITS))
    if number < 0:
        print(path, os.strerror(ctypes.get_errno()), flush=True)
    paths[number] = path
for path in sys.argv[1:]:
    watch(path)
print("ready", flush=True)
while True:
    data = os.read(inotify, 1 << 16)
    while data:
        number, mask, cookie, length = struct.unpack("iIII", data[:16])
        name, data = data[16:16 + length].rstrip(b"\0").decode(), data[16 + length:]
        what = "+".join(text for bit, text in (BITS | MORE).items() if mask & bit)
        path = paths.get(number, "-")
        line = [path, what + ("/" if mask & 0x40000000 else ""), name]
        if cookie:
            line.append(str(cookies.setdefault(cookie, len(cookies) + 1)))
        if what == "MODIFY" and not name:
            line.append(" ".join(open(path).read().split()))
        print(" ".join(filter(None, line)), flush=True)
        if what == "IGNORED" and os.path.exists(path):
            watch(path)
PY
}

# watcher NAME OPTIONS... -- PATH...: a container that watches.
watcher() {
    local name=$1 options=()
    shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    # shellcheck disable=SC2086 # several options
    hull run -d --name "$name" $TOOLS -v "$T/p:/p:ro" "${options[@]}" "$BUSYBOX" python3 /p/watch.py "$@" >/dev/null
    wait_for 90 told "$name" ready || fail "it does not watch: $(hull logs "$name" 2>&1)"
    # The host is told after the container's own kernel is.
    sleep 2
}

# told NAME LINE: whether the container NAME was told so.
told() { hull logs "$1" 2>&1 | grep -qxF -- "$2"; }

# expect_told NAME LAST EXPECTED: waits for the line LAST; then all lines are compared.
expect_told() {
    wait_for 15 told "$1" "$2" || true
    sleep 0.5
    # Without what a further container's start does to a volume.
    expect_eq "$(hull logs "$1" 2>&1 | grep -v ' ATTRIB/$')" "$3" "what $1 was told"
}

# Marks of fanotify on the host.
host_marks() { cat /proc/[0-9]*/fdinfo/* 2>/dev/null | grep -c '^fanotify ino:' || true; }

# Core.
case_changes_of_the_host_are_told() {
    watch_program
    mkdir -p "$T/d/sub"
    echo one >"$T/d/f"
    watcher t-watch -v "$T/d:/d" -- /d /d/f /d/sub
    echo two >>"$T/d/f"
    # It reads at once what it is told of, though it has read the file before.
    wait_for 10 told t-watch '/d/f MODIFY one two' || true
    chmod 600 "$T/d/f"
    : >"$T/d/new"
    mv "$T/d/new" "$T/d/sub/moved"
    rm "$T/d/sub/moved"
    mkdir "$T/d/dir"
    rmdir "$T/d/dir" "$T/d/sub"
    touch "$T/d/last"
    wait_for 15 told t-watch '/d CREATE last' || true
    sleep 0.5
    hull logs t-watch >"$T/out"
    # Each watch has its events in order; between two that hear of one thing there is none.
    expect_eq "$(grep '^/d ' "$T/out")" "/d MODIFY f
/d CLOSE_WRITE f
/d ATTRIB f
/d CREATE new
/d CLOSE_WRITE new
/d MOVED_FROM new 1
/d CREATE/ dir
/d DELETE/ dir
/d DELETE/ sub
/d CREATE last
/d ATTRIB last
/d CLOSE_WRITE last" 'the directory'
    expect_eq "$(grep '^/d/sub ' "$T/out")" "/d/sub MOVED_TO moved 1
/d/sub DELETE moved
/d/sub DELETE_SELF
/d/sub IGNORED" 'the directory in it'
    expect_eq "$(grep '^/d/f ' "$T/out" | sed "s, one two,,")" "/d/f MODIFY
/d/f CLOSE_WRITE
/d/f ATTRIB" 'the file'
    hull exec t-watch sh -c '[ -e /d/last ] && ! [ -e /d/sub ] && [ "$(stat -c %a /d/f)" = 600 ]' || fail 'the new state is not seen'
}

case_a_file_that_editors_replace() {
    watch_program
    mkdir "$T/d"
    echo one >"$T/d/f"
    echo one >"$T/bound"
    watcher t-watch -v "$T/d:/d" -v "$T/bound:/bound" -- /d/f /bound
    echo two >"$T/d/f.tmp"
    mv "$T/d/f.tmp" "$T/d/f"
    wait_for 15 told t-watch '/d/f IGNORED' || true
    sleep 2
    echo three >"$T/d/f"
    wait_for 15 told t-watch '/d/f CLOSE_WRITE' || true
    # A file that is bound by itself stays the one that it was, as with docker: it has lost its
    # name, and no more.
    echo two >>"$T/bound"
    wait_for 15 told t-watch '/bound CLOSE_WRITE' || true
    echo three >"$T/bound.tmp"
    mv "$T/bound.tmp" "$T/bound"
    wait_for 15 told t-watch '/bound ATTRIB' || true
    sleep 0.5
    hull logs t-watch >"$T/out"
    expect_eq "$(grep '^/d/f ' "$T/out" | grep -vx '/d/f MODIFY' | uniq)" "/d/f ATTRIB
/d/f DELETE_SELF
/d/f IGNORED
/d/f MODIFY three
/d/f CLOSE_WRITE" 'a file that was replaced, and its successor'
    expect_eq "$(grep '^/bound ' "$T/out")" "/bound MODIFY one two
/bound CLOSE_WRITE
/bound ATTRIB" 'a bound file'
    expect_eq "$(hull exec t-watch cat /bound)" $'one\ntwo' 'a bound file after its replacement'
}

case_a_change_is_told_once_to_each_container() {
    watch_program
    hull volume create t-vol >/dev/null
    trap '[ $? = 0 ] || tell_ends; hull ps -aq --filter "name=^t-" | xargs -r hull rm -f >/dev/null 2>&1; hull volume rm t-vol >/dev/null; rm -rf "$T"' EXIT
    watcher t-one -v t-vol:/v -- /v
    watcher t-two -v t-vol:/v -- /v
    # The guest's kernel closes a file later than its program does.
    hull exec t-one sh -c 'echo x >/v/a; sleep 1; mv /v/a /v/b; rm /v/b; touch /v/last'
    local all="ready
/v CREATE a
/v MODIFY a
/v CLOSE_WRITE a
/v MOVED_FROM a 1
/v MOVED_TO b 1
/v DELETE b
/v CREATE last
/v ATTRIB last
/v CLOSE_WRITE last"
    expect_told t-two '/v CLOSE_WRITE last' "$all"
    sleep 1
    expect_told t-one '/v CLOSE_WRITE last' "$all"
}

case_a_watch_of_the_host_ends_with_the_watcher() {
    watch_program
    mkdir "$T/d" "$T/d/sub"
    local before
    before=$(host_marks)
    # shellcheck disable=SC2086 # several options
    hull run -d --name t-watch $TOOLS -v "$T/p:/p:ro" -v "$T/d:/d" "$BUSYBOX" sleep 600 >/dev/null
    sleep 2
    expect_eq "$(host_marks)" "$before" 'watches of the host while nobody watches'
    hull exec -d t-watch sh -c 'python3 /p/watch.py /d /d/sub >/tmp/told 2>&1'
    wait_for 20 sh -c "hull exec t-watch grep -q ready /tmp/told"
    sleep 2
    expect_eq "$(host_marks)" $((before + 2)) 'watches of the host'
    touch "$T/d/f"
    wait_for 10 hull exec t-watch grep -q 'CREATE f' /tmp/told || fail "not told: $(hull exec t-watch cat /tmp/told)"
    hull exec t-watch killall python3
    sleep 2
    expect_eq "$(host_marks)" "$before" 'watches of the host after the watcher'
    # The next one is told as the first was.
    hull exec -d t-watch sh -c 'python3 /p/watch.py /d >/tmp/again 2>&1'
    wait_for 20 sh -c "hull exec t-watch grep -q ready /tmp/again"
    sleep 2
    touch "$T/d/g"
    wait_for 10 hull exec t-watch grep -q 'CREATE g' /tmp/again || fail "not told: $(hull exec t-watch cat /tmp/again)"
    hull rm -f t-watch >/dev/null
    expect_eq "$(host_marks)" "$before" 'watches of the host after the container'
    expect_clean_host
}

case_many_changes_and_many_watches() {
    watch_program
    mkdir "$T/d"
    seq -f "$T/d/dir%g" 1 400 | xargs mkdir
    local before
    before=$(host_marks)
    # shellcheck disable=SC2046 # many words
    watcher t-watch -v "$T/d:/d" -- /d $(seq -f '/d/dir%g' 1 400)
    wait_for 30 sh -c "[ \$(cat /proc/[0-9]*/fdinfo/* 2>/dev/null | grep -c '^fanotify ino:') = $((before + 401)) ]" || fail "$(host_marks) watches, not 401"
    seq -f "$T/d/f%g" 1 1000 | xargs touch
    touch "$T/d/dir400/last"
    wait_for 60 told t-watch '/d/dir400 CREATE last' || fail 'the last is not told'
    hull logs t-watch >"$T/out"
    if ! grep -q OVERFLOW "$T/out"; then
        expect_eq "$(grep -c '^/d CREATE f' "$T/out")" 1000 'files that were told of'
    fi
    expect_eq "$(sort "$T/out" | uniq -d | wc -l)" 0 'what was told twice'
}

case_a_host_that_cannot_watch_says_so() {
    watch_program
    mkdir "$T/d"
    local limit=/proc/sys/fs/fanotify/max_user_groups
    echo "$(cat "$limit")" >"$T/limit"
    trap 'cat "$T/limit" >'"$limit"'; hull ps -aq --filter "name=^t-" | xargs -r hull rm -f >/dev/null 2>&1; rm -rf "$T"' EXIT
    echo 0 >"$limit"
    watcher t-watch -v "$T/d:/d" -- /d
    touch "$T/d/host"
    wait_for 10 grep -rqs 'changes of the host in shared directories are not told' "$HARNESS" --include=shim.log ||
        fail "nothing in a log: $(find "$HARNESS" -name shim.log -exec tail -n 5 {} +)"
    hull exec t-watch touch /d/own
    expect_told t-watch '/d CLOSE_WRITE own' "ready
/d CREATE own
/d ATTRIB own
/d CLOSE_WRITE own"
}
