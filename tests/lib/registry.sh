# Sourced: a real registry on loopback for tests, and images put into it.

# Whether somebody listens on a port of loopback.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# registry_port PORT: the first free one from PORT on.
registry_port() {
    local port
    for ((port = $1; port < $1 + 100; port++)); do
        listens "$port" || { echo "$port"; return; }
    done
    echo "registry: no port from $1 on is free" >&2
    return 1
}

# registry_start PORT DIR: starts docker-registry with its storage in DIR, to be ended by registry_stop.
registry_start() {
    local port=$1 dir=$2 config
    # What is pushed must not land in a registry that is somebody's own.
    ! listens "$port" || { echo "registry: port $port of 127.0.0.1 is another program's" >&2; return 1; }
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
        kill -0 "$REGISTRY_PID" 2>/dev/null || break
        listens "$port" && return 0
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
