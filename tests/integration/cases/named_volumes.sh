# Volumes with and without names.

# Core.
case_a_named_volume_outlives_its_containers() {
    expect_eq "$(hull volume create t-data)" t-data name
    hull run --rm -v t-data:/data "$BUSYBOX" sh -c 'echo kept >/data/f; mkdir /data/d'
    expect_eq "$(hull run --rm -v t-data:/data:ro "$BUSYBOX" cat /data/f)" kept content
    capture hull run --rm -v t-data:/data:ro "$BUSYBOX" touch /data/x
    [ "$status" != 0 ] || fail 'a read-only volume was written'
    # Several at once, and the host, see the same files.
    hull run -d --name t-one -v t-data:/data "$BUSYBOX" sh -c 'while ! [ -e /data/go ]; do sleep 0.1; done; echo went >/data/f; sleep 600' >/dev/null
    hull run --rm --mount type=volume,source=t-data,target=/data "$BUSYBOX" touch /data/go
    wait_for 10 grep -q went "$(hull volume inspect -f '{{.Mountpoint}}' t-data)/f" || fail 'the volume is not shared'
    expect_eq "$(hull inspect -f '{{json .Mounts}}' t-one | jq -r '.[0] | .Type + " " + .Name')" 'volume t-data' mounts
    capture hull volume rm t-data
    expect_status 1
    expect_err_has 'volume is in use'
    hull rm -f t-one >/dev/null
    expect_eq "$(hull volume ls -q --filter name=t-data)" t-data ls
    expect_eq "$(hull volume rm t-data)" t-data rm
    capture hull volume inspect t-data
    expect_status 1
    expect_err_has 'no such volume'
}

case_an_empty_volume_gets_what_the_image_has() {
    hull run --rm -v t-etc:/etc "$BUSYBOX" true
    expect_eq "$(hull run --rm -v t-etc:/x "$BUSYBOX" cat /x/passwd)" "$(hull run --rm "$BUSYBOX" cat /etc/passwd)" content
    hull run --rm -v t-etc:/etc "$BUSYBOX" rm /etc/passwd
    # Filled once only.
    capture hull run --rm -v t-etc:/etc "$BUSYBOX" cat /etc/passwd
    [ "$status" != 0 ] || fail 'filled again'
    hull run --rm -v t-none:/etc:nocopy "$BUSYBOX" true
    expect_eq "$(hull run --rm -v t-none:/x "$BUSYBOX" ls /x | grep -c passwd)" 0 nocopy
    hull volume rm t-etc t-none >/dev/null
}

case_a_nameless_volume_goes_with_its_container() {
    local before
    # What other cases left without a name would be pruned, too.
    hull volume prune -f >/dev/null
    before=$(hull volume ls -q | wc -l)
    hull run --rm -v /data "$BUSYBOX" sh -c 'grep -q " /data " /proc/mounts && touch /data/f'
    expect_eq "$(hull volume ls -q | wc -l)" "$before" 'after --rm'
    hull run --name t-one -v /data "$BUSYBOX" sh -c 'echo x >/data/f'
    expect_eq "$(hull run --rm --volumes-from t-one "$BUSYBOX" cat /data/f)" x 'volumes-from'
    hull rm t-one >/dev/null
    expect_eq "$(hull volume ls -q -f dangling=true | wc -l)" "$((before + 1))" 'without -v it stays'
    hull volume prune -f | grep -q 'Deleted Volumes' || fail 'prune'
    expect_eq "$(hull volume ls -q | wc -l)" "$before" 'after prune'
    hull run --name t-two -v /data "$BUSYBOX" true
    hull rm -v t-two >/dev/null
    expect_eq "$(hull volume ls -q | wc -l)" "$before" 'after rm -v'
}

# Core.
case_bad_volumes_are_refused() {
    capture hull volume create a/b
    expect_status 1
    expect_err_has 'invalid characters'
    capture hull volume create --driver flocker t-x
    expect_status 1
    expect_err_has flocker
    capture hull volume create -o type=nfs -o o=addr=1.2.3.4 t-x
    expect_status 1
    expect_err_has nfs
    capture hull run --rm -v t-a:/x -v t-b:/x "$BUSYBOX" true
    expect_status 125
    expect_err_has 'Duplicate mount point'
    expect_eq "$(hull volume ls -q | grep -c t-)" 0 left
}

