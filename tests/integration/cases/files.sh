# Files of containers: cp, diff, export, commit; of those that run and those that do not.

# Core.
case_cp_goes_both_ways() {
    hull run -d --name t-cp "$BUSYBOX" sh -c 'mkdir -p /d/sub; echo inside >/d/sub/f; ln -s sub/f /d/link; chmod 751 /d/sub/f; sleep 600' >/dev/null
    wait_for 10 hull exec t-cp test -e /d/link
    hull cp -q t-cp:/d "$T/got"
    expect_eq "$(cat "$T/got/sub/f")" inside content
    expect_eq "$(readlink "$T/got/link")" sub/f link
    expect_eq "$(stat -c %a "$T/got/sub/f")" 751 mode
    mkdir "$T/there"
    hull cp -q t-cp:/d "$T/there"
    hull cp -q t-cp:/d/. "$T/there"
    expect_eq "$(ls "$T/there" | tr '\n' ' ')" 'd link sub ' 'a directory, and its content'
    hull cp -q -L t-cp:/d/link "$T/followed"
    expect_eq "$(cat "$T/followed")" inside 'followed link'
    # A large file, whole.
    head -c 30000000 /dev/urandom >"$T/large"
    hull cp -q "$T/large" t-cp:/tmp/
    expect_eq "$(hull exec t-cp md5sum /tmp/large | cut -d' ' -f1)" "$(md5sum <"$T/large" | cut -d' ' -f1)" 'large file'
    hull cp -q "$T/got" t-cp:/tmp/new
    expect_eq "$(hull exec t-cp cat /tmp/new/sub/f)" inside 'new directory'
    tar -C "$T/got" -c sub | hull cp - t-cp:/tmp
    expect_eq "$(hull exec t-cp cat /tmp/sub/f)" inside 'from a tar'
    expect_eq "$(hull cp t-cp:/d/sub/f - | tar -xO f)" inside 'to a tar'
    capture hull cp t-cp:/no/such "$T/x"
    [ "$status" != 0 ] || fail 'copied what is not there'
    expect_err_has 'Could not find the file'
    capture hull cp "$T/got" t-cp:/d/sub/f
    [ "$status" != 0 ] || fail 'a directory over a file'
    capture hull cp "$T/large" t-cp:/none/
    [ "$status" != 0 ] || fail 'into a directory that is not there'
    # A stopped container is served too.
    hull kill t-cp >/dev/null
    wait_for 10 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-cp)" = exited ]'
    expect_eq "$(hull cp t-cp:/d/sub/f - | tar -xO f)" inside stopped
    echo later >"$T/later"
    hull cp -q "$T/later" t-cp:/d/later
    hull start t-cp >/dev/null
    expect_eq "$(hull exec t-cp cat /d/later)" later 'after a start'
}

case_a_copied_hole_takes_no_room() {
    hull run -d --name t-sparse --network none "$BUSYBOX" sleep 600 >/dev/null
    truncate -s 64M "$T/hole"
    echo end >>"$T/hole"
    hull cp "$T/hole" t-sparse:/hole
    expect_eq "$(hull exec t-sparse sh -c 'tail -c 4 /hole; stat -c %s /hole')" "$(printf 'end\n67108868')" 'what it holds'
    local kib
    kib=$(hull exec t-sparse du -k /hole | cut -f1)
    [ "$kib" -lt 100 ] || fail "$kib KiB for 4 bytes"
    hull rm -f t-sparse >/dev/null
}

case_diff_tells_what_changed() {
    hull run --name t-diff "$BUSYBOX" sh -c 'echo x >/new; echo y >>/etc/passwd; rm /etc/group; mkdir -p /a/b' >/dev/null
    hull diff t-diff >"$T/diff"
    for want in 'A /new' 'C /etc' 'C /etc/passwd' 'D /etc/group' 'A /a' 'A /a/b'; do
        grep -qx "$want" "$T/diff" || fail "missing $want in $(cat "$T/diff")"
    done
    if grep -q ' /bin' "$T/diff"; then fail 'more than changed'; fi
}

