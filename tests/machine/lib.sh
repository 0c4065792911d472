# Shared by up, run, shell and down: the options, and the machine's life.
# shellcheck shell=bash
#
# Locks: `lock` is held while the machine is started or stopped, `users` is
# shared by all commands that run in it, so whoever gets it alone is the last.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hull/machine
suffix=${HULL_MACHINE:+-$HULL_MACHINE} # of one of several machines
state=$cache/run$suffix  # what belongs to the machine that is up
out=$project/target/machine-out
disk=$cache/state$suffix.img
console=$state/console.log
failed=$cache/console-failed$suffix

say() { printf 'test machine: %s\n' "$*" >&2; }
die() { say "$*"; exit 125; }

# Sets fresh, emulate, icount, cpus, mem, timeout and the array `command`.
parse_options() {
    fresh='' emulate='' icount='' cpus='' mem='' timeout='' command=()
    while [ $# -gt 0 ]; do
        case $1 in
        --fresh | --emulate | --icount) printf -v "${1#--}" yes ;;
        --cpus | --mem | --timeout)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift ;;
        --) shift; command=("$@"); break ;;
        *) die "unknown option: $1 (see tests/machine/README.md)" ;;
        esac
        shift
    done
    [ -z "$icount" ] || [ "${cpus:-1}" = 1 ] || die "--icount counts the instructions of one CPU"
    [ -z "$timeout" ] || [[ $timeout =~ ^[1-9][0-9]*$ ]] || die "--timeout takes whole seconds, from 1 on"
}

# Whether commands run on this machine itself, by these options.
works_here() { [ -z "$emulate$icount" ] && ! is_up && "$here/can-boot"; }

# ---- what is there

is_up() {
    local pid
    pid=$(cat "$state/pid" 2> /dev/null) || return 1
    # A process of that number, and it is ours: not one that got the number since.
    [ -r "/proc/$pid/cmdline" ] && grep -qzxF "file:$console" "/proc/$pid/cmdline" 2> /dev/null
}

# Whether the machine that is up is one that the options allow: an option not
# given allows any. What cannot be changed under it must be as it was.
matches() {
    local key value
    [ -z "$fresh" ] || return 1
    while IFS='=' read -r key value; do
        case $key in
        cpus) [ -z "$cpus" ] || [ "$cpus" = "$value" ] || return 1 ;;
        mem) [ -z "$mem" ] || [ "$mem" = "$value" ] || return 1 ;;
        icount) [ -z "$icount" ] || [ "$icount" = "$value" ] || return 1 ;;
        *) [ "$(fixed | grep "^$key=")" = "$key=$value" ] || return 1 ;;
        esac
    done < "$state/options"
}
fixed() {
    echo "project=$project"
    echo "out=$(stat -c %i "$out")"
}

# ---- starting

prepare() {
    "$here/install"
    umask 077
    mkdir -p "$state" "$out" "$project/dist"
    if [ ! -s "$state/client_key" ]; then
        ssh-keygen -q -t ed25519 -N '' -C hull-machine -f "$state/client_key"
    fi
    if [ ! -s "$state/known_hosts" ]; then
        rm -f "$state/hostkey"
        dropbearkey -t ed25519 -f "$state/hostkey" 2> /dev/null |
            sed -n 's/^\(ssh-ed25519 [^ ]*\).*/hull-machine \1/p' > "$state/known_hosts"
    fi
}

# The disk is sparse: it takes on the host what is written in the machine.
make_disk() {
    [ -z "$fresh" ] || rm -f "$disk"
    [ ! -s "$disk" ] || return 0
    truncate -s 64G "$disk.new"
    mkfs.ext4 -q -F -L hull-state -E assume_storage_prezeroed=1 "$disk.new"
    mv "$disk.new" "$disk"
}

# An archive of what is this start's own, in front of the common one.
make_initrd() {
    local dir=$state/initrd.d
    rm -rf "$dir"
    mkdir "$dir"
    printf 'project=%q\nout=%q\nclient_key=%q\n' "$project" "$out" "$(cat "$state/client_key.pub")" > "$dir/settings"
    cp "$state/hostkey" "$dir/"
    (cd "$dir" && printf '%s\n' settings hostkey | cpio -o -H newc --quiet -R 0:0) > "$state/initrd"
    cat "$image/initrd" >> "$state/initrd"
}