case_a_volume_of_a_directory_that_comes_later() {
    hull volume create -o type=none -o o=bind -o device="$T/later" t-later >/dev/null
    capture hull run --rm --network none -v t-later:/x "$BUSYBOX" true
    expect_status 127
    expect_err_has "$T/later: no such file or directory"
    mkdir "$T/later"
    hull run --name t-first --network none -v t-later:/x "$BUSYBOX" touch /x/made
    [ -e "$T/later/made" ] || fail 'it is not the directory'
    # What there is stays as it is.
    expect_eq "$(hull volume create -o type=tmpfs -o device=tmpfs t-later)" t-later 'again'
    expect_eq "$(hull volume inspect -f '{{.Options.device}}' t-later)" "$T/later" 'its directory'
    # As another container has it.
    capture hull run --rm --network none --volumes-from t-first:ro,z "$BUSYBOX" touch /x/more
    expect_err_has 'Read-only file system'
    capture hull create --volumes-from t-first:slave "$BUSYBOX"
    expect_err_has 'invalid mode: slave'
}

case_a_part_of_a_volume_and_memory_as_a_volume() {
    hull run --rm -v t-part:/v "$BUSYBOX" sh -c 'mkdir -p /v/s/deep; echo part >/v/s/deep/f; ln -s /etc /v/out; ln -s / /v/root; ln -s root /v/bad; ln -s ../s/deep /v/s/good; mkdir /v/bin'
    expect_eq "$(hull run --rm --mount type=volume,src=t-part,dst=/s,volume-subpath=s/deep "$BUSYBOX" sh -c 'cat /s/f; echo more >/s/g')" part 'a part of a volume'
    expect_eq "$(hull run --rm -v t-part:/v:ro "$BUSYBOX" cat /v/s/deep/g)" more 'written through the part'
    expect_eq "$(hull run --rm --mount type=volume,src=t-part,dst=/s,volume-subpath=s/good "$BUSYBOX" cat /s/f)" part 'a link within'
    local part
    for part in out root bad none; do
        capture hull run --rm --mount "type=volume,src=t-part,dst=/s,volume-subpath=$part" "$BUSYBOX" ls /s
        [ "$status" != 0 ] || fail "$part is shown: $out"
        expect_err_has "$part"
        [ "$part" != none ] || expect_err_has 'cannot access path'
        [ "$part" = none ] || expect_err_has 'path concatenation escapes the base directory'
    done
    # A part that is empty gets what the image has there, once.
    expect_eq "$(hull run --rm --mount type=volume,src=t-part,dst=/bin,volume-subpath=bin "$BUSYBOX" sh -c 'rm /bin/ls; echo filled')" filled 'an empty part'
    expect_eq "$(hull run --rm --mount type=volume,src=t-part,dst=/bin,volume-subpath=bin "$BUSYBOX" sh -c 'test -e /bin/ls || echo kept')" kept 'a part that is full'
    capture hull run --rm --mount type=volume,src=t-part,dst=/bin,volume-subpath=bin2,volume-nocopy "$BUSYBOX" true
    expect_err_has 'cannot access path'
    capture hull run --rm --mount type=volume,src=t-part,dst=/s,volume-subpath=../x "$BUSYBOX" true
    expect_err_has 'within the volume'
    hull volume create -o type=tmpfs -o device=tmpfs -o o=size=2m,uid=1000 t-mem >/dev/null
    expect_eq "$(hull run --rm -v t-mem:/m "$BUSYBOX" sh -c 'stat -c %u /m; df -k /m | tail -n 1 | awk "{print \$2}"')" $'1000\n2048' 'memory as a volume'
    expect_eq "$(hull run --rm -v t-mem:/m "$BUSYBOX" sh -c 'cp /bin/busybox /m/busybox && /m/busybox echo runs')" runs 'a program in memory'
    mkdir "$T/bound"
    hull volume create -o type=none -o o=bind,ro,noexec -o device="$T/bound" t-bound >/dev/null
    capture hull run --rm -v t-bound:/v "$BUSYBOX" sh -c 'touch /v/x || grep -o "^[^ ]* /v .*noexec" /proc/mounts | grep -c noexec'
    expect_out $'1\n'
    expect_err_has 'Read-only file system'
    capture hull volume create -o type=none -o o=bind,bogus -o device="$T/bound" t-bad
    expect_err_has bogus
    local made
    made=$(curl -s --unix-socket "${HULL_HOST#unix://}" -H 'Content-Type: application/json' -d '{"Image":"'"$BUSYBOX"'","Cmd":["grep","-c","/t tmpfs.*noexec","/proc/mounts"],"HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"Options":[["exec"]]}}]}}' http://x/containers/create | sed 's/.*"Id":"\([^"]*\)".*/\1/')
    expect_eq "$(hull start -a "$made" || true)" 0 'memory that may be executed'
    hull rm "$made" >/dev/null
    capture hull volume create -o type=tmpfs -o o=size=big t-bad
    expect_err_has 'size=big'
    hull volume rm t-part t-mem t-bound >/dev/null
}

case_a_volume_that_is_a_disk() {
    hull volume rm -f t-disk t-etc >/dev/null
    hull volume create -o type=block -o size=256m t-disk >/dev/null
    expect_eq "$(hull run --rm -v t-disk:/d "$BUSYBOX" sh -c 'ls -A /d; mkdir -p /d/s/deep; echo part >/d/s/deep/f; grep -c " /d ext4 rw" /proc/mounts')" 1 'an empty one'
    # Filled once with what the image has, as any volume.
    hull run --rm -v t-disk:/d --mount type=volume,src=t-etc,dst=/etc,volume-opt=type=block,volume-opt=size=128m "$BUSYBOX" rm /etc/group
    expect_eq "$(hull run --rm -v t-etc:/x:ro -v t-disk:/d:ro "$BUSYBOX" sh -c 'ls /x/passwd; [ -e /x/group ] || ls /d/s; touch /d/x 2>/dev/null || echo refused')" $'/x/passwd\ndeep\nrefused' 'two disks, read-only'
    # One who writes, or many who read.
    hull run -d --name t-one -v t-disk:/d "$BUSYBOX" sleep 600 >/dev/null
    local mode
    for mode in rw ro; do
        capture hull run --rm -v "t-disk:/d:$mode" "$BUSYBOX" true
        expect_status 125
        expect_err_has 'in use by another running container'
    done
    hull exec t-one sh -c 'echo kept >/d/kept; sync; dd if=/dev/zero of=/d/fill bs=1M count=300 2>&1 | grep -o "No space left"; rm /d/fill; sync' | grep -q 'No space left' || fail 'more than its size'
    kill -9 "$(pgrep -f '[h]ull-vmm' | head -n 1)"
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-one)" = exited ]'
    # A stopped container's files are reached, and a journal is replayed by who may write.
    hull cp t-one:/d/kept "$T/kept"
    expect_eq "$(cat "$T/kept")" kept 'after the VM was killed'
    hull rm t-one >/dev/null
    hull run -d --name t-two -v t-disk:/d:ro "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull run --rm --mount type=volume,src=t-disk,dst=/s,volume-subpath=s/deep,readonly "$BUSYBOX" cat /s/f)" part 'a part, beside another reader'
    hull rm -f t-two >/dev/null
    local place
    place=$(hull volume inspect -f '{{.Mountpoint}}' t-disk)
    [ "$(($(stat -c %b "$place") / 2048))" -lt 100 ] || fail "what is deleted is not given back: $(stat -c %b "$place") blocks"
    e2fsck -fn "$place" >"$T/fsck" 2>&1 || fail "$(cat "$T/fsck")"
    hull volume rm t-disk t-etc >/dev/null
    capture hull volume create -o type=block t-bad
    expect_err_has 'size=10g'
}

