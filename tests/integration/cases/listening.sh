# Where hulld can be reached: TCP with certificates, systemd's sockets; its configuration file.

# A daemon of the case's own, with the given arguments.
own_hulld() {
    O=$(mktemp -d /run/hull-own.XXXX)
    hulld --root "$T/root" --exec-root "$O" "$@" >"$T/hulld.log" 2>&1 &
    OWN=$!
    trap 'kill $OWN 2>/dev/null; wait $OWN 2>/dev/null || true; rm -rf "$T" "$O"' EXIT
}

# An authority and certificates of it for a server on 127.0.0.1 and for a client.
certificates() {
    (
        cd "$T"
        new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1-key.pem" -subj "/CN=$1" "${@:2}" 2>/dev/null; }
        new ca -x509 -days 2 -out ca.pem
        new other -x509 -days 2 -out other.pem
        for name in server client; do
            new $name -out $name.csr
            printf 'subjectAltName=IP:127.0.0.1\n' >$name.ext
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile $name.ext -out $name.pem 2>/dev/null
        done
    )
}

# Core.
case_listening_tcp_wants_certificates() {
    command -v openssl >/dev/null || skip 'openssl is not installed'
    certificates
    own_hulld -H tcp://127.0.0.1:24376 --tlsverify --tlscacert "$T/ca.pem" --tlscert "$T/server.pem" --tlskey "$T/server-key.pem"
    local url=https://127.0.0.1:24376/_ping
    wait_for 20 curl -sf --cacert "$T/ca.pem" --cert "$T/client.pem" --key "$T/client-key.pem" -o "$T/answer" $url || fail "$(cat "$T/hulld.log")"
    expect_eq "$(cat "$T/answer")" OK answer
    ! curl -sf -m 5 --cacert "$T/ca.pem" $url || fail 'a client without a certificate was let in'
    ! curl -sf -m 5 --cacert "$T/ca.pem" --cert "$T/other.pem" --key "$T/other-key.pem" $url || fail "another authority's client was let in"
    ! curl -sf -m 5 http://127.0.0.1:24376/_ping || fail 'a client without TLS was let in'
    if command -v docker >/dev/null; then
        expect_eq "$(docker --tlsverify --tlscacert "$T/ca.pem" --tlscert "$T/client.pem" --tlskey "$T/client-key.pem" -H tcp://127.0.0.1:24376 version -f '{{.Server.Os}}')" linux docker
    fi
}

# A browser on this machine sends what a page asks it to.
case_listening_tcp_is_nothing_for_web_pages() {
    local url=http://127.0.0.1:24375
    own_hulld -H tcp://127.0.0.1:24375
    wait_for 20 curl -sf -o /dev/null $url/_ping || fail "$(cat "$T/hulld.log")"
    asked() { curl -s -o "$T/answer" -w '%{http_code}' -X POST "$@"; }
    expect_eq "$(asked -H 'Origin: http://page.example' $url/containers/prune)" 403 'a page'
    expect_eq "$(asked -H 'Content-Type:' -d '{"Name":"t-page"}' $url/volumes/create)" 400 'a body without a name'
    grep -q 'mime: no media type' "$T/answer" || fail "$(cat "$T/answer")"
    expect_eq "$(asked $url/containers/prune)" 200 'a client'
    # hull itself.
    hull -H tcp://127.0.0.1:24375 volume create t-own >/dev/null
    hull -H tcp://127.0.0.1:24375 volume rm t-own >/dev/null
}

case_listening_is_refused_where_it_is_unsafe() {
    capture timeout 20 hulld --root "$T/r" --exec-root "$T/e" -H tcp://0.0.0.0:24377
    expect_status 1
    expect_err_has --tlsverify
    capture timeout 20 hulld --root "$T/r" --exec-root "$T/e" -H fd://
    expect_status 1
    expect_err_has hull.socket
    capture timeout 20 hulld --root "$T/r" --exec-root "$T/e" -H ssh://x
    expect_status 1
    expect_err_has 'unix:///path'
}

