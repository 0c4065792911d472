# What layers hold arrives exactly, where they are large.
# seconds: 2400

case_a_file_beyond_4_gib() {
    local sum
    sum=$(python3 tests/lib/archives.py beyond_4_gib "$T/beyond_4_gib.tar")
    hull load -q -i "$T/beyond_4_gib.tar" >/dev/null
    capture hull run --rm beyond_4_gib:latest sh -c 'stat -c %s large holes; cat after
        n=0; while [ $n -lt 65 ]; do dd if=large bs=512 skip=$((n * 131072)) count=1 2>/dev/null | head -c 3 | head -n 1; n=$((n + 1)); done
        tail -c 5 large'
    expect_eq "$out" "$(printf '%s\n' 4362076165 9663676417 after $(seq 0 64) tail)"$'\n' 'sizes, and what stands where'
    expect_eq "$(hull run --rm beyond_4_gib:latest sh -c 'head -c 1 holes; dd if=holes bs=512 skip=10485760 count=1 2>/dev/null | head -c 1; tail -c 1 holes')" xyz 'what stands between holes'
    expect_eq "$(hull run --rm beyond_4_gib:latest sha256sum large)" "$sum  large" 'the sum of all of it'
}

case_a_million_files() {
    python3 tests/lib/archives.py million "$T/million.tar"
    hull load -q -i "$T/million.tar" >/dev/null
    expect_eq "$(hull run --rm million:latest sh -c 'ls m | wc -l; ls m/999 | wc -l; ls -d m/500/f0 m/999/f999')" $'1000\n1000\nm/500/f0\nm/999/f999' 'files'
    hull rmi million >/dev/null
}

# ends SCENARIO WORDS: it is refused in these words, in time, and takes nothing of the host for good; what it takes
# meanwhile leaves room.
ends() {
    local free least
    python3 tests/lib/archives.py "$1" "$T/$1.tar"
    free=$(df -k --output=avail "$HARNESS" | tail -n 1)
    (while sleep 1; do df -k --output=avail "$HARNESS" | tail -n 1; done) >"$T/room" &
    local watcher=$!
    capture timeout 600 hull load -q -i "$T/$1.tar"
    kill $watcher
    expect_status 125
    expect_err_has "$2"
    [[ $err != *panic* ]] || fail "the guest panicked: $err"
    least=$(sort -n "$T/room" | head -n 1)
    [ "${least:-$free}" -gt 262144 ] || fail "$1: only $least KiB were left on the host"
    rm "$T/$1.tar"
    expect_clean_host
    hull image prune -f >/dev/null
    [ $((free - $(df -k --output=avail "$HARNESS" | tail -n 1))) -lt 204800 ] || fail "$1: room is lost"
}

case_hostile_layers_end_at_a_limit() {
    ends bomb 'bytes limit of'
    ends many_files 'files limit of 10000000'
    ends heavy_attributes 'memory limit of'
    expect_eq "$(hull run --rm "$BUSYBOX" echo fine)" fine 'the engine afterwards'
}