case_a_volume_is_saved_and_brought_back() {
    mkdir "$T/b"
    hull run --name t-db -v t-from:/data "$BUSYBOX" sh -c 'mkdir /data/d; echo saved >/data/d/f; chown 1234:4321 /data/d/f; chmod 640 /data/d/f; ln -s d/f /data/l' >/dev/null
    hull run --rm --volumes-from t-db -v "$T/b:/b" "$BUSYBOX" tar -C /data -cf /b/data.tar .
    hull volume create -o type=block -o size=128m t-to >/dev/null
    hull run --rm -v t-to:/data -v "$T/b:/b:ro" "$BUSYBOX" tar -C /data -xpf /b/data.tar
    expect_eq "$(hull run --rm -v t-to:/x "$BUSYBOX" sh -c 'cat /x/l; stat -c "%u:%g %a" /x/d/f')" $'saved\n1234:4321 640' 'what came back'
    hull rm t-db >/dev/null
    hull volume rm t-from t-to >/dev/null
}

case_a_volume_whose_removal_was_cut_off_stays_gone() {
    hull volume create t-cut >/dev/null
    local place
    place=$(hull volume inspect -f '{{.Mountpoint}}' t-cut)
    (cd "$place" && echo old >first && seq -f 'f%g' 200000 | xargs touch)
    hull volume rm t-cut >/dev/null 2>&1 &
    local removing=$!
    sleep 0.3
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    wait $removing || true
    hulld_start
    if hull volume inspect t-cut >/dev/null 2>&1; then skip 'it was not begun'; fi
    expect_eq "$(hull run --rm -v t-cut:/v "$BUSYBOX" sh -c 'ls -A /v | wc -l')" 0 'files of a volume that was removed'
    hull volume rm t-cut >/dev/null
    expect_eq "$(find "$HARNESS/state/volumes" -mindepth 1 -name '*cut*')" '' 'left over'
}

