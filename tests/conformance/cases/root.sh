# config.md, Root and Mounts

case_the_root_is_writable() { shell 'echo x >/new; cat /new'; expect_out x; expect "$(cat "$T/rootfs/new")" x "on the host"; }
case_a_read_only_root() { shell 'echo x >/new || echo refused' '.root.readonly = true'; expect_out refused; }
case_a_missing_root_is_an_error() { shell true '.root.path = "none"'; expect_failure; }
case_the_default_devices() {
    shell 'for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; test -L /dev/ptmx -o -c /dev/ptmx || echo no ptmx; for l in fd stdin stdout stderr; do test -L /dev/$l || echo no $l; done'
    expect_out ""
}
case_a_bind_mount_of_a_directory() {
    mkdir "$T/shared"
    echo inside >"$T/shared/file"
    shell 'cat /data/file; echo back >/data/new' ".mounts += [{\"destination\": \"/data\", \"type\": \"bind\", \"source\": \"$T/shared\", \"options\": [\"rbind\", \"rw\"]}]"
    expect_out inside
    expect "$(cat "$T/shared/new")" back "on the host"
}
case_a_bind_mount_of_a_file() {
    echo hosts >"$T/hosts"
    shell 'cat /etc/hosts' ".mounts += [{\"destination\": \"/etc/hosts\", \"type\": \"bind\", \"source\": \"$T/hosts\", \"options\": [\"bind\", \"ro\"]}]"
    expect_out hosts
}
case_a_read_only_bind_mount() {
    mkdir "$T/shared"
    shell 'touch /data/x || echo refused' ".mounts += [{\"destination\": \"/data\", \"type\": \"bind\", \"source\": \"$T/shared\", \"options\": [\"rbind\", \"ro\"]}]"
    expect_out refused
}
case_a_mount_point_is_made() {
    shell 'grep -q " /a/b/c " /proc/mounts && echo mounted' '.mounts += [{"destination": "/a/b/c", "type": "tmpfs", "source": "tmpfs"}]'
    expect_out mounted
}
case_tmpfs_options() {
    shell 'grep " /data " /proc/mounts | cut -d " " -f 4 | tr , "\n" | grep -E "^(nosuid|nodev|noexec|size=.*|mode=.*)$" | sort | tr "\n" " "' '.mounts += [{"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "noexec", "size=128k", "mode=711"]}]'
    expect_out "mode=711 nodev noexec nosuid size=128k "
}
case_a_missing_bind_source_is_an_error() {
    shell true '.mounts += [{"destination": "/data", "type": "bind", "source": "/nonexistent/x", "options": ["bind"]}]'
    expect_failure
}
case_mounts_happen_in_their_order() {
    shell 'cat /data/sub/f' ".mounts += [{\"destination\": \"/data\", \"type\": \"tmpfs\", \"source\": \"tmpfs\"}, {\"destination\": \"/data/sub\", \"type\": \"bind\", \"source\": \"$T/rootfs/etc\", \"options\": [\"bind\"]}] | .process.args = [\"cat\", \"/data/sub/group\"]"
    expect_out "$(cat "$T/rootfs/etc/group")"
}
case_hostname() { shell hostname; expect_out inside; }
case_domainname() { shell 'cat /proc/sys/kernel/domainname' '.ociVersion = "1.1.0" | .domainname = "example.org"'; expect_out example.org; }
case_an_id_mapped_bind_mount() {
    mkdir "$T/volume"
    touch "$T/volume/roots" "$T/volume/users"
    chown 1000:1000 "$T/volume/users"
    local map='[{"containerID": 0, "hostID": 2000, "size": 10}, {"containerID": 1000, "hostID": 0, "size": 1}]'
    shell 'stat -c %u:%g /volume/roots /volume/users; touch /volume/new' \
        ".mounts += [{destination: \"/volume\", source: \"$T/volume\", options: [\"bind\"], uidMappings: $map, gidMappings: $map}]"
    expect_status 0
    expect_out "$(printf '2000:2000\n0:0')"
    expect "$(stat -c %u:%g "$T/volume/new")" 1000:1000 "whose a new file is"
}
# An image's /var/run is a link to its /run, which is a tmpfs by the time of the second mount.
case_a_mount_through_a_link_into_another_mount() {
    mkdir "$T/rootfs/var" "$T/rootfs/run"
    ln -s /run "$T/rootfs/var/run"
    echo content >"$T/token"
    shell 'cat /run/secrets/token; readlink /var/run; ls /run' \
        ".mounts += [{destination: \"/run\", type: \"tmpfs\", source: \"tmpfs\"}, {destination: \"/var/run/secrets/token\", source: \"$T/token\", options: [\"bind\", \"ro\"]}]"
    expect_out "$(printf 'content\n/run\nsecrets')"
    [ -z "$(ls "$T/rootfs/run")" ] || fail "the mount point was made below the tmpfs"
}
# flags_of DIRECTORY: the flags of the mount there, in $out (a container's /proc/self/mountinfo).
flags_of() { awk -v at="$1" '$5 == at {print $6}' <<<"$out"; }
case_recursive_mount_options() {
    local mounts=() option
    mkdir "$T/shared"
    for option in rro rnosuid rnodev rnoexec rnoatime rnodiratime rnosymfollow rstrictatime rrelatime; do
        mounts+=("{destination: \"/data/$option\", type: \"bind\", source: \"$T/shared\", options: [\"rbind\", \"$option\"]}")
    done
    for option in suid dev exec symfollow; do
        mounts+=("{destination: \"/data/r$option\", type: \"bind\", source: \"$T/shared\", options: [\"rbind\", \"no$option\", \"r$option\"]}")
    done
    mounts+=("{destination: \"/data/rrw\", type: \"bind\", source: \"$T/shared\", options: [\"rbind\", \"noexec\", \"rrw\"]}")
    shell 'cat /proc/self/mountinfo' ".mounts += [$(IFS=,; echo "${mounts[*]}")]"
    expect_status 0
    for option in ro nosuid nodev noexec noatime nodiratime nosymfollow relatime; do
        expect_has ",$(flags_of "/data/r$option")," ",$option,"
    done
    ! [[ $(flags_of /data/rstrictatime) == *atime* ]] || fail "$(flags_of /data/rstrictatime)"
    for option in suid dev exec symfollow; do
        ! [[ $(flags_of "/data/r$option") == *no$option* ]] || fail "r$option: $(flags_of "/data/r$option")"
    done
    expect_has ",$(flags_of /data/rrw)," ",rw,"
}
case_access_times_can_be_noted_again() {
    local option
    mkdir "$T/shared"
    for option in ratime rnostrictatime; do
        shell 'cat /proc/self/mountinfo' ".mounts += [{destination: \"/data\", type: \"bind\", source: \"$T/shared\", options: [\"rbind\", \"noatime\", \"$option\"]}]"
        expect_status 0
        expect_has ",$(flags_of /data)," ,relatime,
    done
}
case_rbind_is_an_option_and_no_type() {
    shell true '.mounts += [{destination: "/data", type: "rbind", source: "/"}]'
    expect_failure
}
case_a_root_without_a_mount_on_dev_has_the_default_devices() {
    touch "$T/rootfs/dev/of-the-image"
    shell 'echo x >/dev/null && head -c 4 /dev/zero | wc -c; cat /proc/version | wc -c; ls /dev/of-the-image' \
        '.mounts |= map(select(.destination | startswith("/dev") | not)) | .linux.maskedPaths = ["/proc/version"]'
    expect_out "$(printf '4\n0\n/dev/of-the-image')"
}
case_the_hosts_dev_has_the_default_devices() {
    shell 'echo x >/dev/null && head -c 4 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c' \
        '.mounts |= map(select(.destination | startswith("/dev") | not)) | .mounts += [{destination: "/dev", type: "bind", source: "/dev", options: ["rbind", "rslave"]}]'
    expect_out "$(printf '4\n2')"
    [ -c /dev/null ] && echo x >/dev/null || fail "the host's is spoilt"
}
case_a_bind_mount_has_the_flags_of_its_source() {
    mkdir "$T/source"
    mount -t tmpfs -o noexec,nosuid tmpfs "$T/source"
    trap 'runtime delete --force "$ID" >/dev/null 2>&1; umount "$T/source"; rm -rf "$T"' EXIT
    cp "$T/rootfs/bin/busybox" "$T/source/busybox"
    local bind="{destination: \"/data\", type: \"bind\", source: \"$T/source\", options: [\"rbind\"]}"
    shell '/data/busybox echo ran || echo refused; grep " /data " /proc/mounts' ".mounts += [$bind]"
    expect_has "$out" refused
    expect_has "$out" nosuid
}
