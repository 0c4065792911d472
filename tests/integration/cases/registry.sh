# Pulling from registries that are well, slow, lying or not there.

BAD=127.0.0.1:5066

bad_registry() {
    python3 tests/lib/bad_registry.py 5066 "$REGISTRY" &
    BAD_PID=$!
    trap 'kill $BAD_PID || true; hull images -q --filter "reference=$BAD/*/*" | xargs -r hull rmi -f >/dev/null 2>&1 || true; rm -rf "$T"' EXIT
    wait_for 10 sh -c "exec 3<>/dev/tcp/127.0.0.1/5066" 2>/dev/null || wait_for 10 python3 -c 'import socket; socket.create_connection(("127.0.0.1", 5066))'
}

# A fresh image, so that the store cannot have its blobs already.
fresh_image() {
    python3 - "$T/fresh.tar" <<'PY'
import os, sys
sys.path.insert(0, "tests/lib")
import archives
archives.write_image(sys.argv[1], [archives.busybox_layer(), archives.layer(archives.entry("f", data=os.urandom(400_000)))])
PY
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci-archive:$T/fresh.tar" "docker://$REGISTRY/fresh:latest"
}

pull_fails() {
    local reference=$1 word
    shift
    capture timeout 120 hull pull "$reference"
    [ "$status" != 0 ] && [ "$status" != 124 ] || fail "pull of $reference: status $status"
    for word; do
        grep -qiF -- "$word" "$T/err" || fail "the error does not name $word: $err"
    done
    expect_clean_host
}

case_registry_down() { pull_fails 127.0.0.1:5999/busybox:latest 127.0.0.1:5999; }

case_unknown_image_and_tag() {
    pull_fails "$REGISTRY/nothing:latest" nothing
    pull_fails "$REGISTRY/busybox:no-such-tag" no-such-tag
}

case_refusals_are_named() {
    bad_registry
    fresh_image
    pull_fails "$BAD/denied/fresh:latest" 'denied/fresh'
    pull_fails "$BAD/missing/fresh:latest" 'missing/fresh'
    pull_fails "$BAD/broken/fresh:latest" '500'
    pull_fails "$BAD/always429/fresh:latest" 'limits the rate' '429'
}

case_damaged_blobs_are_refused() {
    bad_registry
    fresh_image
    pull_fails "$BAD/cut/fresh:latest" sha256:
    pull_fails "$BAD/wrong/fresh:latest" sha256:
    hull pull -q "$REGISTRY/fresh:latest" >/dev/null
    hull run --rm "$REGISTRY/fresh:latest" true
    hull rmi "$REGISTRY/fresh:latest" >/dev/null
}

case_rate_limit_is_waited_out() {
    bad_registry
    fresh_image
    hull pull -q "$BAD/limited/fresh:latest"
    curl -s "http://$BAD/_log" | awk '/ 429 /{if (last && $1 - last < 0.95) exit 1; last = $1}'
}

case_broken_download_is_resumed() {
    bad_registry
    fresh_image
    hull pull -q "$BAD/resume/fresh:latest"
    local sent size
    sent=$(curl -s "http://$BAD/_log" | awk '/blobs/{s += $5} END{print s}')
    size=$(stat -c %s "$T/fresh.tar")
    [ "$sent" -lt $((size * 12 / 10)) ] || fail "$sent bytes sent for an image of $size"
}

case_token_flow() {
    bad_registry
    fresh_image
    hull pull -q "$BAD/token/fresh:latest"
    hull run --rm "$BAD/token/fresh:latest" true
}

case_damaged_images_are_repaired() {
    fresh_image
    hull pull -q "$REGISTRY/fresh:latest" >/dev/null
    hull doctor --repair | grep -q 'all images are whole' || fail "before: $(hull doctor --repair)"
    local blob
    blob=$(find "$HARNESS/state/content/blobs" -type f -size +300k -newer "$T/fresh.tar" | head -n 1)
    printf x | dd of="$blob" bs=1 seek=1000 conv=notrunc status=none
    hull doctor --repair >"$T/repair" || fail "$(cat "$T/repair")"
    grep -q "damaged sha256:$(basename "$blob").*pulled again" "$T/repair" || fail "$(cat "$T/repair")"
    rm "$blob"
    hull doctor --repair | grep -q "missing sha256:$(basename "$blob").*pulled again" || fail 'a blob that is gone'
    expect_eq "$(sha256sum <"$blob" | cut -d' ' -f1)" "$(basename "$blob")" 'what was pulled again'
    hull rmi "$REGISTRY/fresh:latest" >/dev/null
}