case_export_and_commit() {
    hull run --name t-exp "$BUSYBOX" sh -c 'echo made >/made; rm /etc/group; mknod /fifo p; mkdir -p /opt/x; ln /made /opt/x/hard' >/dev/null
    hull export -o "$T/root.tar" t-exp
    tar -tf "$T/root.tar" >"$T/list"
    grep -qx made "$T/list" && grep -qx bin/busybox "$T/list" || fail "export: $(head "$T/list")"
    # Of the writable layer, and of the image.
    expect_eq "$(tar -xOf "$T/root.tar" made)" made 'content of a new file'
    tar -xOf "$T/root.tar" etc/passwd | grep -q ^root: || fail 'a file of the image is exported without its content'
    if grep -q '^proc/.' "$T/list"; then fail 'mounts are exported'; fi
    if grep -qx etc/group "$T/list"; then fail 'a deleted file is exported'; fi
    id=$(hull commit -a me -m words -c 'CMD ["cat", "/made"]' -c 'ENV ADDED=1' -c 'HEALTHCHECK --interval=1m CMD true' t-exp committed:one)
    expect_eq "$(hull image inspect -f '{{json .Config.Healthcheck}}' committed:one)" '{"Interval":60000000000,"Test":["CMD-SHELL","true"]}' 'its health check'
    expect_eq "${id:0:7}" sha256: id
    expect_eq "$(hull run --rm committed:one)" made 'the new command'
    expect_eq "$(hull run --rm committed:one sh -c 'echo $ADDED; ls /etc/group 2>/dev/null; stat -c %h /made; test -p /fifo && echo fifo')" $'1\n2\nfifo' 'the new root'
    # On top of it once more.
    hull run --name t-exp2 committed:one sh -c 'rm /made; echo two >/two' >/dev/null
    hull commit t-exp2 committed:two >/dev/null
    expect_eq "$(hull run --rm committed:two sh -c 'cat /two; ls /made 2>/dev/null | wc -l')" $'two\n0' 'two layers'
    hull rm t-exp2 >/dev/null
    hull rmi committed:two committed:one >/dev/null
}

# What a client says of the new image is added to what the container is.
case_a_commit_with_a_body_keeps_the_rest() {
    hull create --name t-base -e A=1 -w /srv "$BUSYBOX" echo kept >/dev/null
    curl -sf --unix-socket "${HULL_HOST#unix://}" -H 'content-type: application/json' -d '{"Labels":{"a":"b"},"AttachStdin":false}' 'http://x/commit?container=t-base&repo=t-labelled' >/dev/null
    expect_eq "$(hull inspect --type image -f '{{.Config.Cmd}} {{.Config.WorkingDir}} {{index .Config.Labels "a"}}' t-labelled)" '[echo kept] /srv b' 'the image'
    hull inspect --type image -f '{{.Config.Env}}' t-labelled | grep -q 'A=1' || fail 'its variables'
    hull rm t-base >/dev/null
    hull rmi t-labelled >/dev/null
}

