# Volumes with and without names.

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

case_bad_volumes_are_refused() {
    capture hull volume create a/b
    expect_status 125
    expect_err_has 'invalid characters'
    capture hull volume create --driver flocker t-x
    expect_status 125
    expect_err_has flocker
    capture hull volume create -o type=nfs -o o=addr=1.2.3.4 t-x
    expect_status 125
    expect_err_has nfs
    capture hull run --rm -v t-a:/x -v t-b:/x "$BUSYBOX" true
    expect_status 125
    expect_err_has 'Duplicate mount point'
    expect_eq "$(hull volume ls -q | grep -c t-)" 0 left
}

case_a_part_of_a_volume_and_memory_as_a_volume() {
    hull run --rm -v t-part:/v "$BUSYBOX" sh -c 'mkdir -p /v/s/deep; echo part >/v/s/deep/f; ln -s /etc /v/out' 
    expect_eq "$(hull run --rm --mount type=volume,src=t-part,dst=/s,volume-subpath=s/deep "$BUSYBOX" sh -c 'cat /s/f; echo more >/s/g')" part 'a part of a volume'
    expect_eq "$(hull run --rm -v t-part:/v:ro "$BUSYBOX" cat /v/s/deep/g)" more 'written through the part'
    for part in out none; do
        capture hull run --rm --mount "type=volume,src=t-part,dst=/s,volume-subpath=$part" "$BUSYBOX" ls /s
        [ "$status" != 0 ] || fail "$part is shown: $out"
        expect_err_has "$part"
    done
    capture hull run --rm --mount type=volume,src=t-part,dst=/s,volume-subpath=../x "$BUSYBOX" true
    expect_err_has 'within the volume'
    hull volume create -o type=tmpfs -o device=tmpfs -o o=size=2m,uid=1000 t-mem >/dev/null
    expect_eq "$(hull run --rm -v t-mem:/m "$BUSYBOX" sh -c 'stat -c %u /m; df -k /m | tail -n 1 | awk "{print \$2}"')" $'1000\n2048' 'memory as a volume'
    capture hull volume create -o type=tmpfs -o o=size=big t-bad
    expect_err_has 'size=big'
    hull volume rm t-part t-mem >/dev/null
}
