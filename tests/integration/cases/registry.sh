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
    expect_status 125
    for word; do
        grep -qiF -- "$word" "$T/err" || fail "the error does not name $word: $err"
    done
    capture timeout 120 hull run --rm "$reference" true
    expect_status 125
    for word; do
        grep -qiF -- "$word" "$T/err" || fail "the error of run does not name $word: $err"
    done
    expect_clean_host
}

# Core.
case_registry_down() { pull_fails 127.0.0.1:5999/busybox:latest 127.0.0.1:5999; }

# Core.
case_unknown_image_and_tag() {
    pull_fails "$REGISTRY/nothing:latest" nothing
    pull_fails "$REGISTRY/busybox:no-such-tag" no-such-tag
}

case_a_configuration_of_docker_that_names_no_helper_and_proxies() {
    export DOCKER_CONFIG=$T/docker
    mkdir "$DOCKER_CONFIG"
    echo '{"credsStore": "hull-none", "proxies": {"default": {"httpProxy": "http://proxy:1", "noProxy": "own"}}}' >"$DOCKER_CONFIG/config.json"
    capture hull pull -q "$REGISTRY/busybox"
    expect_status 0
    expect_err_has 'docker-credential-hull-none'
    expect_eq "$(hull run --rm -e NO_PROXY=mine "$BUSYBOX" env | grep -i proxy | sort)" "$(printf 'HTTP_PROXY=http://proxy:1\nNO_PROXY=mine\nhttp_proxy=http://proxy:1\nno_proxy=own')" 'proxies'
    capture hull push "$REGISTRY/busybox@sha256:$(printf '%064d' 0)"
    expect_err_has 'cannot push a digest reference'
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

# Core.
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

# An authority of our own, a certificate for an address, and one for a client: ca.crt, server.*, client.*.
certificates() {
    local address=$1 name
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout "$T/ca.key" -out "$T/ca.crt" 2>/dev/null
    for name in server client; do
        openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$T/$name.key" -out "$T/$name.csr" 2>/dev/null
        openssl x509 -req -days 2 -in "$T/$name.csr" -CA "$T/ca.crt" -CAkey "$T/ca.key" -CAcreateserial \
            -extfile <(echo "subjectAltName=IP:$address") -out "$T/$name.cert" 2>/dev/null
    done
}

# tls_registry ADDRESS PORT [TLS-SETTING]: one that wants TLS and the password "secret" of "me".
tls_registry() {
    echo 'me:$2b$06$/XFvZJnrNnZmXMne6JVp8O7BDfQDJMueSf3EVYtYQ.TxkuScVBc8a' >"$T/htpasswd"
    cat >"$T/$2.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $T/data-$2}}
http: {addr: "$1:$2", tls: {certificate: $T/server.cert, key: $T/server.key${3:+, $3}}}
auth: {htpasswd: {realm: test, path: $T/htpasswd}}
END
    docker-registry serve "$T/$2.yml" >"$T/$2.log" 2>&1 &
    registries+=($!)
    wait_for 20 python3 -c "import socket; socket.create_connection(('$1', $2))" 2>/dev/null || fail "$(cat "$T/$2.log")"
}

case_a_registry_with_tls_shows_its_certificate_and_wants_ours() {
    local address folder
    registries=() # for the trap, which runs when locals are gone
    address=$(ip -4 -o addr show scope global | awk 'NR == 1 { sub("/.*", "", $4); print $4 }')
    [ -n "$address" ] || skip 'this machine has no address but loopback'
    folder=/etc/hull/certs.d/$address:5443
    trap 'kill "${registries[@]}"; rm -rf "$folder" "$T"; hull images -q --filter "reference=*:544[34]/*" | xargs -r hull rmi -f >/dev/null 2>&1 || true' EXIT
    export DOCKER_CONFIG=$T/docker
    certificates "$address"
    tls_registry "$address" 5443 "clientcas: [$T/ca.crt]"
    hull tag "$BUSYBOX" "$address:5443/x:one"
    pull_fails "$address:5443/y" UnknownIssuer
    mkdir -p "$folder"
    cp "$T/ca.crt" "$folder/"
    pull_fails "$address:5443/y" 'fatal alert'
    cp "$T/client.cert" "$folder/"
    pull_fails "$address:5443/y" 'client.key" is missing'
    cp "$T/client.key" "$folder/"
    pull_fails "$address:5443/y" 'denied access'
    # A helper keeps the password, as docker's configuration says.
    mkdir -p "$T/bin" "$T/docker"
    cat >"$T/bin/docker-credential-t" <<END
#!/bin/sh
case \$1 in
    store) cat >$T/kept ;;
    get) [ -e $T/kept ] && cat $T/kept || { echo credentials not found in native keychain; exit 1; } ;;
    erase) rm $T/kept ;;