# A port that nobody listens on now; if someone takes it first, QEMU ends and
# the start is tried again with another.
free_port() {
    local port
    for _ in {1..50}; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        (: > "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
    done
    die "found no free port"
}

start_qemu() {
    local accel=(-accel "tcg,thread=multi,tb-size=1024")
    if [ -n "$icount" ]; then accel=(-accel "tcg,thread=single,tb-size=1024" -icount "shift=0,sleep=off"); fi
    free_port > "$state/port"
    : > "$console"
    # It outlives this script, so it must not hold the script's locks (8, 9).
    # Without the fast string instructions: the emulation moves a byte at a time for them, and
    # kernels that find them clear and copy every page that way.
    setsid qemu-system-x86_64 -M q35 -cpu max,-erms,-fsrm,-fzrm,-fsrs,-fsrc "${accel[@]}" -smp "$cpus" -m "$mem" \
        -kernel "$image/vmlinuz" -initrd "$state/initrd" \
        -append "console=ttyS0 loglevel=4 panic=-1 mitigations=off tsc=reliable cgroup_no_v1=all init_on_alloc=0" \
        -virtfs "local,path=/,mount_tag=root,security_model=none,multidevs=remap,readonly=on" \
        -virtfs "local,path=${project//,/,,},mount_tag=project,security_model=none,multidevs=remap,readonly=on" \
        -virtfs "local,path=${out//,/,,},mount_tag=out,security_model=none,multidevs=remap" \
        -drive "file=${disk//,/,,},if=virtio,format=raw,discard=unmap,detect-zeroes=unmap" \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$(cat "$state/port")-:22" -device virtio-net-pci,netdev=net,romfile= \
        -device virtio-rng-pci -display none -monitor none -serial "file:$console" -no-reboot \
        < /dev/null > "$state/qemu.log" 2>&1 8>&- 9>&- &
    echo $! > "$state/pid"
    # For a moment the new process is still a copy of this shell.
    until is_up || ! kill -0 $! 2> /dev/null; do sleep 0.05; done
}

wait_ready() {
    local limit=$((SECONDS + ${HULL_MACHINE_BOOT_LIMIT:-120}))
    until grep -q 'test machine: ready' "$console"; do
        is_up || return 1
        [ $SECONDS -lt $limit ] || return 1
        sleep 0.2
    done
    connect
}

# QEMU before 10 corrupts a running kernel now and then when it emulates two
# CPUs (its kernel dies in code that was being patched).
default_cpus() {
    if [ -n "$icount" ] || [ "$(nproc)" = 1 ]; then
        echo 1
    elif [ "$("$here/qemu-release")" -lt 10 ]; then
        say "one CPU only: this QEMU is older than 10, and two would not be reliable"
        echo 1
    else
        echo 2
    fi
}

boot() {
    cpus=${cpus:-$(default_cpus)}
    mem=${mem:-6G}
    image=$("$here/image")
    make_disk
    make_initrd
    rm -f "$state/dist.manifest"
    { fixed; printf 'cpus=%s\nmem=%s\nicount=%s\n' "$cpus" "$mem" "$icount"; } > "$state/options"
    local try
    for try in 1 2; do
        start_qemu
        if wait_ready; then return; fi
        cp "$console" "$failed-$try.log"
        say "start $try failed; the last of its console ($failed-$try.log):"
        tail -n 25 "$console" >&2
        tail -n 5 "$state/qemu.log" >&2
        kill_machine
    done
    die "the test machine does not start"
}

# ---- the channel

ssh_options() {
    printf '%s\n' -F /dev/null -S "$state/ssh" -i "$state/client_key" -p "$(cat "$state/port")" \
        -o IdentitiesOnly=yes -o HostKeyAlias=hull-machine -o "UserKnownHostsFile=$state/known_hosts" \
        -o StrictHostKeyChecking=yes -o LogLevel=ERROR -o ConnectTimeout=60 \
        -o ServerAliveInterval=60 -o ServerAliveCountMax=10 -o BatchMode=yes
}

# One connection is made at the start, and every command goes through it. It
# runs in the background: it must hold neither the locks nor anybody's output.
connect() {
    local options
    mapfile -t options < <(ssh_options)
    for _ in {1..5}; do
        rm -f "$state/ssh"
        ssh "${options[@]}" -fNM root@127.0.0.1 < /dev/null > /dev/null 2> "$state/ssh.log" 8>&- 9>&- && return
        sleep 1
    done
    cat "$state/ssh.log" >&2
    return 1
}

# in_machine [-t] COMMAND-LINE: runs it by the machine's shell.
in_machine() {
    local options
    mapfile -t options < <(ssh_options)
    ssh "${options[@]}" -o ControlMaster=no "$@" 8>&- 9>&-
}

# Copies what changed in dist/ since the last time. The machine reads it from
# the host by 9p into memory: through the channel it would be many times slower.
# Called with the lock held: two at once would get in each other's way.
sync_dist() {
    local new=$state/dist.manifest.new old=$state/dist.manifest
    [ -e "$old" ] || : > "$old"
    (cd "$project/dist" && find . -mindepth 1 ! -type d -printf '%P\t%s\t%T@\t%m\n') | LC_ALL=C sort > "$new"
    if ! cmp -s "$old" "$new"; then
        # Gone or changed files are removed, then changed and new ones copied.
        {
            LC_ALL=C comm -23 "$old" "$new" | cut -f1 | sed 's/^/-/'
            LC_ALL=C comm -13 "$old" "$new" | cut -f1 | sed 's/^/+/'
        } | in_machine root@127.0.0.1 "$(cat << 'IN_MACHINE'
            set -e; cat > /run/machine/changes; cd /run/machine/dist
            sed -n 's/^-//p' /run/machine/changes | xargs -r -d '\n' rm -f --
            find . -mindepth 1 -depth -type d -empty -delete
            cd /run/machine/project/dist
            sed -n 's/^+//p' /run/machine/changes | xargs -r -d '\n' cp -a --parents -t /run/machine/dist --
IN_MACHINE
        )"
        mv "$new" "$old"
    fi
}