case_the_engine_answers_while_a_large_volume_goes() {
    hull volume create t-large >/dev/null
    (cd "$(hull volume inspect -f '{{.Mountpoint}}' t-large)" && seq -f 'f%g' 300000 | xargs touch)
    hull volume rm t-large >/dev/null &
    local removing=$!
    sleep 0.2
    for n in 1 2 3 4; do timeout 5 hull volume ls -q >/dev/null || fail 'it does not answer'; done
    timeout 5 hull ps -q >/dev/null || fail 'it does not answer'
    wait $removing
}

# What an image has is in a new volume with all that belongs to it.
case_a_copied_volume_is_exact() {
    hull run --name t-has "$BUSYBOX" sh -c 'mkdir -p /c/d; cd /c; echo x >f; ln f g; ln -s f s; chown 7:8 f; chmod 4710 f; mkfifo p; touch -d 1965-01-01 d/old; chmod 2750 d; chown 9:10 . d' >/dev/null
    hull commit t-has t-has:1 >/dev/null
    python3 -c 'import sys' # the host's python reads both
    local -a look=(--rm --network none -v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro -v "$PWD/tests/lib:/t:ro")
    hull run "${look[@]}" t-has:1 python3 /t/facts.py /c >"$T/want"
    hull run --rm -v t-new:/c t-has:1 true
    hull run "${look[@]}" -v t-new:/x "$BUSYBOX" python3 /t/facts.py /x >"$T/found"
    diff "$T/want" "$T/found" || fail 'the copy differs'
    expect_eq "$(hull run --rm -v t-new:/x "$BUSYBOX" stat -c '%u:%g %a' /x)" "$(hull run --rm t-has:1 stat -c '%u:%g %a' /c)" 'its top'
    hull rm t-has >/dev/null
    hull volume rm t-new >/dev/null
    hull rmi t-has:1 >/dev/null
}

# A start that is cut off while a volume is filled: the next one fills it, or fills it up.
case_a_volume_whose_filling_was_cut_off_is_filled_after_all() {
    local delay kind
    hull run --name t-full "$BUSYBOX" sh -c 'mkdir /c && cd /c && for n in $(seq 400); do mkdir d$n; for k in 1 2 3 4 5; do echo $n.$k >d$n/f$k; done; done; head -c 20000000 /dev/urandom >zz' >/dev/null
    hull commit t-full t-full:1 >/dev/null
    for kind in '' '-o type=block -o size=256m'; do
        for delay in 2 4; do
            # shellcheck disable=SC2086 # several options
            hull volume create $kind t-cut >/dev/null
            hull run -d --name t-one --network none -v t-cut:/c t-full:1 sleep 600 >/dev/null 2>&1 &
            sleep "$delay"
            pkill -9 -f '[h]ull-vmm' || true
            wait
            hull rm -f t-one >/dev/null 2>&1 || true
            expect_eq "$(hull run --rm --network none -v t-cut:/c t-full:1 sh -c 'find /c -type f | wc -l; stat -c %s /c/zz')" $'2001\n20000000' "files ($kind, cut off after $delay s)"
            hull volume rm t-cut >/dev/null
        done
    done
    hull rm t-full >/dev/null
    hull rmi t-full:1 >/dev/null
}