case_the_docker_client_copies() {
    command -v docker >/dev/null || skip 'docker is not installed'
    export DOCKER_HOST=$HULL_HOST
    hull run -d --name t-dcp "$BUSYBOX" sleep 600 >/dev/null
    echo via >"$T/f"
    docker cp "$T/f" t-dcp:/tmp/f >/dev/null 2>&1
    docker cp t-dcp:/tmp/f "$T/g" >/dev/null 2>&1
    expect_eq "$(cat "$T/g")" via docker
    docker diff t-dcp | grep -q 'A /tmp/f' || fail "diff: $(docker diff t-dcp)"
    # Its client gives what an archive's names begin with another name.
    docker exec t-dcp sh -c 'mkdir -p /d.x/sub && echo a >/d.x/a.txt && ln /d.x/a.txt /d.x/sub/b.txt && ln -s a.txt /d.x/l'
    local path
    for path in /d.x /d.x/ /d.x/.; do
        rm -rf "$T/new"
        docker cp t-dcp:$path "$T/new" >/dev/null 2>&1
        expect_eq "$(cd "$T/new" && find . | sort | tr '\n' ' ')" '. ./a.txt ./l ./sub ./sub/b.txt ' "$path as another"
        expect_eq "$(cat "$T/new/sub/b.txt" "$T/new/l")" $'a\na' "content of $path"
    done
    docker cp t-dcp:/d.x/a.txt "$T/c.txt" >/dev/null 2>&1
    expect_eq "$(cat "$T/c.txt")" a 'a file as another'
    docker cp t-dcp:/ "$T/root" >/dev/null 2>&1
    expect_eq "$(cat "$T/root/d.x/a.txt")" a 'a root as another'
    expect_eq "$(docker cp t-dcp:/d.x/. - | tar -t | tr '\n' ' ')" './ ./a.txt ./l ./sub/ ./sub/b.txt ' names
    # And back.
    docker cp "$T/new/." t-dcp:/again >/dev/null 2>&1
    expect_eq "$(docker exec t-dcp find /again | sort | tr '\n' ' ')" '/again /again/a.txt /again/l /again/sub /again/sub/b.txt ' 'back'
    docker cp "$T/new" t-dcp:/d.x >/dev/null 2>&1
    expect_eq "$(docker exec t-dcp cat /d.x/new/sub/b.txt)" a 'into what is there'
    capture docker cp "$T/f" t-dcp:/nosuch/f
    [ "$status" = 1 ] || fail "a copy into nothing: $status"
    expect_err_has 'Could not find the file /nosuch in container t-dcp'
    # What was made of it says what ran.
    docker commit t-dcp t-dcp:made >/dev/null
    expect_eq "$(docker history --format '{{.CreatedBy}}' t-dcp:made | head -n 1)" 'sleep 600' 'created by'
    docker rmi t-dcp:made >/dev/null
}

case_a_client_that_goes_away_leaves_no_vm() {
    hull create --name t-gone "$BUSYBOX" echo started >/dev/null
    # Long before the VM that would answer is up.
    if timeout 0.5 hull cp t-gone:/etc/passwd - >/dev/null 2>&1; then skip 'too fast to be cut off'; fi
    hull start t-gone >/dev/null
    expect_eq "$(hull wait t-gone)" 0 'exit code'
    expect_eq "$(hull logs t-gone)" started output
}

