# Volumes that plugins make, by a plugin of the case's own.

SOCKET=/run/docker/plugins/t-plugin.sock

plugin_start() {
    mkdir -p "$T/plugin"
    python3 tests/lib/volume_plugin.py $SOCKET "$T/plugin" >"$T/plugin.log" 2>&1 &
    PLUGIN=$!
    disown $PLUGIN
    trap '[ $? = 0 ] || tail -n 20 "$T/plugin.log" "$T/plugin/calls" || true; hull ps -aq --filter "name=^t-" 2>/dev/null | xargs -r hull rm -f >/dev/null 2>&1; hull volume ls -q -f driver=t-plugin | xargs -r hull volume rm -f >/dev/null 2>&1; kill $PLUGIN 2>/dev/null || true; rm -rf "$T" $SOCKET' EXIT
    wait_for 20 curl -sf --unix-socket $SOCKET -X POST -o "$T/activated" http://x/Plugin.Activate || fail "no plugin: $(cat "$T/plugin.log")"
}

# The ids that have a volume mounted, as the plugin counts.
holders() { hull volume inspect -f '{{json .Status.ids}}' "$1"; }
calls() { grep -c "$1" "$T/plugin/calls" || true; }

case_a_plugins_volume_is_mounted_and_given_back() {
    plugin_start
    expect_eq "$(hull volume create -d t-plugin --label a=b -o colour=red t-far)" t-far name
    expect_eq "$(hull volume inspect -f '{{.Driver}} {{.Scope}} {{.Labels.a}} {{.Options.colour}} {{json .Status}}' t-far)" 't-plugin global b red {"ids":[]}' inspect
    expect_eq "$(hull volume ls -q -f driver=t-plugin)" t-far ls
    hull info -f '{{json .Plugins.Volume}}' >"$T/info"
    expect_eq "$(cat "$T/info")" '["local","t-plugin"]' info
    hull run --rm -v t-far:/data "$BUSYBOX" sh -c 'echo kept >/data/f'
    expect_eq "$(cat "$T/plugin/data/t-far/f")" kept 'on the host'
    expect_eq "$(calls Mount) $(calls Unmount)" '1 1' 'mounts and unmounts'
    # Two at once, one of which has it twice.
    local id
    id=$(hull run -d --name t-one -v t-far:/data -v t-far:/again:ro "$BUSYBOX" sleep 600)
    expect_eq "$(hull run --rm --volumes-from t-one "$BUSYBOX" cat /again/f)" kept content
    expect_eq "$(holders t-far)" "[\"$id\"]" holders
    expect_eq "$(hull inspect -f '{{range .Mounts}}{{.Driver}} {{.Source}} {{end}}' t-one)" "t-plugin $T/plugin/data/t-far t-plugin $T/plugin/data/t-far " mounts
    capture hull volume rm t-far
    expect_err_has 'volume is in use'
    hull rm -f t-one >/dev/null
    expect_eq "$(holders t-far)" '[]' 'holders after the end'
    expect_eq "$(hull volume rm t-far)" t-far rm
    expect_eq "$(calls Remove)" 1 'Remove'
}

