# What layers hold arrives exactly; what is wrong with an image is named.

load() { python3 tests/lib/archives.py "$1" "$T/$1.tar" && hull load -q -i "$T/$1.tar" >/dev/null; }
# inside IMAGE SCRIPT: what the script prints in a container of it.
inside() { hull run --rm "$1:latest" sh -c "$2"; }
# refused SCENARIO WORD...: loading or running it fails by an error that names each word.
refused() {
    local scenario=$1 word
    shift
    python3 tests/lib/archives.py "$scenario" "$T/$scenario.tar"
    capture sh -c "hull load -q -i $T/$scenario.tar && hull run --rm $scenario:latest true"
    expect_status 125
    for word; do expect_err_has "$word"; done
    expect_clean_host
}

# Core.
case_whiteouts_and_opaque_directories() {
    load whiteouts
    expect_eq "$(inside whiteouts 'ls -A d | tr "\n" " "')" 'new sub ' 'opaque directory, marker last'
    expect_eq "$(inside whiteouts 'ls -A / | grep -E "gone|linkwh|^A$|^f$" | tr "\n" " "')" 'f ' whiteouts
    expect_eq "$(inside whiteouts 'cat /B')" keep 'second name of a removed hard link'
    expect_eq "$(inside whiteouts 'ls /swap /again | tr "\n" " "')" '/again: y  /swap: back ' 'replaced types'
}

case_hard_and_symbolic_links() {
    load links
    expect_eq "$(inside links 'cat x/y/l; stat -c %h a/b/f; [ $(stat -c %i a/b/f) = $(stat -c %i x/y/l2) ] && echo same')" $'data\n3\nsame' 'hard links'
    expect_eq "$(inside links 'readlink s; readlink h')" $'target\ntarget' 'hard link to a symbolic link'
    expect_eq "$(inside links '[ $(stat -c %i s) = $(stat -c %i h) ] && echo same')" same inode
    expect_eq "$(inside links 'readlink long | tr -d "\n" | wc -c')" 180 'long link target'
    expect_eq "$(inside links 'stat -c "%a %u" a a/b x/y')" $'755 0\n755 0\n755 0' 'implied parents'
    expect_eq "$(inside links 'readlink out')" '/etc/../../../etc/passwd' 'link out of the root stays text'
}

case_modes_owners_times_and_attributes() {
    load attributes
    expect_eq "$(inside attributes 'stat -c "%n %a %u %g" ro ro/f suid sgid sticky nobody bigid')" \
        $'ro 555 0 0\nro/f 0 0 0\nsuid 4755 0 0\nsgid 2755 0 0\nsticky 1777 0 0\nnobody 644 65534 65534\nbigid 644 4000000000 4000000000' modes
    expect_eq "$(inside attributes 'stat -c "%n %F %t,%T" chr blk fifo')" $'chr character special file 1,3\nblk block special file 7,63\nfifo fifo 0,0' devices
    expect_eq "$(inside attributes 'stat -c %Y old; stat -c %y ns')" $'-86400\n2020-09-13 12:26:40.123456789 +0000' times
    expect_eq "$(hull run --rm -u 1000 attributes /able/grep -h CapEff /proc/self/status)" $'CapEff:\t0000000000000400' "a file's capability"
}

