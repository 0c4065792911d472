# Images out of the store: push, save.

# Core.
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
