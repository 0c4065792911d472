# The store of images: two who want the same, and whoever dies meanwhile.

# fresh NAME: an image in the registry that nobody has pulled.
fresh() {
    python3 - "$T/$1.tar" <<'PY'
import os, sys
sys.path.insert(0, "tests/lib")
import archives
archives.write_image(sys.argv[1], [archives.busybox_layer(), *(archives.layer(archives.entry(f"f{n}", data=os.urandom(400_000))) for n in range(3))])
PY
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci-archive:$T/$1.tar" "docker://$REGISTRY/$1:latest"
}

# The blob of the last layer of an image.
last_blob() {
    local digest
    digest=$(skopeo inspect --tls-verify=false "docker://$REGISTRY/$1:latest" | jq -r '.Layers[-1]')
    digest=${digest#sha256:}
    echo "$HARNESS/state/content/blobs/sha256/${digest:0:2}/$digest"
}

# Core.
case_two_pulls_of_one_image_at_once() {
    fresh twice
    hull pull -q "$REGISTRY/twice" >"$T/one" 2>&1 &
    local one=$!
    hull pull -q "$REGISTRY/twice" >"$T/two" 2>&1 || fail "the second: $(cat "$T/two")"
    wait $one || fail "the first: $(cat "$T/one")"
    expect_eq "$(hull run --rm "$REGISTRY/twice" sh -c 'cat /f0 /f1 /f2 | wc -c')" 1200000 'what it holds'
    hull rmi "$REGISTRY/twice" >/dev/null
    expect_clean_host
}

case_an_unpacker_that_is_killed_is_named_and_made_good() {
    local who
    fresh killed
    for who in '[h]ull-unpack' '[h]ull-vmm'; do
        hull pull -q "$REGISTRY/killed" >"$T/out" 2>"$T/err" &
        local pull=$!
        wait_for 20 pgrep -f "$who" >/dev/null || fail "no $who"
        pkill -9 -f "$who"
        wait $pull && fail "a pull without its $who"
        grep -q 'failed to unpack image' "$T/err" || fail "$who: $(cat "$T/err")"
    done
    # What a killed unpacker left, the next program of ours removes.
    expect_eq "$(hull run --rm "$REGISTRY/killed" sh -c 'cat /f0 /f1 /f2 | wc -c')" 1200000 'what it holds'
    expect_clean_host
    hull rmi "$REGISTRY/killed" >/dev/null
}

case_a_pull_goes_on_after_the_engine_was_killed() {
    fresh again
    hull pull -q "$REGISTRY/again" >/dev/null 2>&1 &
    local pull=$!
    wait_for 20 pgrep -f '[h]ull-unpack' >/dev/null || fail 'nothing is unpacked'
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    wait $pull && fail 'a pull without its engine'
    hulld_start
    expect_clean_host
    expect_eq "$(hull run --rm "$REGISTRY/again" sh -c 'cat /f0 /f1 /f2 | wc -c')" 1200000 'what it holds'
    hull rmi "$REGISTRY/again" >/dev/null
}

case_a_damaged_image_is_named_and_harms_no_other() {
    fresh damaged
    hull pull -q "$REGISTRY/damaged" >/dev/null
    local blob config
    blob=$(last_blob damaged)
    config=$(hull image inspect -f '{{.Id}}' "$REGISTRY/damaged")
    config=${config#sha256:}
    printf x | dd of="$blob" bs=1 seek=1000 conv=notrunc status=none
    capture hull save -o "$T/saved.tar" "$REGISTRY/damaged"
    [ "$status" != 0 ] || fail 'a damaged layer was saved'
    expect_err_has "$(basename "$blob")"
    expect_err_has 'hull doctor --repair'
    truncate -s 10 "$HARNESS/state/content/blobs/sha256/${config:0:2}/$config"
    hull images | grep -q busybox || fail 'one damaged image hides the others'
    capture hull run --rm "$REGISTRY/damaged" true
    [ "$status" != 0 ] || fail 'an image without its configuration ran'
    expect_err_has "$config"
    expect_eq "$(hull doctor --repair | grep -c 'pulled again')" 2 'repaired blobs'
    hull save "$REGISTRY/damaged" | tar -t >/dev/null
    # What no registry has is removed whatever is wrong with it.
    hull tag "$REGISTRY/damaged" t-damaged:local
    hull rmi "$REGISTRY/damaged" >/dev/null
    truncate -s 10 "$HARNESS/state/content/blobs/sha256/${config:0:2}/$config"
    capture hull doctor --repair
    [ "$status" != 0 ] || fail "repaired from nowhere: $out"
    hull rmi t-damaged:local >/dev/null
    hull doctor --repair | grep -q 'all images are whole' || fail "$(hull doctor --repair)"
}

case_an_image_of_another_platform_is_repaired_as_what_it_is() {
    python3 tests/lib/archives.py other_platforms "$T/other_platforms.tar"
    skopeo --insecure-policy copy --all --quiet --dest-tls-verify=false "oci-archive:$T/other_platforms.tar" "docker://$REGISTRY/foreign:latest"
    hull pull -q --platform linux/arm64/v8 "$REGISTRY/foreign" >/dev/null
    local blob
    blob=$(hull save "$REGISTRY/foreign" | tar -xO manifest.json | jq -r '.[0].Layers[-1]')
    blob=${blob##*/}
    rm "$HARNESS/state/content/blobs/sha256/${blob:0:2}/$blob"
    hull doctor --repair | grep -q 'pulled again' || fail 'not repaired'
    hull doctor --repair | grep -q 'all images are whole' || fail "$(hull doctor --repair)"
    expect_eq "$(hull image inspect -f '{{.Architecture}}' "$REGISTRY/foreign")" arm64 'what the name means'
    hull rmi "$REGISTRY/foreign" >/dev/null
}

case_unpacked_layers_that_are_cut_are_made_again() {
    fresh cut
    hull pull -q "$REGISTRY/cut" >/dev/null
    local data
    data=$(find "$HARNESS/state/erofs/2/layers" -name '*.data' -size +380k -newer "$T/cut.tar" | head -n 1)
    truncate -s -4096 "$data"
    expect_eq "$(hull run --rm "$REGISTRY/cut" sh -c 'cat /f0 /f1 /f2 | wc -c; sh -c "echo fine"')" $'1200000\nfine' 'after the repair, or it is named'
    hull rmi "$REGISTRY/cut" >/dev/null
}

case_a_pull_goes_on_after_the_engine_was_killed_while_it_downloads() {
    python3 tests/lib/bad_registry.py 5066 "$REGISTRY" &
    SLOW_REGISTRY=$!
    local pull delay
    trap 'kill "$SLOW_REGISTRY"; rm -rf "$T"' EXIT
    wait_for 10 curl -s -o /dev/null http://127.0.0.1:5066/v2/
    fresh slow
    for delay in 0.2 0.7 1.5 3; do
        hull pull -q 127.0.0.1:5066/slow/slow:latest >/dev/null 2>&1 &
        pull=$!
        sleep $delay
        kill -9 "$(cat "$HARNESS/hulld.pid")"
        wait $pull || true
        hulld_start
    done
    hull pull -q 127.0.0.1:5066/slow/slow:latest >/dev/null
    expect_eq "$(hull run --rm 127.0.0.1:5066/slow/slow sh -c 'cat /f0 /f1 /f2 | wc -c')" 1200000 'what it holds'
    hull rmi 127.0.0.1:5066/slow/slow >/dev/null
    expect_clean_host
}