# Core.
case_listening_on_a_socket_that_was_handed_over() {
    O=$(mktemp -d /run/hull-own.XXXX)
    trap 'kill $OWN 2>/dev/null; wait $OWN 2>/dev/null || true; rm -rf "$T" "$O"' EXIT
    python3 -c '
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
if s.fileno() != 3: os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp("hulld", ["hulld", "-H", "fd://", "--root", sys.argv[2], "--exec-root", sys.argv[3]])
' "$O/given.sock" "$T/root" "$O" >"$T/hulld.log" 2>&1 &
    OWN=$!
    wait_for 20 curl -sf --unix-socket "$O/given.sock" -o "$T/answer" http://x/_ping || fail "$(cat "$T/hulld.log")"
    expect_eq "$(cat "$T/answer")" OK answer
}

case_listening_configuration_file() {
    echo '{"hosts": ["unix://'"$T"'/a.sock"], "debug": true}' >"$T/ok.json"
    capture hulld --validate --config-file "$T/ok.json"
    expect_status 0
    expect_out 'configuration OK
'
    echo '{"hostss": []}' >"$T/bad.json"
    capture hulld --validate --config-file "$T/bad.json"
    expect_status 1
    expect_err_has 'unknown field `hostss`'
    capture hulld --validate --config-file "$T/ok.json" -D
    expect_status 1
    expect_err_has 'debug is set both'
    capture hulld --validate --config-file packaging/hulld.json
    expect_status 0
    # What could not be served is wrong.
    wrong() {
        echo "$1" >"$T/wrong.json"
        capture hulld --validate --config-file "$T/wrong.json"
        expect_status 1
        expect_err_has "$2"
    }
    wrong '{"group": "nosuch"}' 'no group "nosuch"'
    wrong '{"tlsverify": true, "tlscacert": "/nowhere/ca.pem"}' /nowhere/ca.pem
    wrong '{"tlscert": "/nowhere/cert.pem"}' tlsverify
    wrong '{"insecure-registries": ["http://reg:5000"]}' '"http://reg:5000" is not HOST'
    wrong '{"insecure-registries": [""]}' 'is not HOST'
    echo '{"insecure-registries": ["reg:5000", "10.0.0.1:5000", "reg.example", "[::1]:5000"]}' >"$T/ok.json"
    capture hulld --validate --config-file "$T/ok.json"
    expect_status 0
}

# A socket from systemd is as open as one of hulld's own.
# Core.
case_listening_on_a_handed_over_tcp_socket_is_refused_where_it_is_unsafe() {
    capture timeout 20 python3 -c '
import os, socket, sys
s = socket.socket(); s.bind(("0.0.0.0", 24378)); s.listen()
if s.fileno() != 3: os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp("hulld", ["hulld", "-H", "fd://", "--root", sys.argv[1], "--exec-root", sys.argv[2]])
' "$T/r" "$T/e"
    expect_status 1
    expect_err_has --tlsverify
}

