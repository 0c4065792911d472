# Images out of the store: push, save.

case_a_pushed_image_comes_back() {
    hull run --name t-push "$BUSYBOX" sh -c 'echo pushed >/pushed' >/dev/null
    hull commit t-push "$REGISTRY/pushed:one" >/dev/null
    hull push "$REGISTRY/pushed:one" >"$T/push"
    grep -q 'digest: sha256:' "$T/push" || fail "$(cat "$T/push")"
    local digest
    digest=$(sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' "$T/push")
    expect_eq "$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$REGISTRY/pushed:one")" "$digest" digest
    # It is known by that digest here, too.
    expect_eq "$(hull image inspect -f '{{index .RepoDigests 0}}' "$REGISTRY/pushed:one")" "$REGISTRY/pushed@$digest" 'the digest of what was pushed'
    hull rm t-push >/dev/null
    hull rmi "$REGISTRY/pushed:one" >/dev/null
    expect_eq "$(hull run --rm "$REGISTRY/pushed:one" cat /pushed)" pushed 'pulled again'
    # A second time nothing is sent.
    hull push "$REGISTRY/pushed:one" | grep -q 'Layer already exists' || fail 'sent twice'
    capture hull push "$REGISTRY/no-such:tag"
    [ "$status" != 0 ] || fail 'pushed what is not there'
    expect_err_has 'does not exist locally'
    hull tag "$REGISTRY/pushed:one" 127.0.0.1:9/pushed:one
    capture hull push 127.0.0.1:9/pushed:one
    [ "$status" != 0 ] || fail 'pushed to nobody'
    hull rmi 127.0.0.1:9/pushed:one "$REGISTRY/pushed:one" >/dev/null
}

case_a_saved_image_is_loaded_by_others() {
    hull tag "$BUSYBOX" saved:one
    hull save -o "$T/saved.tar" saved:one
    for name in manifest.json index.json oci-layout; do
        tar -tf "$T/saved.tar" | grep -qx "$name" || fail "no $name"
    done
    skopeo copy -q "docker-archive:$T/saved.tar:saved:one" "dir:$T/dir"
    mkdir "$T/layout" && tar -C "$T/layout" -xf "$T/saved.tar"
    skopeo inspect "oci:$T/layout:one" >/dev/null
    hull rmi saved:one >/dev/null
    hull save "$BUSYBOX" | hull load -q >/dev/null
    hull load -q -i "$T/saved.tar" >/dev/null
    expect_eq "$(hull run --rm saved:one echo loaded)" loaded loaded
    hull rmi saved:one >/dev/null
    capture hull save -o "$T/x" no/such:image
    [ "$status" != 0 ] || fail 'saved what is not there'
}

case_a_registry_with_a_password() {
    # The password is "secret".
    echo 'me:$2b$06$/XFvZJnrNnZmXMne6JVp8O7BDfQDJMueSf3EVYtYQ.TxkuScVBc8a' >"$T/htpasswd"
    cat >"$T/auth.yml" <<X
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $T/auth-data}}
http: {addr: "127.0.0.1:5011"}
auth: {htpasswd: {realm: test, path: $T/htpasswd}}
X
    docker-registry serve "$T/auth.yml" >"$T/auth.log" 2>&1 &
    local registry=$!
    trap "kill $registry; hull rmi 127.0.0.1:5011/x:one >/dev/null 2>&1 || true; rm -rf '$T'" EXIT
    wait_for 10 curl -s -o /dev/null http://127.0.0.1:5011/ || fail "no registry: $(cat "$T/auth.log")"
    export DOCKER_CONFIG=$T/docker
    hull tag "$BUSYBOX" 127.0.0.1:5011/x:one
    capture hull push 127.0.0.1:5011/x:one
    [ "$status" != 0 ] || fail 'pushed without a password'
    capture sh -c 'echo wrong | hull login -u me --password-stdin 127.0.0.1:5011'
    [ "$status" != 0 ] || fail 'logged in with a wrong password'
    [ ! -e "$DOCKER_CONFIG/config.json" ] || fail 'a wrong password is kept'
    echo secret | hull login -u me --password-stdin 127.0.0.1:5011 | grep -q 'Login Succeeded'
    expect_eq "$(stat -c %a "$DOCKER_CONFIG/config.json")" 600 'mode of the credentials'
    hull push -q 127.0.0.1:5011/x:one >/dev/null
    hull rmi 127.0.0.1:5011/x:one >/dev/null
    hull pull -q 127.0.0.1:5011/x:one >/dev/null
    hull logout 127.0.0.1:5011 >/dev/null
    hull rmi 127.0.0.1:5011/x:one >/dev/null
    capture hull pull 127.0.0.1:5011/x:one
    [ "$status" != 0 ] || fail 'pulled after logout'
}

