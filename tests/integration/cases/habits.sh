# What programs and users are used to find in a container of any engine.

# Core.
case_limits_and_tables_are_as_large_as_a_hosts() {
    capture hull run --rm --network none "$BUSYBOX" sh -c '
        cat /proc/sys/fs/inotify/max_user_watches /proc/sys/fs/inotify/max_user_instances /proc/sys/fs/file-max
        readlink /etc/mtab; grep -c " /proc proc " /etc/mtab'
    expect_status 0
    expect_out $'524288\n1024\n9223372036854775807\n/proc/mounts\n1\n'
    capture hull run --rm --network none --sysctl fs.inotify.max_user_watches=9000 "$BUSYBOX" cat /proc/sys/fs/inotify/max_user_watches
    expect_out $'9000\n'
}

case_the_link_to_the_mounts_is_no_change_of_the_container() {
    hull run --name t-mtab --network none "$BUSYBOX" touch /own
    expect_eq "$(hull diff t-mtab)" 'A /own' diff
    hull commit t-mtab mtab:1 >/dev/null
    hull save mtab:1 >"$T/image.tar"
    mkdir "$T/image" && tar -C "$T/image" -xf "$T/image.tar"
    # The layer that the commit added is the one without the programs.
    local layer found=
    for layer in "$T"/image/blobs/sha256/*; do
        tar -tf "$layer" 2>/dev/null | grep -qx own && found=$(tar -tf "$layer" | sed 's|^etc$|etc/|' | sort | xargs)
    done
    expect_eq "$found" 'etc/ own' 'the layer of the commit'
    hull rmi mtab:1 >/dev/null
}

case_a_read_only_root_has_read_only_files_of_the_engine() {
    capture hull run --rm --network none --read-only "$BUSYBOX" sh -c '
        for file in hosts hostname resolv.conf; do echo x >>/etc/$file && echo "wrote $file"; done; cat /etc/hostname | wc -l'
    expect_status 0
    expect_out $'1\n'
    expect_err_has 'Read-only file system'
    capture hull run --rm --network none "$BUSYBOX" sh -c 'echo 10.9.8.7 other >>/etc/hosts && grep -c other /etc/hosts'
    expect_out $'1\n'
}

case_mounts_at_odd_places() {
    mkdir -p "$T/dir/sub"
    echo one >"$T/file"
    capture hull run --rm --network none -v "$T/file:/etc/../x//y/./file" -v /dev/net/tun:/dev/net/tun "$BUSYBOX" sh -c 'cat /x/y/file; stat -c "%t:%T" /dev/net/tun'
    expect_status 0
    expect_out $'one\na:c8\n'
    capture hull run --rm --network none -v "$T/dir:/etc/passwd" "$BUSYBOX" true
    expect_status 125
    expect_err_has 'it would put a directory over a file of the container'
    capture hull run --rm --network none -v "$T/file:/etc" "$BUSYBOX" true
    expect_status 125
    expect_err_has 'it would put a file over a directory of the container'
    mkfifo "$T/fifo"
    capture hull run --rm --network none -v "$T/fifo:/x" "$BUSYBOX" true
    expect_status 125
    expect_err_has 'leave this mount out'
}

case_what_a_hosts_kernel_makes_up_can_be_mounted() {
    capture hull run --rm --network none -v /proc:/host/proc:ro -v /sys:/host/sys:ro "$BUSYBOX" sh -c '
        read -r id </host/proc/sys/kernel/random/boot_id; echo $id; cat /host/proc/1/comm; wc -c </host/sys/kernel/mm/transparent_hugepage/enabled
        first=$(cut -d" " -f1 /host/proc/uptime); sleep 1.2; [ "$first" != "$(cut -d" " -f1 /host/proc/uptime)" ] && echo counts on'
    expect_status 0
    expect_out "$(cat /proc/sys/kernel/random/boot_id; cat /proc/1/comm; wc -c </sys/kernel/mm/transparent_hugepage/enabled; echo counts on)"$'\n'
}

case_a_tmpfs_is_for_everybody_at_each_start() {
    hull run -d --name t-tmpfs --network none --tmpfs /scratch -u app "$BUSYBOX" sh -c 'touch /scratch/x && stat -c %a /scratch; sleep 1000' >/dev/null
    wait_for 20 logs_have 1777 t-tmpfs
    hull restart -t 0 t-tmpfs >/dev/null
    wait_for 20 logs_have $'1777\n1777' t-tmpfs || fail "$(hull logs t-tmpfs 2>&1)"
    # What was worked on before its first start.
    hull create --name t-worked --network none --tmpfs /scratch -u app "$BUSYBOX" sh -c 'touch /scratch/x && stat -c %a /scratch' >/dev/null
    echo x >"$T/file"
    hull cp "$T/file" t-worked:/file
    capture hull start -a t-worked
    expect_out $'1777\n'
}
logs_have() { [ "$(hull logs "$2" 2>&1)" = "$1" ]; }

case_files_of_the_kernel_are_copied_out() {
    hull run -d --name t-kernel --network none --pids-limit 77 "$BUSYBOX" sleep 1000 >/dev/null
    hull cp t-kernel:/proc/version "$T/version"
    grep -q 'Linux version' "$T/version" || fail "$(od -c "$T/version" | head -n 3)"
    hull cp t-kernel:/sys/fs/cgroup/pids.max "$T/pids"
    expect_eq "$(cat "$T/pids")" 77 'the limit of processes'
    hull cp t-kernel:/sys/class/net/lo/mtu - | tar -xO >"$T/mtu"
    expect_eq "$(cat "$T/mtu")" 65536 'the size of packets'
}

# Core.
case_wishes_that_contradict_are_refused_when_they_are_made() {
    capture hull create --network none --tmpfs /t:bogus "$BUSYBOX" true
    expect_err_has 'invalid tmpfs option ["bogus"]'
    capture hull create --network none --tmpfs /t:size=1x "$BUSYBOX" true
    expect_err_has 'invalid tmpfs option ["size=1x"]'
    capture hull create --network none --uts host --hostname h "$BUSYBOX" true
    expect_err_has 'conflicting options: hostname and the UTS mode'
    capture hull create --network none -v /tmp:/a/.. "$BUSYBOX" true
    expect_err_has "destination can't be '/'"
    capture hull create --network none -v /tmp:/a -v /var:/b/../a/ "$BUSYBOX" true
    expect_err_has 'Duplicate mount point: /a'
}

case_an_image_without_layers() {
    local config
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/busybox","echo","ran"]},"rootfs":{"type":"layers","diff_ids":[]}}' >"$T/config.json"
    config=$(sha256sum <"$T/config.json" | cut -c1-64)
    mv "$T/config.json" "$T/$config.json"
    printf '[{"Config":"%s.json","RepoTags":["without-layers:1"],"Layers":[]}]' "$config" >"$T/manifest.json"
    tar -C "$T" -cf "$T/image.tar" manifest.json "$config.json"
    hull load -q -i "$T/image.tar" >/dev/null
    expect_eq "$(hull run --rm --network none -v /bin/busybox:/busybox:ro without-layers:1)" ran output
    hull rmi without-layers:1 >/dev/null
}

case_a_container_without_a_terminal_takes_a_size() {
    hull run -d --name t-size --network none "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(curl -s -o "$T/answer" -w '%{http_code}' --unix-socket "${HULL_HOST#unix://}" -X POST \
        'http://d/v1.44/containers/t-size/resize?h=40&w=100')" 200 'the status'
    hull rm -f t-size >/dev/null
}

# A privileged container has loop devices of its own machine.
case_images_of_file_systems_can_be_mounted() {
    mkdir "$T/d"
    truncate -s 16M "$T/d/img"
    mkfs.ext4 -q "$T/d/img"
    expect_eq "$(hull run --rm --privileged -v "$T/d:/d" "$BUSYBOX" sh -c 'ls -d /dev/loop[0-9] | wc -l; mkdir /a /b; dd if=/dev/zero of=/img bs=1M count=0 seek=4 2>/dev/null
        mke2fs -F /img >/dev/null && mount -o loop /img /a && mount -o loop /d/img /b && echo x >/a/f && echo y >/b/f && cat /a/f /b/f && umount /a /b && losetup -a | wc -l' | xargs)" \
        '8 x y 0' 'two images'
    expect_eq "$(hull run --rm "$BUSYBOX" sh -c 'ls /dev/loop* 2>/dev/null')" '' 'loop devices of others'
}

case_a_crash_leaves_a_core() {
    capture hull run --rm --ulimit core=-1 -w /tmp "$BUSYBOX" sh -c 'sleep 60 & kill -SEGV $!; wait $!; echo $?; head -c 4 core* | tail -c 3; echo'
    expect_out $'139\nELF\n'
}

# As tests of distributed programs do it.
case_a_container_can_make_its_network_bad() {
    local tc
    tc=$(command -v tc) || skip 'no tc on this machine'
    hull run -d --name t-bad --cap-add NET_ADMIN "$BUSYBOX" sleep 600 >/dev/null
    hull cp "$tc" t-bad:/bin/tc >/dev/null
    ldd "$tc" | grep -oE '/[^ ]+' | while read -r library; do hull exec t-bad mkdir -p "${library%/*}"; hull cp -L "$library" "t-bad:$library" >/dev/null; done
    hull exec t-bad tc qdisc add dev eth0 root netem delay 700ms
    local gateway
    gateway=$(hull exec t-bad ip route | sed -n 's/^default via \([0-9.]*\).*/\1/p')
    hull exec t-bad ping -c 2 -W 5 "$gateway" | grep -qE 'min/avg/max = [789][0-9][0-9]|min/avg/max = [0-9]{4}' || fail 'no delay'
    hull rm -f t-bad >/dev/null
}