# ---- stopping

kill_machine() {
    local pid
    pid=$(cat "$state/pid" 2> /dev/null) || return 0
    if is_up; then kill "$pid" 2> /dev/null || true; fi
    for _ in {1..50}; do is_up || break; sleep 0.1; done
    if is_up; then kill -9 "$pid" 2> /dev/null || true; fi
    # It lets go of the disk only when it is gone, or nothing but an entry for its parent.
    for _ in {1..50}; do
        [ -e "/proc/$pid/stat" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2> /dev/null || break
        sleep 0.1
    done
    rm -f "$state/pid" "$state/ssh" "$state/transient"
}

# Power off, so that the disk is whole; by force if it does not answer.
stop_machine() {
    if is_up; then
        timeout 20 bash -c ": > /dev/tcp/127.0.0.1/$(cat "$state/port")" 2> /dev/null || true
        in_machine root@127.0.0.1 'sync; echo u > /proc/sysrq-trigger; (sleep 0.2; echo o > /proc/sysrq-trigger) > /dev/null 2>&1 &' \
            < /dev/null > /dev/null 2>&1 || true
        for _ in {1..100}; do is_up || break; sleep 0.1; done
    fi
    kill_machine
}

# ---- using it together

# Leaves with the machine up, and counted among its users.
join() {
    mkdir -p "$state" "$out"
    exec 8> "$state/lock" 9> "$state/users"
    while :; do
        flock 8
        if is_up && matches; then break; fi
        if ! is_up; then start; break; fi
        # Another kind of machine is wanted: when nobody uses the one there is.
        if flock -n 9; then
            say "stopping the one that is up: it does not match the options"
            stop_machine
            start
            break
        fi
        flock -u 8
        sleep 1
    done
    flock -s 9
    sync_dist || die "could not bring dist/ up to date in the machine"
    flock -u 8
}

start() {
    if [ -z "$emulate$icount" ]; then say "KVM here boots no guest: starting an emulated machine, which is some ten times slower"; fi
    prepare
    boot
    touch "$state/transient"
}

# The last one to leave stops the machine, unless it is to stay.
leave() {
    flock 8
    flock -u 9
    if [ -e "$state/transient" ] && flock -n 9; then stop_machine; fi
    flock -u 8
}