case_a_cut_off_upload_leaves_nothing() {
    hull run -d --name t-cut --network none "$BUSYBOX" sleep 600 >/dev/null
    local id
    id=$(hull inspect -f '{{.Id}}' t-cut)
    dd if=/dev/urandom of="$T/big" bs=64k count=16 2>/dev/null
    tar -C "$T" -c big | head -c 500000 >"$T/part"
    (cat "$T/part"; sleep 30) | timeout 3 curl -s -T - --unix-socket "${HULL_HOST#unix://}" 'http://x/containers/t-cut/archive?path=/tmp' >/dev/null || true
    hull exec t-cut true
    gone() { [ -z "$(find "$HARNESS/run" -path "*/bundles/$id/files-*")" ]; }
    wait_for 40 gone || fail "left: $(find "$HARNESS/run" -path "*/bundles/$id/*")"
    # And a whole one is taken after it.
    hull cp -q "$T/part" t-cut:/tmp/part
    expect_eq "$(hull exec t-cut stat -c %s /tmp/part)" 500000 'a whole one'
}

case_a_paused_container_is_worked_on_and_stays_paused() {
    hull run -d --name t-pcp "$BUSYBOX" sh -c 'echo inside >/f; sleep 600' >/dev/null
    wait_for 10 hull exec t-pcp test -e /f
    hull pause t-pcp >/dev/null
    expect_eq "$(hull cp t-pcp:/f - | tar -xO f)" inside 'out of a paused one'
    echo into >"$T/into"
    hull cp -q "$T/into" t-pcp:/into
    hull diff t-pcp | grep -qx 'A /into' || fail "diff: $(hull diff t-pcp)"
    hull export t-pcp | tar -xO into | grep -qx into || fail 'export'
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-pcp)" paused status
    hull unpause t-pcp >/dev/null
    expect_eq "$(hull exec t-pcp cat /into)" into 'after unpause'
    # A commit pauses, unless it is told not to.
    hull events --filter container=t-pcp >"$T/events" &
    sleep 1
    hull commit t-pcp committed:pause >/dev/null
    hull commit --no-pause t-pcp committed:pause >/dev/null
    kill $!
    expect_eq "$(grep -cE ' (pause|unpause) ' "$T/events")" 2 'one pause and its end'
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-pcp)" running status
    hull rmi committed:pause >/dev/null
}

case_diff_leaves_out_what_nobody_changed() {
    hull run --name t-none "$BUSYBOX" sh -c 'touch -r /bin/busybox /tmp/x; rm /tmp/x; cat /etc/passwd >/dev/null' >/dev/null
    expect_eq "$(hull diff t-none)" '' 'nothing changed'
    hull rm t-none >/dev/null
    # What a volume needs is told, as by docker.
    hull run --name t-none -v /data "$BUSYBOX" true
    expect_eq "$(hull diff t-none)" 'A /data' 'a mount point'
}

case_a_root_is_copied_without_the_kernels_files() {
    hull run -d --name t-root "$BUSYBOX" sleep 600 >/dev/null
    hull cp t-root:/ - >"$T/root.tar"
    tar -tPf "$T/root.tar" | sed 's,^/,,' >"$T/list"
    grep -qx bin/busybox "$T/list" || fail "root: $(head "$T/list")"
    if grep -E '^(proc|sys|dev)/.' "$T/list"; then fail 'kernel files are copied'; fi
}

case_copies_belong_to_the_user_with_a() {
    hull run -d --name t-own -u 1234:99 "$BUSYBOX" sleep 600 >/dev/null
    echo x >"$T/f"
    chown 77:88 "$T/f"
    hull cp -q "$T/f" t-own:/tmp/plain
    expect_eq "$(hull exec t-own stat -c %u:%g /tmp/plain)" 0:0 'without -a'
    hull cp -q -a "$T/f" t-own:/tmp/a
    expect_eq "$(hull exec t-own stat -c %u:%g /tmp/a)" 1234:99 'with -a'
}

# As some programs write them, which know no owners.
case_an_archive_with_empty_fields_is_copied_in() {
    hull create --name t-cp "$BUSYBOX" cat /tmp/blank >/dev/null
    python3 - <<'PYTHON' | hull cp - t-cp:/tmp
import sys, tarfile
info = tarfile.TarInfo("blank")
info.size = 6
block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
for field in (slice(108, 116), slice(116, 124), slice(136, 148)):
    block[field] = bytes(field.stop - field.start)
block[148:156] = b" " * 8
block[148:156] = b"%06o\0 " % sum(block)
sys.stdout.buffer.write(bytes(block) + b"blank\n".ljust(512, b"\0") + bytes(1024))
PYTHON
    expect_eq "$(hull start -a t-cp)" blank 'what the archive had'
    hull rm t-cp >/dev/null
}

case_a_compressed_archive_is_copied_in() {
    hull run -d --name t-gz --network none "$BUSYBOX" sleep 600 >/dev/null
    mkdir "$T/tree"
    echo packed >"$T/tree/f"
    tar -C "$T" -cz tree | hull cp - t-gz:/tmp
    expect_eq "$(hull exec t-gz cat /tmp/tree/f)" packed 'out of a tar with gzip'
    tar -C "$T" -cz tree | head -c 60 >"$T/cut"
    capture hull cp - t-gz:/tmp <"$T/cut"
    [ "$status" != 0 ] || fail 'a tar that is cut off was taken'
    hull exec t-gz true
}

case_archives_of_all_kinds_are_copied_in() {
    hull run -d --name t-kinds --network none "$BUSYBOX" sleep 600 >/dev/null
    truncate -s 16M "$T/holes"
    echo end >>"$T/holes"
    local format
    for format in gnu posix; do
        tar -C "$T" --format=$format -Sc holes | hull cp - t-kinds:/tmp
        expect_eq "$(hull exec t-kinds sh -c 'ls /tmp; md5sum </tmp/holes; rm /tmp/holes')" "holes
$(md5sum <"$T/holes")" "with holes, $format"
    done
    mkdir "$T/tree"
    echo both >"$T/tree/a"
    ln "$T/tree/a" "$T/tree/b"
    setcap cap_net_raw+ep "$T/tree/a"
    # As git archive has it: a header for all entries.
    tar -C "$T" --format=posix --pax-option=comment=abc -c tree | hull cp - t-kinds:/tmp
    expect_eq "$(hull exec t-kinds cat /tmp/tree/b)" both 'behind a global header'
    hull cp -q "$T/tree" t-kinds:/opt
    expect_eq "$(hull exec t-kinds stat -c %h /opt/a)" 2 'a hard link'
    hull cp -q -a t-kinds:/opt/a "$T/back"
    getcap "$T/back" | grep -q cap_net_raw || fail 'capabilities are lost'
    tar -C "$T" -cJ tree >"$T/tree.xz"
    hull exec t-kinds mkdir /tmp/xz /tmp/bz2
    hull cp - t-kinds:/tmp/xz <"$T/tree.xz"
    tar -C "$T" -cj tree | hull cp - t-kinds:/tmp/bz2
    expect_eq "$(hull exec t-kinds cat /tmp/xz/tree/b /tmp/bz2/tree/b)" $'both\nboth' 'xz and bzip2'
    capture hull cp - t-kinds:/tmp < <(head -c 150 "$T/tree.xz")
    [ "$status" != 0 ] || fail 'half an archive was taken'
    capture hull cp - t-kinds:/tmp < <(tar -C "$T" -c tree | xz --lzma2=dict=128MiB)
    [ "$status" != 0 ] || fail 'a large dictionary was taken'
    expect_err_has 'dictionary of 128 MiB'
    hull rm -f t-kinds >/dev/null
}

# What a container removes, its host has back.
# Records are told apart by their length, so a value is any bytes, as those of file capabilities are.
case_an_archive_with_newlines_in_its_records_is_copied() {
    hull run -d --name t-lines --network none "$BUSYBOX" sleep 600 >/dev/null
    python3 - "$T/in.tar" <<'PY'
import io, sys, tarfile
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as tar:
    one = tarfile.TarInfo("d" * 120 + "/file")
    one.size, one.mode = 2, 0o644
    one.pax_headers = {"SCHILY.xattr.user.lines": "\n9 a=bcd\n\n", "SCHILY.xattr.user.z": "last"}
    tar.addfile(one, io.BytesIO(b"hi"))
PY
    hull cp - t-lines:/tmp <"$T/in.tar"
    expect_eq "$(hull exec t-lines sh -c 'cat /tmp/d*/file')" hi content
    hull cp "t-lines:/tmp/." - >"$T/out.tar"
    python3 - "$T/out.tar" <<'PY' || fail 'the attribute is another one'
import sys, tarfile
one = next(one for one in tarfile.open(sys.argv[1]) if one.isfile())
found = [one.pax_headers.get("SCHILY.xattr.user." + name) for name in ("lines", "z")]
sys.exit(found != ["\n9 a=bcd\n\n", "last"] and f"{found}")
PY
    mkdir "$T/here"
    hull cp -q t-lines:/tmp/. "$T/here"
    expect_eq "$(cat "$T"/here/d*/file)" hi 'content here'
    # What is read-only is told in docker's words.
    hull run -d --name t-fixed --network none --read-only -v t-fixed:/v:ro -v t-free:/w "$BUSYBOX" sleep 600 >/dev/null
    capture hull cp - t-fixed:/etc <"$T/in.tar"
    expect_err_has 'container rootfs is marked read-only'
    capture hull cp - t-fixed:/v <"$T/in.tar"
    expect_err_has 'mounted volume is marked read-only'
    hull cp - t-fixed:/w <"$T/in.tar"
    expect_eq "$(hull exec t-fixed sh -c 'cat /w/d*/file')" hi 'a volume that may be written'
    hull rm -fv t-lines t-fixed >/dev/null
    hull volume rm t-fixed t-free >/dev/null
}