case_listening_by_contexts() {
    command -v openssl >/dev/null || skip 'openssl is not installed'
    certificates
    own_hulld -H tcp://127.0.0.1:24376 -H "unix://$T/own.sock" --tlsverify --tlscacert "$T/ca.pem" --tlscert "$T/server.pem" --tlskey "$T/server-key.pem"
    wait_for 20 hull -H "unix://$T/own.sock" version >/dev/null 2>&1 || fail "$(cat "$T/hulld.log")"
    local id tls=(--tlscacert "$T/ca.pem" --tlscert "$T/client.pem" --tlskey "$T/client-key.pem")
    id=$(hull -H "unix://$T/own.sock" info -f '{{.ID}}')
    [ "$id" != "$(hull info -f '{{.ID}}')" ] || fail 'one engine under two addresses'
    expect_eq "$(hull -H tcp://127.0.0.1:24376 --tlsverify "${tls[@]}" info -f '{{.ID}}')" "$id" 'by TLS'
    capture hull -H tcp://127.0.0.1:24376 --tlscacert "$T/other.pem" info
    expect_status 1
    capture hull -H tcp://127.0.0.1:24376 --tlscacert "$T/ca.pem" ps
    expect_status 1
    # Contexts are docker's.
    export DOCKER_CONFIG=$T/docker
    expect_eq "$(hull context create lab --description words --docker "host=tcp://127.0.0.1:24376,ca=$T/ca.pem,cert=$T/client.pem,key=$T/client-key.pem" 2>/dev/null)" lab create
    expect_eq "$(env -u HULL_HOST hull --context lab info -f '{{.ID}}')" "$id" 'by a context'
    expect_eq "$(env -u HULL_HOST DOCKER_CONTEXT=lab hull info -f '{{.ID}}')" "$id" 'by DOCKER_CONTEXT'
    hull context use lab >/dev/null 2>&1
    expect_eq "$(env -u HULL_HOST hull info -f '{{.ID}}')" "$id" 'the context in use'
    expect_eq "$(env -u HULL_HOST hull context ls -q | tr '\n' ' ')" 'default lab ' list
    expect_eq "$(env -u HULL_HOST hull context inspect -f '{{.Endpoints.docker.Host}}')" tcp://127.0.0.1:24376 inspect
    # The environment comes first.
    expect_eq "$(hull info -f '{{.ID}}')" "$(hull -H "$HULL_HOST" info -f '{{.ID}}')" 'HULL_HOST'
    if command -v docker >/dev/null; then
        expect_eq "$(env -u HULL_HOST -u DOCKER_HOST docker info -f '{{.ID}}')" "$id" "docker uses hull's context"
        docker context create other --docker host="unix://$T/own.sock" >/dev/null 2>&1
        expect_eq "$(env -u HULL_HOST hull --context other info -f '{{.ID}}')" "$id" "hull uses docker's"
    fi
    capture env -u HULL_HOST hull context rm lab
    expect_status 1
    expect_err_has 'in use'
    env -u HULL_HOST hull context rm -f lab >/dev/null
    capture env -u HULL_HOST hull --context lab ps
    expect_err_has 'context not found'
}

case_what_the_operator_says_holds_for_containers_that_say_nothing() {
    wrong() {
        echo "$1" >"$T/wrong.json"
        capture hulld --validate --config-file "$T/wrong.json"
        expect_status 1
        expect_err_has "$2"
    }
    wrong '{"dns": ["dns.example"]}' 'dns.example is not an ip address'
    wrong '{"default-ulimits": {"files": {"Soft": 1, "Hard": 1}}}' 'invalid ulimit type'
    wrong '{"default-address-pools": [{"base": "10.0.0.0/8", "size": 31}]}' 'want 8 to 30'
    wrong '{"labels": ["x"]}' 'want KEY=VALUE'
    wrong '{"mtu": 60}' 'invalid MTU'
    cat >"$T/hulld.json" <<'END'
{"dns": ["10.233.0.9"], "dns-search": ["corp.test"], "dns-opts": ["timeout:3"], "labels": ["rack=7"],
 "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 777, "Hard": 888}}, "default-shm-size": "3m",
 "default-address-pools": [{"base": "10.77.0.0/22", "size": 24}], "mtu": 1400,
 "log-format": "json", "log-level": "debug"}
END
    mkdir -p "$T/own"
    hulld --root "$T/root" --exec-root "$T/own" -H "unix://$T/own/h.sock" --config-file "$T/hulld.json" >"$T/hulld.log" 2>&1 &
    OWN=$!
    trap 'DOCKER_HOST= hull -H "unix://$T/own/h.sock" rm -fv one >/dev/null 2>&1; kill $OWN 2>/dev/null; wait $OWN 2>/dev/null || true; rm -rf "$T"' EXIT
    own() { hull -H "unix://$T/own/h.sock" "$@"; }
    wait_for 30 own version >/dev/null 2>&1 || fail "$(cat "$T/hulld.log")"
    expect_eq "$(own info -f '{{json .Labels}}')" '["rack=7"]' labels
    own network create more >/dev/null
    expect_eq "$(own network inspect -f '{{(index .IPAM.Config 0).Subnet}}' bridge more)" $'10.77.1.0/24\n10.77.0.0/24' subnets
    own pull -q "$BUSYBOX" >/dev/null
    own run -d --name one --network none "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(own exec one sh -c 'ulimit -n; ulimit -Hn; df -m /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2; cat /etc/resolv.conf')" \
        $'777\n888\n3\nnameserver 10.233.0.9\nsearch corp.test\noptions timeout:3' 'in the container'
    own rm -f one >/dev/null
    own run --rm --name one --ulimit nofile=55 --dns 10.233.0.8 --shm-size 2m "$BUSYBOX" sh -c 'ulimit -n; df -m /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2; grep -c timeout:3 /etc/resolv.conf; cat /sys/class/net/eth0/mtu' >"$T/out"
    expect_eq "$(cat "$T/out")" $'55\n2\n1\n1400' 'of a container that says so itself'
    # Each line of the log is an object; those of a container have its id.
    python3 - "$T/hulld.log" <<'END' || fail "$(head -n 20 "$T/hulld.log")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert lines and all("level" in line and "message" in line for line in lines)
assert [line["id"] for line in lines if line["message"] == "container start" and line["name"] == "one"], "no line of a start"
END
}

