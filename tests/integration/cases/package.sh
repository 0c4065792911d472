# The Debian package: installed, upgraded and purged in a root of its own.

# Core.
case_package_leaves_nothing_behind() {
    command -v dpkg-deb >/dev/null || skip 'dpkg is not installed'
    local deb root=$T/root
    # Packing well is slow, and not what is looked at.
    deb=$(DPKG_DEB_COMPRESSOR_TYPE=none packaging/deb "$T")
    mkdir -p "$root/etc" "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/var/log"
    touch "$root/var/lib/dpkg/status" "$root/etc/group" "$root/etc/gshadow" "$root/etc/passwd"
    (cd "$root" && find . | sort) >"$T/before"
    own_dpkg() {
        dpkg --root="$root" --log=/dev/null --force-depends --force-script-chrootless "$@" >"$T/dpkg.log" 2>&1 || fail "dpkg $1: $(cat "$T/dpkg.log")"
    }
    own_dpkg -i "$deb"
    grep -q '^hull:' "$root/etc/group" || fail 'no group hull'
    for file in usr/bin/hull usr/bin/hulld usr/libexec/hull/hull-vmm usr/share/man/man1/hull-run.1.gz usr/share/man/man8/hulld.8.gz lib/systemd/system/hull.socket lib/systemd/system/hull-containers.service; do
        [ -s "$root/$file" ] || fail "no $file"
    done
    zcat "$root/usr/share/man/man1/hull-run.1.gz" | grep -q 'Make and start a container' || fail 'a page without its text'
    capture "$root/usr/bin/hulld" --validate --config-file "$root/usr/share/doc/hull/examples/hulld.json"
    expect_status 0
    if command -v systemd-analyze >/dev/null; then
        # The units of the system, which ours name, are not in this root.
        systemd-analyze verify --root="$root" "$root/lib/systemd/system/hull.service" "$root/lib/systemd/system/hull.socket" "$root/lib/systemd/system/hull-containers.service" >"$T/verified" 2>&1 || true
        if grep 'hull\.' "$T/verified" | grep -v 'Unit [a-z-]*\.target not found'; then fail 'the units'; fi
        echo 'Bogus=1' >>"$root/lib/systemd/system/hull.socket"
        systemd-analyze verify --root="$root" "$root/lib/systemd/system/hull.socket" 2>&1 | grep -q Bogus || fail 'units are not looked at'
    fi
    mkdir -p "$root/var/lib/hull" "$root/etc/hull"
    touch "$root/var/lib/hull/state" "$root/etc/hull/hulld.json"
    own_dpkg -i "$deb"
    [ -e "$root/var/lib/hull/state" ] || fail 'an upgrade removes the state'
    own_dpkg --remove hull
    [ -e "$root/var/lib/hull/state" ] || fail 'a removal is no purge'
    own_dpkg --purge hull
    if grep -q '^hull:' "$root/etc/group"; then fail 'the group is left'; fi
    (cd "$root" && find . ! -name '*-old' ! -path './var/lib/dpkg/*' ! -name '*-' | sort) >"$T/after"
    if comm -13 "$T/before" "$T/after" | grep .; then fail 'files are left'; fi
}

# What the scripts of the package tell systemd, and whom they end.
# Core.
case_package_starts_at_boot_and_ends_its_own_containers_alone() {
    command -v dpkg-deb >/dev/null || skip 'dpkg is not installed'
    [ ! -e /run/systemd/system ] || skip 'systemd runs here'
    local deb
    deb=$(DPKG_DEB_COMPRESSOR_TYPE=none packaging/deb "$T")
    dpkg-deb -e "$deb" "$T/scripts"
    mkdir -p "$T/fake"
    for program in hull systemctl groupadd; do
        printf '#!/bin/sh\necho "%s $*" >>"%s"\n[ "$3" != ps ] || echo one\n' "$program" "$T/told" >"$T/fake/$program"
        chmod +x "$T/fake/$program"
    done
    # A /run of their own: this machine's may be in use.
    in_a_system() {
        unshare --mount sh -c 'mount -t tmpfs none /run && mkdir -p /run/systemd/system /run/hull &&
            python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\"/run/hull/hull.sock\")" && exec "$@"' sh "$@"
    }
    in_a_system env DPKG_ROOT= PATH="$T/fake:$PATH" "$T/scripts/postinst" configure
    grep -q 'systemctl enable --now hull.socket' "$T/told" || fail "the socket: $(cat "$T/told")"
    grep -q 'systemctl enable hull.service' "$T/told" || fail "the service: $(cat "$T/told")"
    grep -q 'systemctl enable --now hull-containers.service' "$T/told" || fail "the stop at the end: $(cat "$T/told")"
    : >"$T/told"
    in_a_system env DPKG_ROOT= DOCKER_HOST=tcp://elsewhere:1 PATH="$T/fake:$PATH" "$T/scripts/prerm" remove
    expect_eq "$(grep ^hull "$T/told")" "hull -H unix:///run/hull/hull.sock ps -q
hull -H unix:///run/hull/hull.sock stop one" 'what is stopped'
    grep -q 'systemctl disable --now hull-containers.service hull.socket hull.service' "$T/told" || fail "at the end: $(cat "$T/told")"
}