# The commands that README.md shows next, in their order, with the registry of the tests.
case_what_the_readme_shows_works() {
    command -v docker >/dev/null || skip 'the docker command line is not installed'
    local line python=$REGISTRY/python:latest shown=0
    registry_push "$IMAGES/python" "$python" && hull pull -q "$python" >/dev/null
    hull save -o "$T/image.tar" "$BUSYBOX"
    while read -r line; do
        line=$(sed "s| debian | $python |; s|/run/hull/hull.sock|${HULL_HOST#unix://}|; s|image.tar|$T/image.tar|; s|\.\.\.|true|" <<<"$line")
        # What a user ends: a shell, and a log that is followed.
        case $line in
            *' -it '*) capture timeout 120 script -qec "$line" /dev/null <<<exit ;;
            *' -f '*) capture timeout -s INT 8 bash -c "$line"; [ "$status" != 124 ] || status=0 ;;
            *) capture timeout 120 bash -c "$line" ;;
        esac
        [ "$status" = 0 ] || fail "$line: status $status: $err"
        shown=$((shown + 1))
    done < <(sed -n '/^## What next/,/^## What works/s/^\$ \(.*\)/\1/p' README.md | sed -E 's/ +#.*//' | grep -v 'doctor')
    [ "$shown" -ge 9 ] || fail "README.md shows $shown commands"
}

