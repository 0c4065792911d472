# What programs may rely on in a shared directory, a volume and a disk, by programs of our own.

TOOLS='-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro'

# at NAME OPTION...: a container with the tools and the programs in /t.
at() {
    local name=$1
    shift
    # shellcheck disable=SC2086 # several options
    hull run -d --name "$name" --privileged --network none $TOOLS -v "$PWD/tests/lib:/t:ro" "$@" "$BUSYBOX" sleep 3600 >/dev/null
}

# A directory on a file system that has all that is looked for, unlike one in memory.
on_disk() {
    mkdir -p /var/lib/hull
    mktemp -d /var/lib/hull/shared.XXXXXX
}

case_a_shared_directory_keeps_to_posix() {
    local d
    d=$(on_disk)
    at t-posix -v "$d:/d" -v t-own:/v
    hull exec t-posix mkdir /own
    local place
    for place in /d /v /own; do
        # The volume's file system may be one in memory, which does not zero a range.
        local without=
        [ $place != /v ] || without=1
        capture hull exec -e NO_ZERO=$without t-posix python3 /t/posix.py $place
        [ "$status" = 0 ] || fail "$place: $out$err"
    done
    hull rm -f t-posix >/dev/null
    hull volume rm t-own >/dev/null
    rm -r "$d"
    expect_clean_host
}

case_two_machines_append_to_one_log() {
    mkdir "$T/d"
    at t-one -v "$T/d:/d"
    at t-two -v "$T/d:/d"
    # Each third line reaches from one page of the guest's cache into the next.
    local name pids=() lines='for n in $(seq 300); do printf "%s %s %01500d\n" $0 $n 0 >>$1; done'
    for name in t-one t-two; do
        hull exec $name sh -c "$lines" $name /d/log &
        pids+=($!)
    done
    sh -c "$lines" host "$T/d/log"
    wait "${pids[@]}"
    expect_eq "$(sort "$T/d/log" | uniq | wc -l) $(grep -cvE '^(host|t-one|t-two) [0-9]+ 0{1500}$' "$T/d/log")" '900 0' 'whole lines'
    hull rm -f t-one t-two >/dev/null
}

case_a_large_directory_that_the_host_changes() {
    mkdir "$T/d"
    (cd "$T/d" && seq -f 'stay%g' 100000 | xargs touch)
    at t-many -v "$T/d:/d"
    (cd "$T/d" && for n in $(seq 2000); do : >"come$n"; mv "come$n" "went$n"; rm "went$n"; done) &
    local host=$!
    expect_eq "$(hull exec t-many sh -c 'for n in 1 2 3; do ls /d | grep "^stay" | sort | uniq -c | grep -c "^ *1 "; done' | xargs)" '100000 100000 100000' 'each name once'
    wait $host
    hull rm -f t-many >/dev/null
}

case_random_work_on_files_is_right() {
    local seed=${HULL_SEED:-$RANDOM} steps=${HULL_STEPS:-200} place n pids=()
    echo "seed $seed"
    local d
    d=$(on_disk)
    mkdir "$d/tree"
    hull volume create -o type=block -o size=256m t-disk >/dev/null
    at t-fsx -v "$d:/d" -v t-disk:/disk
    hull exec t-fsx mkdir -p /own/tree /disk/tree
    for place in /d /own /disk; do
        for n in 1 2; do
            hull exec t-fsx python3 /t/fsx.py file "$place/f$n" $((seed + n)) "$steps" >"$T/${place#/}$n" 2>&1 &
            pids+=($!)
        done
        hull exec t-fsx python3 /t/fsx.py tree "$place/tree" "$seed" "$steps" >"$T/${place#/}3" 2>&1 &
        pids+=($!)
    done
    for n in "${pids[@]}"; do wait "$n" || fail "seed $seed: $(cat "$T"/d[1-3] "$T"/own[1-3] "$T"/disk[1-3])"; done
    # The same seed has made the same everywhere, but for times that nobody set; the host sees it too.
    hull exec t-fsx sh -c 'sync; echo 3 >/proc/sys/vm/drop_caches'
    for place in /d /own /disk; do hull exec t-fsx python3 /t/facts.py "$place/tree" | cut -d' ' -f1-3,5- >"$T/facts${place#/}"; done
    python3 tests/lib/facts.py "$d/tree" | cut -d' ' -f1-3,5- >"$T/host"
    for place in own disk; do diff "$T/factsd" "$T/facts$place" >"$T/diff" || fail "seed $seed: share and $place: $(head "$T/diff")"; done
    diff "$T/host" "$T/factsd" >"$T/diff" || fail "seed $seed: host and guest: $(head "$T/diff")"
    hull rm -f t-fsx >/dev/null
    e2fsck -fn "$(hull volume inspect -f '{{.Mountpoint}}' t-disk)" >"$T/fsck" 2>&1 || fail "$(cat "$T/fsck")"
    hull volume rm t-disk >/dev/null
    rm -r "$d"
    expect_clean_host
}

case_git_works_in_a_shared_directory() {
    command -v git >/dev/null || skip 'no git on this machine'
    mkdir "$T/d" && chown 1000:1000 "$T/d"
    # shellcheck disable=SC2086 # several options
    hull run --rm --network none $TOOLS -u 1000:1000 -e HOME=/d -w /d -v "$T/d:/d" "$BUSYBOX" sh -ec '
        git init -q . && git config user.email x@x && git config user.name x
        for n in $(seq 200); do echo $n >f$n; done
        git add . && git commit -q -m x && git status --porcelain && git gc -q && git fsck' >"$T/out" 2>&1 || fail "$(cat "$T/out")"
    expect_eq "$(git -c safe.directory='*' -C "$T/d" log --oneline | wc -l)" 1 'commits that the host sees'
}

case_a_file_that_the_host_replaces_is_old_or_new() {
    mkdir "$T/d"
    head -c 100000 /dev/zero | tr '\0' a >"$T/d/f"
    hull run -d --name t-whole --network none -v "$T/d:/d" "$BUSYBOX" sh -c 'n=0; while [ ! -e /d/end ]; do
        cat /d/f >/f; of=$(head -c 1 /f); [ "$(tr -d "$of" </f | wc -c) $(stat -c %s /f)" = "0 100000" ] || echo bad; n=$((n+1)); done; echo "$n reads"' >/dev/null
    for n in $(seq 200); do
        head -c 100000 /dev/zero | tr '\0' "$(printf "\\$(printf %o $((97 + n % 26)))")" >"$T/d/f.tmp"
        mv "$T/d/f.tmp" "$T/d/f"
    done
    touch "$T/d/end"
    hull wait t-whole >/dev/null
    [[ "$(hull logs t-whole 2>&1)" =~ ^[0-9]+' reads'$ ]] || fail "$(hull logs t-whole 2>&1 | head)"
}