case_a_container_makes_its_volume_by_a_plugin() {
    plugin_start
    hull run --rm -v t-v:/data --volume-driver t-plugin "$BUSYBOX" touch /data/by-v
    hull run --rm --mount type=volume,source=t-m,target=/data,volume-driver=t-plugin,volume-opt=colour=red "$BUSYBOX" touch /data/by-mount
    expect_eq "$(cd "$T/plugin/data" && ls -d t-v/by-v t-m/by-mount | tr '\n' ' ')" 't-m/by-mount t-v/by-v ' files
    expect_eq "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["t-m"]["options"])' "$T/plugin/state.json")" "{'colour': 'red'}" options
    # An empty one gets what the image has there.
    hull run --rm -v t-etc:/etc --volume-driver t-plugin "$BUSYBOX" true
    test -e "$T/plugin/data/t-etc/passwd" || fail 'nothing was copied'
    # One without a name goes with its container.
    hull run --rm -v /data --volume-driver t-plugin "$BUSYBOX" touch /data/f
    expect_eq "$(hull volume ls -q -f driver=t-plugin | wc -l)" 3 'volumes that stay'
    # What somebody else made by the plugin is found by its name alone.
    curl -sf --unix-socket $SOCKET -d '{"Name": "t-others"}' -o "$T/made" http://x/VolumeDriver.Create
    expect_eq "$(hull volume inspect -f '{{.Driver}}' t-others)" t-plugin inspect
    hull run --rm -v t-others:/data "$BUSYBOX" touch /data/f
    test -e "$T/plugin/data/t-others/f" || fail 'another volume was taken'
    # Copies boot a machine that has the volumes too.
    hull create --name t-copy -v t-v:/data "$BUSYBOX" true >/dev/null
    hull cp t-copy:/data/by-v "$T/copied"
    wait_for 20 sh -c "hull volume inspect -f '{{json .Status.ids}}' t-v | grep -qF '[]'" || fail 'the copy holds the volume'
    hull volume prune -af >/dev/null
    hull rm t-copy >/dev/null
    hull volume inspect t-others >/dev/null || fail "a plugin's volume was pruned"
}

case_a_killed_engine_gives_plugins_volumes_back() {
    plugin_start
    hull volume create -d t-plugin t-far >/dev/null
    hull run -d --name t-on -v t-far:/data "$BUSYBOX" sh -c 'while :; do date >/data/now; sleep 0.2; done' >/dev/null
    hull run -d --name t-end -v t-far:/data "$BUSYBOX" sleep 600 >/dev/null
    local kept ended
    kept=$(hull inspect -f '{{.Id}}' t-on) ended=$(hull inspect -f '{{.Id}}' t-end)
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    # One of them ends while nobody looks.
    pkill -9 -f "[c]ontainerd-shim-hull.*$ended"
    sleep 1
    hulld_start
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-on)" running state
    hull exec t-on cat /data/now >/dev/null
    wait_for 20 sh -c "[ \"\$(hull volume inspect -f '{{json .Status.ids}}' t-far)\" = '[\"$kept\"]' ]" || fail "held by $(holders t-far)"
    hull rm -f t-end >/dev/null
    # The plugin is away when the container ends: it is asked again later.
    kill -9 $PLUGIN
    hull rm -f t-on >/dev/null
    hull volume ls 2>/dev/null | grep -q t-far || fail 'a volume is forgotten while its plugin is away'
    plugin_start
    hull volume inspect t-far >/dev/null
    hull volume rm -f t-far >/dev/null
}

case_faults_of_plugins_are_told() {
    plugin_start
    capture hull volume create -d nosuch t-x
    expect_status 1
    expect_err_has 'create t-x: error looking up volume plugin nosuch: plugin "nosuch" not found'
    capture hull run --rm -v t-x:/data --volume-driver nosuch "$BUSYBOX" true
    expect_status 125
    expect_err_has 'plugin "nosuch" not found'
    capture hull volume create -d t-plugin -o size=no t-x
    expect_err_has 'create t-x: VolumeDriver.Create: no such size'
    hull volume create t-local >/dev/null
    capture hull volume create -d t-plugin t-local
    expect_err_has 'volume name must be unique'
    hull volume rm t-local >/dev/null
    hull volume create -d t-plugin -o fail=yes t-fail >/dev/null
    capture hull run --rm -v t-fail:/data "$BUSYBOX" true
    expect_status 125
    expect_err_has "error while mounting volume 't-fail': VolumeDriver.Mount: the disk is on fire"
    for answer in / relative /etc/../etc /nowhere /etc/passwd; do
        hull volume create -d t-plugin -o "answer=$answer" t-odd >/dev/null
        capture hull run --rm -v t-odd:/data "$BUSYBOX" true
        expect_status 125
        expect_err_has 'VolumeDriver.Mount: plugin "t-plugin" gave an answer that is none'
        hull volume rm t-odd >/dev/null
    done
    # A plugin that is gone: what it had can be forgotten.
    kill -9 $PLUGIN
    capture hull volume rm t-fail
    expect_status 1
    expect_err_has t-plugin
    hull volume rm -f t-fail >/dev/null
    expect_clean_host
}
