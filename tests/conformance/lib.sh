# Sourced by tests/conformance/run and, in each case's process, by the case itself, with $RUNTIME
# (a program with runc's command line) and $WORK (a folder of the run).

# make_root DIR: busybox as a root file system.
make_root() {
    local root=$1 applet
    mkdir -p "$root"/{bin,dev,etc,home/app,proc,root,sys,tmp,data}
    install -m755 /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"; done
    printf 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\napp:x:1000:\n' >"$root/etc/group"
    chmod 1777 "$root/tmp"
}

# Does nothing: `run` reads such lines.
differs() { :; }

run_case() {
    T=$(mktemp -d "$WORK/case.XXXXXX")
    ID=conformance-$$
    trap 'runtime delete --force "$ID" >/dev/null 2>&1; rm -rf "$T"' EXIT
    cp -a "$WORK/rootfs" "$T/rootfs"
    set -e
    "$1"
}

runtime() { "$RUNTIME" --root "$T/state" "$@"; }
fail() { echo "$*"; exit 1; }

# The base of all configurations; a case changes it by jq.
base_config() {
    cat <<'JSON'
{
  "ociVersion": "1.0.2",
  "process": {
    "terminal": false,
    "user": {"uid": 0, "gid": 0},
    "args": ["true"],
    "env": ["PATH=/bin"],
    "cwd": "/",
    "capabilities": {
      "bounding": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"],
      "effective": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"],
      "permitted": ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"]
    }
  },
  "root": {"path": "rootfs"},
  "hostname": "inside",
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
  ],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]
  }
}
JSON
}

# config JQ-FILTER: writes the bundle's config.json.
config() { base_config | jq "${1:-.}" >"$T/config.json"; }

# shell SCRIPT [JQ-FILTER]: runs a container whose process is `sh -c SCRIPT`. Leaves $out, $err,
# $status.
shell() {
    base_config | jq --arg script "$1" '.process.args = ["sh", "-c", $script]' | jq "${2:-.}" >"$T/config.json"
    status=0
    runtime run --bundle "$T" "$ID" >"$T/out" 2>"$T/err" </dev/null || status=$?
    out=$(cat "$T/out")
    err=$(cat "$T/err")
}

expect() { [ "$1" = "$2" ] || fail "${3:-value}: $(printf %q "$1") instead of $(printf %q "$2") ${err:+($err)}"; }
expect_out() { expect "$out" "$1" output; }
expect_status() { expect "$status" "$1" status; }
expect_failure() { [ "$status" != 0 ] || fail "no failure; output: $out"; }
expect_has() { [[ $1 == *"$2"* ]] || fail "no $(printf %q "$2") in $(printf %q "$1")"; }

status_of() { runtime state "$ID" | jq -r .status; }
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}
is_stopped() { [ "$(status_of)" = stopped ]; }
create() { runtime create --bundle "$T" "$@" "$ID" </dev/null >"$T/out" 2>"$T/err"; }
