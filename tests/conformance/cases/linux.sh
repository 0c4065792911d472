# config-linux.md

case_a_pid_namespace_begins_with_1() { shell 'echo $$'; expect_out 1; }
case_the_first_process_is_safe_from_signals_from_inside() {
    shell 'kill -9 1; kill -TERM 1; echo alive'
    expect_out alive
}
case_an_ipc_namespace_is_empty() { shell 'ipcs -m | grep -c 0x'; expect_out 0; }
case_masked_paths() {
    shell 'cat /proc/version | wc -c; ls /proc/bus | wc -l; touch /proc/bus/x 2>/dev/null || echo refused' '.linux.maskedPaths = ["/proc/version", "/proc/bus", "/proc/timer_stats_none"]'
    expect_out "$(printf '0\n0\nrefused')"
}
case_a_path_masked_twice_is_masked_once() {
    shell 'grep -c " /data " /proc/mounts; ls /data' '.linux.maskedPaths = ["/data", "/tmp", "/data"]'
    expect_out 1
}
case_read_only_paths() {
    shell 'echo x >/data/f || echo refused; cat /data/g' '.linux.readonlyPaths = ["/data", "/nonexistent"] | .process.args = ["sh", "-c", "echo x >/etc/f || echo refused"] | .linux.readonlyPaths = ["/etc", "/nonexistent"]'
    expect_out refused
}
case_sysctl() { shell 'cat /proc/sys/net/ipv4/ip_forward' '.linux.sysctl = {"net.ipv4.ip_forward": "1"}'; expect_out 1; }
case_a_device_is_made() {
    shell 'stat -c "%F %t:%T %a %u:%g" /dev/mine' '.linux.devices = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 5, "gid": 6}]'
    expect_out "character special file 1:3 666 5:6"
}
case_the_device_cgroup_denies() {
    shell 'mknod /tmp/kmsg c 1 11 && (: </tmp/kmsg) 2>/dev/null && echo opened || echo denied' '.process.capabilities.bounding += ["CAP_MKNOD"] | .process.capabilities.effective += ["CAP_MKNOD"] | .process.capabilities.permitted += ["CAP_MKNOD"] | .linux.resources.devices = [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]'
    expect_out denied
}
# The kernel's log, opened by a container that has what it takes but for the device rules.
device_case() {
    shell "mknod /dev/x c 1 11 && (: </dev/x) 2>/dev/null && echo opened || echo denied; (: </dev/zero) && echo zero" '.process.capabilities[] += ["CAP_MKNOD", "CAP_SYSLOG"] | .linux.resources.devices = '"$1"
}
case_a_device_that_no_rule_allows_is_denied() {
    device_case '[{"allow": false, "access": "rwm"}]'
    expect_out "$(printf 'denied\nzero')"
}
case_a_device_that_a_rule_allows_can_be_used() {
    device_case '[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]'
    expect_out "$(printf 'opened\nzero')"
}
# Whoever makes a network's interfaces names them, not the kernel that finds them.
case_interfaces_have_their_names_whatever_their_order() {
    ip netns add "$ID"
    trap 'runtime delete --force "$ID" >/dev/null 2>&1; ip netns del "$ID"; rm -rf "$T"' EXIT
    for name in eth2 eth0 eth1; do
        ip -n "$ID" link add "$name" type dummy
        ip -n "$ID" address add "10.77.${name#eth}.1/24" dev "$name"
        ip -n "$ID" link set "$name" up
    done
    shell 'for i in 0 1 2; do ip -4 address show dev eth$i | grep -o "10.77.$i.1/24"; done' \
        ".linux.namespaces |= map(if .type == \"network\" then .path = \"/run/netns/$ID\" else . end)"
    expect_out "$(printf '10.77.0.1/24\n10.77.1.1/24\n10.77.2.1/24')"
}
case_a_user_namespace_maps_the_files_of_the_host() {
    chmod 711 "$WORK" "$T"
    chown -R -h 100000:100000 "$T/rootfs"
    touch "$T/rootfs/data/foreign"
    local map='[{"containerID": 0, "hostID": 100000, "size": 65536}]'
    shell 'id -u; touch /data/made; stat -c %u /etc/passwd /data/made /data/foreign; echo x >/data/foreign || echo refused' ".linux.namespaces += [{\"type\": \"user\"}] | .linux.uidMappings = $map | .linux.gidMappings = $map"
    expect_out "$(printf '0\n0\n0\n65534\nrefused')"
    expect "$(stat -c %u "$T/rootfs/data/made")" 100000 "owner on the host"
}
case_time_offsets() {
    shell 'cut -d. -f1 /proc/uptime' '.linux.namespaces += [{"type": "time"}] | .linux.timeOffsets = {"boottime": {"secs": 1000000}}'
    [ "${out:-0}" -ge 1000000 ] || fail "uptime ${out:-none} ($err)"
}
case_time_offsets_without_their_namespace_are_an_error() {
    shell 'true' '.linux.timeOffsets = {"boottime": {"secs": 1000000}}'
    expect_failure
}
case_personality() {
    shell 'uname -m' '.linux.personality = {"domain": "LINUX32"}'
    expect_out i686
}
case_seccomp_errno() {
    shell 'mkdir /tmp/x 2>&1 | grep -o "Operation not permitted"' '.linux.seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    expect_out "Operation not permitted"
}
case_seccomp_errno_of_choice() {
    shell 'mkdir /tmp/x 2>&1 | grep -o "Function not implemented"' '.linux.seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}'
    expect_out "Function not implemented"
}
case_seccomp_arguments() {
    shell 'chmod 700 /tmp && echo one; chmod 777 /tmp || echo two' '.linux.seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 511, "op": "SCMP_CMP_EQ"}]}, {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 2, "value": 511, "op": "SCMP_CMP_EQ"}]}]}'
    expect_out "$(printf 'one\ntwo')"
}
case_the_number_of_processes_is_limited() {
    shell 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done 2>/dev/null; echo $(jobs | wc -l)' '.linux.resources.pids.limit = 4'
    [ "${out:-0}" -lt 8 ] || fail "$out processes"
}
# A VM's kernel need not have a scheduler of I/O that knows weights.
case_a_weight_of_io_is_no_error() {
    shell 'echo there' '.linux.resources.blockIO = {"weight": 500}'
    expect_out there
}
case_memory_is_limited() {
    shell 'dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; exit $?' '.linux.resources.memory = {"limit": 33554432, "swap": 33554432}'
    expect_status 137
}
case_rootfs_propagation_is_not_shared_with_the_host() {
    mkdir "$T/rootfs/data/m"
    shell 'mount -t tmpfs tmpfs /data/m; grep -q " /data/m " /proc/mounts && echo mounted' '.process.capabilities.bounding += ["CAP_SYS_ADMIN"] | .process.capabilities.effective += ["CAP_SYS_ADMIN"] | .process.capabilities.permitted += ["CAP_SYS_ADMIN"]'
    expect_out mounted
    ! mountpoint -q "$T/rootfs/data/m" || fail "mounted on the host"
}
# Whoever forbids huge pages names all sizes that the host has.
case_huge_pages_can_be_forbidden() {
    shell 'echo there' '.linux.resources.hugepageLimits = [{pageSize: "2MB", limit: 0}, {pageSize: "1GB", limit: 0}, {pageSize: "64KB", limit: 0}]'
    expect_out there
}
case_a_unified_setting_is_written() {
    shell 'cat /sys/fs/cgroup/memory.high' '.linux.namespaces += [{type: "cgroup"}] | .mounts += [{destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"]}] | .linux.resources.unified = {"memory.high": "33554432"}'
    expect_out 33554432
}
case_an_unknown_unified_setting_is_an_error() {
    shell true '.linux.resources.unified = {"memory.none": "1"}'
    expect_failure
    expect_has "$err" memory.none
}
# throttled NUMBERS: a container whose writes of that device are bounded.
throttled() {
    config ".process.args = [\"sleep\", \"1000\"] | .linux.cgroupsPath = \"/conformance/$ID\" | .linux.resources.blockIO = {throttleWriteBpsDevice: [{major: ${1%:*}, minor: ${1#*:}, rate: 1048576}], throttleReadIOPSDevice: [{major: ${1%:*}, minor: ${1#*:}, rate: 50}]}"
}
# throttled_disk: a container with such bounds for a loop device; sets `numbers`.
throttled_disk() {
    truncate -s 16M "$T/disk"
    # Not local: the trap runs when the case is over.
    loop=$(losetup --find --show "$T/disk")
    trap 'runtime delete --force "$ID" >/dev/null 2>&1; losetup --detach "$loop"; rm -rf "$T"' EXIT
    numbers=$(lsblk --noheadings --nodeps --output MAJ:MIN "$loop" | tr -d ' ')
    throttled "$numbers"
    create || fail "$(cat "$T/err")"
}
case_a_device_of_the_host_is_throttled() {
    local numbers
    throttled_disk
    expect "$(cat "/sys/fs/cgroup/conformance/$ID/io.max")" "$numbers rbps=max wbps=1048576 riops=50 wiops=max"
}
# runc's `update` takes the weight alone of `blockIO`, and passes over the rest.
case_an_update_throttles_a_device_of_the_host() {
    local numbers
    throttled_disk
    echo "{\"blockIO\": {\"throttleWriteBpsDevice\": [{\"major\": ${numbers%:*}, \"minor\": ${numbers#*:}, \"rate\": 2097152}]}}" | runtime update --resources - "$ID"
    expect_has "$(cat "/sys/fs/cgroup/conformance/$ID/io.max")" wbps=2097152
}
case_a_throttled_device_that_is_not_there_is_an_error() {
    throttled 251:77
    ! create || fail "created"
    expect_has "$(cat "$T/err")" io.max
}
case_a_device_rule_without_an_access_is_an_error() {
    shell true '.linux.resources.devices = [{allow: false, access: "rwm"}, {allow: true, type: "c", major: 1, minor: 11}]'
    expect_failure
    expect_has "$err" "device access"
}
case_a_cgroup_that_may_be_written_is_the_users() {
    shell 'mkdir /sys/fs/cgroup/mine && echo 1 >/sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup' \
        '.process.user = {uid: 1000, gid: 1000} | .linux.namespaces += [{type: "cgroup"}] | .mounts += [{destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["rw"]}]'
    expect_has "$out" 0::/
    shell 'mkdir /sys/fs/cgroup/mine || echo refused' \
        '.process.user = {uid: 1000, gid: 1000} | .linux.namespaces += [{type: "cgroup"}] | .mounts += [{destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["ro"]}]'
    expect_out refused
}
case_an_empty_path_of_a_namespace_is_none() {
    shell 'echo $$; ls /sys/class/net' '.linux.namespaces |= map(.path = "")'
    expect_out "$(printf '1\nlo')"
}
