# Sourced: a real registry on loopback for tests, and images put into it.

# registry_start PORT DIR: starts docker-registry with its storage in DIR; stops it at exit.
registry_start() {
    local port=$1 dir=$2 config
    mkdir -p "$dir"
    config=$dir/config.yml
    cat >"$config" <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/data}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port"}
YML
    docker-registry serve "$config" >"$dir/log" 2>&1 &
    REGISTRY_PID=$!
    local _
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return 0
        kill -0 "$REGISTRY_PID" 2>/dev/null || break
        sleep 0.1
    done
    echo "registry: did not start; its log:" >&2
    cat "$dir/log" >&2
    return 1
}

registry_stop() {
    [ -z "${REGISTRY_PID:-}" ] || kill "$REGISTRY_PID" 2>/dev/null || true
}

# registry_push LAYOUT REFERENCE: puts an OCI layout's `latest` into the registry.
registry_push() {
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$1:latest" "docker://$2"
}