esac
END
    chmod +x "$T/bin/docker-credential-t"
    PATH=$T/bin:$PATH
    echo "{\"credHelpers\":{\"$address:5443\":\"t\"}}" >"$T/docker/config.json"
    echo secret | hull login -u me --password-stdin "$address:5443" | grep -q 'Login Succeeded' || fail login
    grep -q secret "$T/kept" || fail "the helper has $(cat "$T/kept")"
    ! grep -q "$(printf me:secret | base64)" "$T/docker/config.json" || fail 'the password is in the file'
    hull push -q "$address:5443/x:one" >/dev/null
    hull rmi "$address:5443/x:one" >/dev/null
    hull pull -q "$address:5443/x:one" >/dev/null
    hull logout "$address:5443" >/dev/null
    [ ! -e "$T/kept" ] || fail 'kept after logout'
    # On loopback nobody has to vouch for it.
    tls_registry 127.0.0.1 5444
    echo secret | hull login -u me --password-stdin 127.0.0.1:5444 | grep -q 'Login Succeeded' || fail 'login on loopback'
    hull tag "$BUSYBOX" 127.0.0.1:5444/x:one
    hull push -q 127.0.0.1:5444/x:one >/dev/null
}

# Core.
case_a_mirror_is_asked_first() {
    hulld_stop
    hulld_start --registry-mirror "mirrored.example=http://$REGISTRY" --registry-mirror http://127.0.0.1:5998
    trap 'hull rmi mirrored.example/busybox >/dev/null 2>&1 || true; hulld_stop; hulld_start' EXIT
    hull pull -q mirrored.example/busybox >/dev/null
    expect_eq "$(hull images -q mirrored.example/busybox)" "$(hull images -q "$BUSYBOX")" 'the image of a mirror'
    expect_eq "$(hull info --format '{{json .RegistryConfig.Mirrors}}')" '["http://127.0.0.1:5998/"]' 'mirrors of Docker Hub'
    pull_fails mirrored.example/nosuch mirrored.example
}

# Beyond loopback only a registry that is named as insecure is spoken to without TLS.
case_a_registry_without_tls_is_named_as_insecure() {
    local address
    registries=() # for the trap, which runs when locals are gone
    address=$(ip -4 -o addr show scope global | awk 'NR == 1 { sub("/.*", "", $4); print $4 }')
    [ -n "$address" ] || skip 'this machine has no address but loopback'
    cat >"$T/plain.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $T/data-plain}}
http: {addr: "$address:5010"}
END
    docker-registry serve "$T/plain.yml" >"$T/plain.log" 2>&1 &
    registries+=($!)
    trap 'kill "${registries[@]}"; rm -rf "$T"; hull images -q --filter "reference=*:5010/*" | xargs -r hull rmi -f >/dev/null 2>&1 || true; kill -9 "$(cat "$HARNESS/hulld.pid")"; sleep 1; hulld_start' EXIT
    wait_for 20 curl -s -o /dev/null "http://$address:5010/v2/" || fail "$(cat "$T/plain.log")"
    pull_fails "$address:5010/x:one" "$address:5010"
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start --insecure-registry "$address:5010"
    hull tag "$BUSYBOX" "$address:5010/x:one"
    hull push -q "$address:5010/x:one" >/dev/null
    hull rmi "$address:5010/x:one" >/dev/null
    expect_eq "$(hull run --rm "$address:5010/x:one" echo plain 2>/dev/null)" plain 'pulled without TLS'
}

case_an_identity_token_is_changed_for_an_access_token() {
    bad_registry
    fresh_image
    export DOCKER_CONFIG=$T/docker
    mkdir "$DOCKER_CONFIG"
    pull_fails "$BAD/identity/fresh:latest" 'denied access'
    echo "{\"auths\":{\"$BAD\":{\"identitytoken\":\"of-me\"}}}" >"$DOCKER_CONFIG/config.json"
    hull pull -q "$BAD/identity/fresh:latest" >/dev/null
}

case_a_token_that_ends_is_asked_for_anew() {
    bad_registry
    fresh_image
    hull pull -q "$BAD/expires/fresh:latest" >/dev/null
    [ "$(curl -s "http://$BAD/_log" | grep -c ' /token')" -ge 2 ] || fail "$(curl -s "http://$BAD/_log")"
}

case_a_manifest_of_docker_is_pulled_and_pushed() {
    skopeo --insecure-policy copy --quiet --format v2s2 --dest-tls-verify=false "oci:$IMAGES/busybox:latest" "docker://$REGISTRY/schema2:one"
    skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/schema2:one" | grep -q 'docker.distribution.manifest.v2' || fail 'skopeo made something else'
    hull pull -q "$REGISTRY/schema2:one" >/dev/null
    expect_eq "$(hull run --rm "$REGISTRY/schema2:one" echo ran)" ran 'an image of docker'
    hull tag "$REGISTRY/schema2:one" "$REGISTRY/schema2:two"
    hull push -q "$REGISTRY/schema2:two" >/dev/null
    expect_eq "$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$REGISTRY/schema2:two")" \
        "$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$REGISTRY/schema2:one")" 'the same manifest'
    hull rmi "$REGISTRY/schema2:one" "$REGISTRY/schema2:two" >/dev/null
}