# Databases and language runtimes reserve far more than they use.
case_memory_may_be_promised_that_is_not_there() {
    registry_push "$IMAGES/python" "$REGISTRY/python:latest" && hull pull -q "$REGISTRY/python:latest" >/dev/null
    capture hull run --rm --network none -m 256m "$REGISTRY/python:latest" python3 -c '
import mmap
print(open("/proc/sys/vm/max_map_count").read().strip(), open("/proc/sys/vm/overcommit_memory").read().strip())
reserved = mmap.mmap(-1, 16 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
reserved[8 << 30] = 1
print("reserved")'
    expect_status 0
    [ "$(sed -n 1p <<<"$out" | cut -d' ' -f1)" -ge 262144 ] || fail "max_map_count: $out"
    [[ $out != *' 2'$'\n'* ]] || fail "overcommit_memory: $out"
    expect_out_has reserved
}

# A privileged container has all of its guest, and none of the host's devices.
case_a_privileged_container_has_no_disk_of_the_host() {
    capture hull run --rm --network none --privileged "$BUSYBOX" sh -c 'cat /proc/partitions; ls /dev'
    expect_status 0
    local disk
    for disk in $(lsblk -ndo NAME 2>/dev/null || ls /sys/block); do
        # The guest's own have names of the same kind; their sizes tell them apart.
        case $disk in
            loop* | ram* | zram* | nbd* | dm-* | fd* | sr* | vd*) ;;
            *) grep -qw "$disk" <<<"$out" && fail "the host's $disk is in the guest: $out" ;;
        esac
    done
    # Its image and its writable layer are all that it has.
    expect_eq "$(grep -cE ' (sd|vd|nvme|xvd|mmcblk)' <<<"$out")" 2 'disks'
}