# What Hull made, pushed and saved is read by umoci, file by file.
case_umoci_reads_what_hull_pushes_and_saves() {
    hull run --name t-umoci "$BUSYBOX" sh -c 'echo x >/own; ln /own /also; ln -s a//b /odd; mkdir -p /d; chmod 2750 /d; chown 7:8 /own; rm /etc/group' >/dev/null
    hull commit t-umoci "$REGISTRY/umoci:one" >/dev/null
    hull push -q "$REGISTRY/umoci:one" >/dev/null
    skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$REGISTRY/umoci:one" "oci:$T/pushed:one"
    mkdir "$T/saved" && hull save "$REGISTRY/umoci:one" | tar -C "$T/saved" -x
    local from
    for from in pushed saved; do
        umoci unpack --image "$T/$from:one" "$T/$from.bundle" >"$T/log" 2>&1 || fail "$from: $(tail -n 5 "$T/log")"
        python3 tests/lib/facts.py "$T/$from.bundle/rootfs" >"$T/$from.facts"
        grep -q "'/*own' 100644 7:8" "$T/$from.facts" || fail "$(grep own "$T/$from.facts")"
        expect_eq "$(readlink "$T/$from.bundle/rootfs/odd")" a//b 'the target of a link'
        [ ! -e "$T/$from.bundle/rootfs/etc/group" ] || fail 'a file that was removed'
    done
    diff "$T/pushed.facts" "$T/saved.facts" || fail 'pushed and saved differ'
    hull rm t-umoci >/dev/null
    hull rmi "$REGISTRY/umoci:one" >/dev/null
}

# Another repository of the registry has the layers: nothing is sent.
case_layers_of_another_repository_are_mounted() {
    hull tag "$BUSYBOX" "$REGISTRY/mounted/$$:one"
    hull push "$REGISTRY/mounted/$$:one" >"$T/push"
    grep -q Mounted "$T/push" || fail "$(cat "$T/push")"
    ! grep -q Pushed "$T/push" || fail "a layer was sent: $(cat "$T/push")"
    hull rmi "$REGISTRY/mounted/$$:one" >/dev/null
    expect_eq "$(hull run --rm "$REGISTRY/mounted/$$:one" echo ran)" ran 'pulled again'
    hull rmi "$REGISTRY/mounted/$$:one" >/dev/null
}

# A blob that takes longer to send than a download may be silent (30 s): on a slow line, or at a slow registry.
case_a_push_takes_as_long_as_it_takes() {
    python3 tests/lib/slow_proxy.py 5067 "$REGISTRY_PORT" 262144 &
    SLOW_PROXY=$!
    local slow=127.0.0.1:5067/slow-push:one
    trap 'kill "$SLOW_PROXY"; hull rm -f t-slow >/dev/null 2>&1 || true; hull rmi 127.0.0.1:5067/slow-push:one >/dev/null 2>&1 || true; rm -rf "$T"' EXIT
    wait_for 10 curl -s -o /dev/null http://127.0.0.1:5067/v2/
    hull run --name t-slow "$BUSYBOX" sh -c 'head -c 12000000 /dev/urandom >/noise' >/dev/null
    hull commit t-slow $slow >/dev/null
    capture timeout 200 hull push $slow
    expect_status 0
    skopeo inspect --tls-verify=false "docker://$REGISTRY/slow-push:one" >/dev/null || fail 'it is not there'
}