case_listening_the_default_network_is_as_the_file_says() {
    local wrong
    for wrong in '{"bip": "10.97.0.0/24"}' '{"bip": "10.97.0.1/24", "fixed-cidr": "10.98.0.0/25"}' '{"bip6": "10.97.0.1/24"}'; do
        echo "$wrong" >"$T/wrong.json"
        capture hulld --validate --config-file "$T/wrong.json"
        expect_status 1
        expect_err_has "$(grep -o '[a-z0-9-]*": "[^"]*"}' <<<"$wrong" | cut -d'"' -f1): "
    done
    mkdir -p "$T/own"
    own_start() {
        hulld --root "$T/root" --exec-root "$T/own" -H "unix://$T/own/h.sock" --config-file "$T/hulld.json" >"$T/hulld.log" 2>&1 &
        OWN=$!
        wait_for 30 own version >/dev/null 2>&1 || fail "$(cat "$T/hulld.log")"
    }
    own() { hull -H "unix://$T/own/h.sock" "$@"; }
    trap 'own rm -fv one two >/dev/null 2>&1; kill $OWN 2>/dev/null; wait $OWN 2>/dev/null || true; rm -rf "$T"' EXIT
    echo '{"bip": "10.97.0.5/24", "fixed-cidr": "10.97.0.128/25", "ip": "127.0.0.1", "icc": false}' >"$T/hulld.json"
    own_start
    own pull -q "$BUSYBOX" >/dev/null
    own run -d --name one -p 18290:80 "$BUSYBOX" httpd -f -h /etc >/dev/null
    expect_eq "$(own inspect -f '{{.NetworkSettings.Gateway}} {{.NetworkSettings.IPAddress}}' one)" '10.97.0.5 10.97.0.128' addresses
    expect_eq "$(own port one)" '80/tcp -> 127.0.0.1:18290' port
    capture own run --rm --name two "$BUSYBOX" timeout 5 wget -q -O- http://10.97.0.128/hostname
    [ "$status" != 0 ] || fail 'a neighbour is reached'
    # Addresses stay while somebody has them, and follow then; so do ports at once.
    echo '{"bip": "10.98.0.1/24"}' >"$T/hulld.json"
    kill "$OWN"; wait "$OWN" || true
    own_start
    expect_eq "$(own network inspect -f '{{(index .IPAM.Config 0).Subnet}}' bridge)" 10.97.0.0/24 'while a container is there'
    grep -q 'its addresses stay' "$T/hulld.log" || fail "$(cat "$T/hulld.log")"
    own rm -f one >/dev/null
    kill "$OWN"; wait "$OWN" || true
    own_start
    own run -d --name one -p 18290:80 "$BUSYBOX" httpd -f -h /etc >/dev/null
    expect_eq "$(own inspect -f '{{.NetworkSettings.Gateway}} {{.NetworkSettings.IPAddress}}' one)" '10.98.0.1 10.98.0.2' 'addresses after'
    expect_eq "$(own port one)" $'80/tcp -> 0.0.0.0:18290\n80/tcp -> [::]:18290' 'port after'
    expect_eq "$(own run --rm --name two "$BUSYBOX" timeout 20 wget -q -O- http://10.98.0.2/hostname)" "$(own inspect -f '{{.Config.Hostname}}' one)" 'a neighbour'
}