case_names_long_and_many() {
    load names
    expect_eq "$(inside names 'ls wide | wc -l; ls syms | wc -l; ls many | wc -l; cat many/f19999; echo; cat wide/079* | wc -c; readlink syms/449')" \
        $'80\n450\n20000\n19999\n0\nt449' counts
    expect_eq "$(inside names "cat $(printf 'p%.0s' $(seq 49))/*/*/*/*/*/*/*; readlink gnulong | tr -d '\n' | wc -c")" $'deep\n180' 'GNU long names'
}

case_sparse_files() {
    load sparse
    expect_eq "$(inside sparse 'stat -c %s sparse; head -c 4096 sparse | tr -d x | wc -c; tail -c +536870913 sparse | head -c 4096 | tr -d y | wc -c; cat after')" $'1073741824\n0\n0\nafter' 'sparse file'
}

case_sizes_and_compressions_of_all_kinds() {
    load size_fields
    expect_eq "$(inside size_fields 'cat base256 pax | tr -d D | wc -c; stat -c %s base256 pax; cat after')" $'0\n5000\n5000\nafter' sizes
    load zstd
    expect_eq "$(inside zstd 'cat z')" zstd 'zstd of two frames'
    load zstd_docker
    expect_eq "$(inside zstd_docker 'cat z')" zstd 'zstd by the name that docker gives it'
}

case_127_layers() {
    load many_layers
    expect_eq "$(inside many_layers 'ls l | wc -l; cat l/125')" $'126\n125' files
}

case_strange_but_legal_layers() {
    load duplicate
    expect_eq "$(inside duplicate 'cat f')" second 'a file twice in one layer'
    load absolute
    expect_eq "$(inside absolute 'ls -d /up /abs | tr "\n" " "')" '/abs /up ' 'paths stay inside the root'
    load through_symlink
    inside through_symlink 'ls /etc/x' >/dev/null
    [ ! -e /etc/x ] || fail 'a layer wrote on the host'
}

case_bad_layers_are_refused_by_name() {
    refused name_too_long 'name too long'
    refused deep_path 'path length limit'
    refused dotdot '../../escape'
    [ ! -e /escape ] && [ ! -e "$HARNESS/escape" ] || fail 'a layer wrote on the host'
    refused missing_link_target 'nowhere/at/all'
    refused wrong_diff_id 'diff ID'
    refused truncated_layer sha256:
    refused flipped_byte sha256:
    refused other_architecture s390x
    refused foreign_layer foreign
    refused link_cycle 'the target "b" of the hard link'
    refused broken_pax 'bad PAX record'
    refused overlapping_extents 'sparse map does not fit'
    python3 tests/lib/archives.py no_image "$T/no_image.tar"
    capture hull load -i "$T/no_image.tar"
    expect_status 125
    expect_err_has 'the archive is not an image'
}

# It is there to be looked at and passed on.
case_an_image_without_layers() {
    load no_layers
    expect_eq "$(hull image inspect no_layers | jq -c '.[0].RepoTags')" '["no_layers:latest"]' 'its name'
    hull save -o "$T/again.tar" no_layers
    hull rmi no_layers >/dev/null
    hull load -q -i "$T/again.tar" | grep -q no_layers
    hull rmi no_layers >/dev/null
}

case_programs_that_the_kernel_refuses_say_why() {
    local name number words
    load unrunnable
    while read -r name number words; do
        capture hull run --rm unrunnable "/$name"
        expect_status "$number"
        expect_err_has "exec /$name: $words"
    done <<'X'
lost 127 no such file or directory (its interpreter /no/such/interpreter is missing)
crlf 127 no such file or directory (its interpreter /bin/sh\r is missing: the file has Windows line ends)
foreign 126 exec format error (it was built for aarch64, and this machine is x86_64)
text 126 exec format error (it is neither a program nor a script that begins with #!)
X
    expect_eq "$(hull run --rm unrunnable sh -c /lost 2>&1)" 'sh: /lost: not found' 'the words of a shell'
    hull run -d --name t-unrun unrunnable sleep 600 >/dev/null
    capture hull exec t-unrun /lost
    expect_status 127
    expect_err_has 'its interpreter /no/such/interpreter is missing'
    hull rm -f t-unrun >/dev/null
    capture hull run --rm --init unrunnable /lost
    expect_status 127
    expect_err_has 'its interpreter /no/such/interpreter is missing'
    expect_clean_host
}

case_entrypoint_and_command_of_the_image() {
    load empty_entrypoint
    expect_eq "$(hull run --rm empty_entrypoint)" hi 'empty first word of ENTRYPOINT'
    load entrypoint
    expect_eq "$(hull run --rm entrypoint)" 'ep x' 'ENTRYPOINT and CMD'
    expect_eq "$(hull run --rm --entrypoint "" entrypoint echo hi)" hi 'ENTRYPOINT emptied'
    load workdir_entrypoint
    capture hull run --rm workdir_entrypoint
    expect_status 127
    expect_eq "$(hull run --rm --entrypoint ./entrypoint.sh workdir_entrypoint)" ran 'relative to the working directory'
    expect_eq "$(hull run --rm -e PATH=/app:/bin workdir_entrypoint)" ran 'found on PATH'
}

# Core.
case_images_are_listed_tagged_and_removed() {
    hull images | grep -q busybox
    hull tag "$BUSYBOX" t-tag:v1
    hull images -q t-tag:v1 | grep -q .
    expect_eq "$(hull run --rm t-tag:v1 echo ran)" ran 'a tagged image'
    hull rmi t-tag:v1 >/dev/null
    capture hull run --pull never --rm t-tag:v1 true
    expect_status 125
    hull run --rm "$BUSYBOX" true
}

case_docker_archive() {
    skopeo --insecure-policy copy --quiet "oci:$IMAGES/busybox:latest" "docker-archive:$T/d.tar:t-archive:v1"
    hull load -i "$T/d.tar" | grep -q 't-archive:v1'
    expect_eq "$(hull run --rm t-archive:v1 echo ran)" ran 'image of a docker archive'
    hull rmi t-archive:v1 >/dev/null
}

case_a_tar_of_files_becomes_an_image() {
    mkdir -p "$T/root/bin"
    cp /bin/busybox "$T/root/bin/busybox"
    ln "$T/root/bin/busybox" "$T/root/bin/sh"
    tar -C "$T/root" -cf "$T/root.tar" .
    local id layer
    id=$(hull import -m note -c 'CMD ["/bin/sh","-c","echo $A"]' -c 'ENV A=imported' "$T/root.tar" t-import:v1)
    [[ $id == sha256:* ]] || fail "import printed $id"
    expect_eq "$(hull run --rm t-import:v1)" imported 'its command'
    expect_eq "$(hull image inspect -f '{{.Comment}} {{.Os}}/{{.Architecture}}' t-import:v1)" 'note linux/amd64' 'comment and platform'
    hull history t-import:v1 | grep -q note || fail "no comment: $(hull history t-import:v1)"
    # By a pipe, compressed, without a name.
    id=$(zstd -qc "$T/root.tar" | hull import -)
    expect_eq "$(hull run --rm "$id" /bin/sh -c 'echo piped')" piped 'without a name'
    # Nothing that has the label goes.
    hull image prune -f --filter label=none | grep -q 'Deleted' && fail 'pruned what the filter spares'
    hull image prune -f | grep -q "Deleted: $id" || fail 'the image without a name stays'
    id=$(xz -c "$T/root.tar" | hull import -)
    expect_eq "$(hull run --rm "$id" /bin/sh -c 'echo xz')" xz 'compressed by xz'
    layer=$(hull image inspect -f '{{json .RootFS.Layers}}' "$id")
    id=$(bzip2 -c "$T/root.tar" | hull import -)
    expect_eq "$(hull image inspect -f '{{json .RootFS.Layers}}' "$id")" "$layer" 'the same by bzip2'
    xz -c "$T/root.tar" | head -c 1000 >"$T/root.tar.xz"
    capture hull import "$T/root.tar.xz" t-import:bad
    [ "$status" != 0 ] || fail 'half an archive was imported'
    echo 'no tar at all, but long enough to be looked at' >"$T/text"
    capture hull import "$T/text" t-import:bad
    [ "$status" != 0 ] || fail 'a text was imported'
    expect_eq "$(hull images -q t-import:bad)" '' 'what is left of a failed import'
    hull rmi t-import:v1 >/dev/null
}

# An archive's platform may be one word; what nothing here runs is kept, and not unpacked.
case_an_import_for_a_platform() {
    mkdir "$T/root"
    tar -C "$T/root" -cf "$T/root.tar" .
    local platform expected
    for platform in 'linux linux/amd64' 'LINUX linux/amd64' 'arm64 linux/arm64' 'linux/sparc64 linux/sparc64'; do
        read -r platform expected <<<"$platform"
        hull import --platform "$platform" "$T/root.tar" t-platform >/dev/null
        expect_eq "$(hull image inspect -f '{{.Os}}/{{.Architecture}}' t-platform)" "$expected" "$platform"
    done
    while read -r platform expected; do
        capture hull import --platform "$platform" "$T/root.tar" t-platform
        [ "$status" != 0 ] || fail "$platform was imported"
        expect_err_has "$expected"
    done <<WRONG
/ is an invalid OS component
macos operating system is not supported
macos/arm64 operating system is not supported
nintendo64 unknown operating system or architecture
WRONG
    capture hull image inspect --platform linux/amd64 t-platform
    expect_err_has 'was found but its platform (linux/sparc64) does not match the specified platform (linux/amd64)'
    hull rmi t-platform >/dev/null
    hull image prune -f >/dev/null
}

# A repository is saved with all of its tags, a digest without a name; each image under its own time.
case_what_is_saved_has_its_names_and_times() {
    local id
    hull create --name t-made "$BUSYBOX" true >/dev/null
    hull commit -c 'ENV PATH=/usr/bin:$PATH' -c 'WORKDIR ${HOME:-/srv}/x' -c 'ENTRYPOINT ["/bin/echo"]' t-made t-saved:a >/dev/null
    expect_eq "$(hull image inspect t-saved:a | jq -r '.[0].Config | "\(.Env[0]) \(.WorkingDir) \(.Cmd)"')" \
        "PATH=/usr/bin:$(hull image inspect -f '{{index .Config.Env 0}}' "$BUSYBOX" | cut -d= -f2-) /srv/x null" 'variables of the changes, and no command of another entry point'
    hull commit -m two t-made t-saved:b >/dev/null
    hull save -o "$T/saved.tar" t-saved "$BUSYBOX"
    mkdir "$T/saved"
    tar -C "$T/saved" -xf "$T/saved.tar"
    expect_eq "$(jq -r '[.[].RepoTags[]] | sort | join(" ")' "$T/saved/manifest.json")" "$BUSYBOX t-saved:a t-saved:b" names
    id=$(hull image inspect -f '{{.Id}}' t-saved:a)
    expect_eq "$(stat -c %Y "$T/saved/blobs/sha256/${id#sha256:}")" "$(date -d "$(hull image inspect -f '{{.Created}}' t-saved:a)" +%s)" 'time'
    expect_eq "$(hull save "$(hull image inspect -f '{{index .RepoDigests 0}}' "$BUSYBOX")" | tar -xO manifest.json | jq -c '.[].RepoTags')" null 'by a digest'
    hull rm t-made >/dev/null
    hull rmi t-saved:a t-saved:b >/dev/null
    capture hull save -o "$T/none.tar" t-saved
    expect_err_has 'No such image'
}

case_an_image_for_another_platform_is_named() {
    python3 tests/lib/archives.py other_platforms "$T/other_platforms.tar"
    skopeo --insecure-policy copy --all --quiet --dest-tls-verify=false "oci-archive:$T/other_platforms.tar" "docker://$REGISTRY/platforms:latest"
    hull pull -q "$REGISTRY/platforms"
    expect_eq "$(hull run --rm "$REGISTRY/platforms" cat which)" amd64 'the platform of this host'
    capture hull run --rm --platform linux/arm64/v8 "$REGISTRY/platforms" cat which
    expect_status 125
    expect_err_has 'is for linux/arm64'
    hull pull -q --platform linux/arm64/v8 "$REGISTRY/platforms"
    expect_eq "$(hull image inspect -f '{{.Architecture}}' "$REGISTRY/platforms")" arm64 'what was asked for'
    capture hull run --rm --pull never "$REGISTRY/platforms" cat which
    expect_err_has 'is for linux/arm64, not for linux/amd64'
    capture hull pull --platform windows/amd64 "$REGISTRY/platforms"
    expect_err_has 'no matching manifest for windows/amd64'
    hull save "$(hull images -q "$REGISTRY/platforms")" | tar -xO manifest.json | grep -q '"RepoTags":null' || fail 'an image saved by its id has names'
    # To be passed on.
    hull save -o "$T/arm.tar" "$REGISTRY/platforms"
    hull rmi "$REGISTRY/platforms" >/dev/null
    capture hull load -i "$T/arm.tar" --platform linux/amd64
    [ "$status" != 0 ] || fail 'an image for another platform than the one that is named was taken'
    hull load -q -i "$T/arm.tar" >/dev/null
    expect_eq "$(hull image inspect -f '{{.Architecture}}' "$REGISTRY/platforms")" arm64 'what was loaded'
    hull rmi "$REGISTRY/platforms" >/dev/null
}

# as_umoci_has_it NAME: $T/NAME.tar, which is loaded, file by file as umoci unpacks it, seen through the guest's
# kernel; and fsck of what the guest's device shows. Takes the image away.
as_umoci_has_it() {
    local name=$1
    skopeo --insecure-policy copy --quiet "oci-archive:$T/$name.tar" "oci:$T/layout:$name"
    umoci unpack --image "$T/layout:$name" "$T/umoci" >"$T/log" 2>&1 || fail "umoci: $(tail -n 5 "$T/log")"
    python3 tests/lib/facts.py "$T/umoci/rootfs" >"$T/want"
    # The host's Python: an image of it takes minutes to push and to pull in an emulated machine.
    hull run --rm --privileged --network none --mount "type=image,source=$name,target=/i" -v "$PWD/tests/lib/facts.py:/facts.py:ro" \
        -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro "$BUSYBOX" /usr/bin/python3 -S /facts.py /i >"$T/found"
    diff "$T/want" "$T/found" >"$T/diff" || fail "$name: $(head -n 20 "$T/diff")"
    python3 tests/lib/composite.py "$HARNESS/state" "$name:latest" "$T/composite.erofs"
    fsck.erofs "$T/composite.erofs" >"$T/fsck" 2>&1 || fail "$name: $(cat "$T/fsck")"
    rm -rf "$T/umoci" "$T/layout" "$T/$name.tar" "$T/composite.erofs"
    hull rmi "$name" >/dev/null
}

case_layers_are_what_umoci_unpacks() {
    local name
    for name in exact whiteouts links attributes duplicate size_fields; do
        load $name
        as_umoci_has_it $name
    done
}

# HULL_SEED has it again.
case_random_layers_are_what_umoci_unpacks() {
    local seed=${HULL_SEED:-$RANDOM}
    echo "HULL_SEED=$seed"
    python3 tests/lib/stacks.py "$seed" 60 "$T/random.tar" && hull load -q -i "$T/random.tar" >/dev/null
    as_umoci_has_it random
    [ "$(grep -c "^b's" "$T/want")" -gt 300 ] || fail "seed $seed: only $(grep -c "^b's" "$T/want") random files"
}

case_containers_are_found_by_what_their_image_is_made_of() {
    hull run --name t-base "$BUSYBOX" touch /f
    hull commit t-base t-made >/dev/null
    hull create --name t-of-made t-made true >/dev/null
    expect_eq "$(hull ps -a -f ancestor="$BUSYBOX" --format '{{.Names}}' | sort | tr '\n' ' ')" 't-base t-of-made ' 'of the image'
    expect_eq "$(hull ps -a -f ancestor=t-made --format '{{.Names}}')" t-of-made 'of what is made of it'
    hull rm t-base t-of-made >/dev/null
    hull rmi t-made >/dev/null
}