case_room_of_removed_files_returns_to_the_host() {
    local layer before
    layer=$HARNESS/state/containers/$(hull run -d --name t-room --network none "$BUSYBOX" sleep 600)/scratch.ext4
    [ -e "$layer" ] || fail "no $layer"
    before=$(stat -c %b "$layer")
    hull exec t-room sh -c 'head -c 60000000 /dev/urandom >/big; sync'
    [ $(($(stat -c %b "$layer") - before)) -gt 100000 ] || fail 'nothing was written'
    hull exec t-room sh -c 'rm /big; sync'
    room_is_back() { [ $(($(stat -c %b "$layer") - before)) -lt 20000 ]; }
    wait_for 60 room_is_back || fail "$(($(stat -c %b "$layer") - before)) blocks stay"
    hull rm -f t-room >/dev/null
}

case_a_commit_keeps_times_links_and_targets() {
    hull run --name t-exact "$BUSYBOX" sh -c 'echo x >/a; ln /a /b; ln -s x//y/./z /odd; ln -s d/. /dot; touch -d "1965-01-01 00:00:00" /old; ln /old /older; stat -c %y /a /old' >"$T/times"
    hull commit t-exact t-exact:1 >/dev/null
    expect_eq "$(hull run --rm t-exact:1 stat -c %y /b /older)" "$(cat "$T/times")" 'times of files with two names'
    expect_eq "$(hull run --rm t-exact:1 sh -c 'readlink /odd; readlink /dot; stat -c %h /a')" $'x//y/./z\nd/.\n2' 'targets and links'
    hull export t-exact | tar -C "$T" -x odd dot
    expect_eq "$(readlink "$T/odd") $(readlink "$T/dot")" 'x//y/./z d/.' 'targets of an export'
    hull rm t-exact >/dev/null
    hull rmi t-exact:1 >/dev/null
}

