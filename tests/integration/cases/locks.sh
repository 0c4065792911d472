# Locks on files that containers and the host share: one table for all of them.

# The host's own programs, in a guest.
TOOLS='-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro'

# $1 and $2: two containers that share $T/d.
two_containers() {
    mkdir "$T/d"
    local name
    for name; do
        # shellcheck disable=SC2086 # several options
        hull run -d --name "$name" $TOOLS -v "$T/d:/d" "$BUSYBOX" sleep 600 >/dev/null
    done
}

# lock.py hold|try|who FILE FIRST LENGTH: a lock by fcntl; tells of it, holds it until FILE.go is there.
lock_program() {
    cat >"$T/d/lock.py" <<'PY'
import fcntl, os, struct, sys, time
what, path, first, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
file = open(path, "r+")
if what == "who":
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, 0, first, length, 0)
    kind, _, start, count, pid = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked)[:28])
    print("free" if kind == fcntl.F_UNLCK else f"{start}+{count} {'known' if pid else 'unknown'}")
    sys.exit()
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, first)
except OSError as error:
    sys.exit(f"busy: {error.strerror}")
if what == "hold":
    open(path + ".held", "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.05)
PY
}

# Core.
case_flock_holds_between_containers_and_the_host() {
    two_containers t-one t-two
    : >"$T/d/l"
    hull exec t-one flock /d/l sh -c 'echo held >/d/state; while ! [ -e /d/go ]; do sleep 0.1; done' &
    wait_for 20 grep -qs held "$T/d/state"
    capture hull exec t-two flock -n /d/l true
    expect_status 1
    capture hull exec t-one flock -n /d/l true
    expect_status 1
    capture flock -n "$T/d/l" true
    expect_status 1
    # A wait ends by a signal: of the clock here, and by KILL.
    capture hull exec t-two flock -w 1 /d/l true
    expect_status 1
    capture hull exec t-two timeout -s KILL 1 flock /d/l true
    expect_status 137
    # Who waits gets it in the end.
    hull exec t-two flock /d/l sh -c 'echo two >/d/state' &
    sleep 0.5
    expect_eq "$(cat "$T/d/state")" held 'before the lock is free'
    touch "$T/d/go"
    wait
    expect_eq "$(cat "$T/d/state")" two 'after it was'
    # Shared ones go together; the host's count too.
    exec 7<"$T/d/l"
    flock -s 7
    hull exec t-one flock -s -n /d/l true
    capture hull exec t-two flock -n /d/l true
    expect_status 1
    exec 7<&-
    hull exec t-two flock -n /d/l true
    # What a VM held is free when it is gone.
    hull exec -d t-one flock /d/l sleep 600
    wait_for 20 sh -c '! flock -n "$0" true' "$T/d/l"
    hull kill t-one >/dev/null
    wait_for 20 flock -n "$T/d/l" true || fail 'the lock of a VM that is gone'
}

case_ranges_are_locked_between_containers_and_the_host() {
    two_containers t-one t-two
    lock_program
    : >"$T/d/p"
    hull exec t-one python3 /d/lock.py hold /d/p 0 10 &
    wait_for 60 test -e "$T/d/p.held"
    local where
    for where in t-one t-two; do
        capture hull exec "$where" python3 /d/lock.py try /d/p 9 1
        expect_status 1
        expect_err_has busy
        capture hull exec "$where" python3 /d/lock.py try /d/p 10 5
        expect_status 0
    done
    expect_eq "$(hull exec t-one python3 /d/lock.py who /d/p 5 100)" '0+10 known' 'in the same VM'
    expect_eq "$(hull exec t-two python3 /d/lock.py who /d/p 5 100)" '0+10 unknown' 'in another VM'
    capture python3 "$T/d/lock.py" try "$T/d/p" 0 0
    expect_status 1
    touch "$T/d/p.go"
    wait
    # Closed files hold nothing.
    expect_eq "$(hull exec t-two python3 /d/lock.py who /d/p 0 0)" free 'at the end'
    python3 "$T/d/lock.py" try "$T/d/p" 0 0
}

case_locks_of_an_open_file_go_with_it() {
    two_containers t-one
    : >"$T/d/o"
    # F_OFD_SETLK: of the open file, not of the process, and given up with its last descriptor.
    hull exec t-one python3 -c '
import fcntl, os, struct, subprocess
def lock(file): fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0))
one, two = open("/d/o", "r+"), open("/d/o", "r+")
lock(one)
try: lock(two); print("both")
except OSError: print("one")
copy = os.dup(one.fileno())
one.close()
try: lock(two); print("both")
except OSError: print("one")
os.close(copy)
lock(two); print("two")' >"$T/out"
    expect_eq "$(tr '\n' ' ' <"$T/out")" 'one one two ' 'who has it'
    wait_for 5 flock -n "$T/d/o" true
}

case_two_containers_write_one_database() {
    two_containers t-one t-two
    cat >"$T/d/insert.py" <<'PY'
import sqlite3, sys
database = sqlite3.connect("/d/db", timeout=60, isolation_level=None)
database.execute("create table if not exists t (who text, n int)")
for n in range(40):
    database.execute("begin immediate")
    (count,) = database.execute("select count(*) from t").fetchone()
    database.execute("insert into t values (?, ?)", (sys.argv[1], count))
    database.execute("commit")
PY
    hull exec t-one python3 /d/insert.py one &
    hull exec t-two python3 /d/insert.py two
    wait $!
    expect_eq "$(python3 -c 'import sqlite3, sys
d = sqlite3.connect(sys.argv[1])
print(*d.execute("pragma integrity_check").fetchone(), *d.execute("select count(*), count(distinct n) from t").fetchone())' "$T/d/db")" 'ok 80 80' 'rows, each counted once'
}