# The host's /dev seen as a directory: the guest's devices, and the host's files stay as they are.
case_the_hosts_dev_as_a_volume() {
    local before
    before=$(stat -c '%A %t:%T %n' /dev/ptmx /dev/null /dev/tty; ls /dev | sort)
    capture hull run --rm --network none -v /dev:/dev "$BUSYBOX" sh -c 'echo x >/dev/null && head -c 4 /dev/zero | wc -c && test -c /dev/ptmx && echo there'
    expect_status 0
    expect_out $'4\nthere\n'
    # Its terminals are its own.
    capture hull run --rm --network none -t -v /dev:/dev "$BUSYBOX" sh -c 'tty; test -t 0 </dev/console && echo console; ls /dev/pts; : <>/dev/ptmx && echo more'
    expect_status 0
    expect_eq "$(tr '\n' ' ' <<<"${out//$'\r'/}")" '/dev/pts/0 console 0     ptmx more  ' 'its terminals'
    expect_eq "$(stat -c '%A %t:%T %n' /dev/ptmx /dev/null /dev/tty; ls /dev | sort)" "$before" "the host's /dev"
}

# At the limit of processes the container goes on, and says why nothing more can be started.
case_a_container_that_is_full_of_processes_goes_on() {
    hull run -d --name t-full --network none --pids-limit 20 "$BUSYBOX" sh -c '(for i in $(seq 100); do sleep 600 & done); exec sleep 600' >/dev/null
    wait_for 60 sh -c 'hull logs t-full 2>&1 | grep -q "can.t fork"' || fail "$(hull logs t-full 2>&1)"
    # Who could not fork has ended: there is room for one.
    hull exec -d t-full sleep 600
    capture hull exec t-full true
    [ "$status" != 0 ] || fail 'an exec got in above the limit'
    expect_out_has 'Resource temporarily unavailable'
    expect_eq "$(hull inspect -f '{{.State.Running}}' t-full)" true 'its state'
    hull update --pids-limit 40 t-full >/dev/null
    capture hull exec t-full echo in
    expect_out $'in\n'
    hull rm -f t-full >/dev/null
}

# What a program writes to a raw terminal comes out as it was written.
case_a_raw_terminal_changes_nothing() {
    capture script -qec "hull run -it --rm --network none $BUSYBOX sh -c 'stty raw -onlcr; printf \"a\\nb\\n\"'" /dev/null </dev/null
    expect_status 0
    # What script(1) types at the end of its own input comes before it.
    [ "$(printf %s "${out#^@}" | od -An -c | tr -d ' ')" = 'a\nb\n' ] || fail "$(printf %s "$out" | od -An -c)"
}