case_cp_by_dockers_rules_of_links_times_and_kinds() {
    hull run -d --name t-cp --network none "$BUSYBOX" sh -c 'ln -s /nowhere /dang; echo old >/file; ln -s file /link; mkdir /d; mkfifo /d/fifo; echo y >/d/y; touch -d "1965-01-01 00:00:00" /d/y; sleep 600' >/dev/null
    wait_for 10 hull exec t-cp test -e /d/y
    echo new >"$T/f"
    touch -d '1960-01-02 03:04:05.5' "$T/f"
    hull cp -q "$T/f" t-cp:/dang
    expect_eq "$(hull exec t-cp sh -c 'readlink /dang; cat /nowhere; stat -c %Y /nowhere')" $'/nowhere\nnew\n'"$(stat -c %Y "$T/f")" 'through a link that dangles'
    hull cp -q "$T/f" t-cp:/link
    expect_eq "$(hull exec t-cp sh -c 'readlink /link; cat /file')" $'file\nnew' 'through a link to a file'
    cp "$T/f" "$T/x."
    hull cp -q "$T/x." t-cp:/tmp/
    expect_eq "$(hull exec t-cp cat /tmp/x.)" new 'a name that ends with a dot'
    hull cp -q t-cp:/d "$T/d"
    expect_eq "$(cat "$T/d/y") $(stat -c %Y "$T/d/y")" "y $(date -d 1965-01-01 +%s)" 'a file beside a FIFO, and its time'
    [ -p "$T/d/fifo" ] || fail 'the FIFO is missing'
    capture hull cp -q "$T/f" t-cp:/none/x
    [ "$status" != 0 ] || fail 'into a directory that is not there'
    hull rm -f t-cp >/dev/null
}

# A path that ends in `..` means the directory that it leads to, by its words.
case_cp_of_a_parent_copies_what_it_is() {
    hull create --name t-parent --network none "$BUSYBOX" true >/dev/null
    hull cp -q t-parent:/home/../etc/. "$T/etc"
    [ -f "$T/etc/passwd" ] || fail "no passwd: $(ls "$T/etc")"
    hull cp -q t-parent:/etc/network/.. "$T/named"
    [ -f "$T/named/passwd" ] || fail "no passwd: $(ls "$T/named")"
    hull rm t-parent >/dev/null
}
