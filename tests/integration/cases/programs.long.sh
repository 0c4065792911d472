# Servers that everybody runs, from Debian's packages, each in a microVM.
# seconds: 1800

# image NAME: built, put into the registry; prints its reference.
image() {
    registry_push "$(tests/images/build "$1")/$1" "$REGISTRY/$1:latest" || fail "cannot push $1"
    hull pull -q "$REGISTRY/$1" >/dev/null || fail "cannot pull $1"
    echo "$REGISTRY/$1"
}

# ask PORT TEXT: what a server on loopback answers within five seconds.
ask() {
    python3 - "$1" "$2" <<'PY'
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as server:
    server.sendall(sys.argv[2].encode().decode("unicode_escape").encode())
    server.settimeout(5)
    print(server.recv(4096).decode(), end="")
PY
}
answers() { [[ $(ask "$1" "$2" 2>/dev/null) == *"$3"* ]]; }

case_nginx_serves_many_at_once() {
    local nginx
    nginx=$(image nginx)
    mkdir "$T/www"
    head -c 300000 /dev/urandom >"$T/www/data"
    hull run -d --name t-nginx -p 127.0.0.1:18180:80 -v "$T/www:/var/www/html:ro" "$nginx" >/dev/null
    wait_for 60 curl -sf -o /dev/null http://127.0.0.1:18180/data || fail "nginx does not serve: $(hull logs t-nginx 2>&1 | tail -5)"
    # 60 requests by 16 clients, each with the whole of the file.
    seq 60 | xargs -P 16 -I{} curl -sf -m 60 -o "$T/got.{}" http://127.0.0.1:18180/data || fail 'a request failed'
    expect_eq "$(cat "$T"/got.* | wc -c)" 18000000 'bytes served'
    expect_eq "$(md5sum "$T"/got.* "$T/www/data" | cut -d' ' -f1 | sort -u | wc -l)" 1 'contents served'
    # Its stop signal lets it end by itself.
    expect_eq "$(hull inspect -f '{{.Config.StopSignal}}' t-nginx)" SIGQUIT
    hull stop -t 20 t-nginx >/dev/null
    expect_eq "$(hull inspect -f '{{.State.ExitCode}}' t-nginx)" 0 'exit status of nginx'
}

case_systemd_starts_services() {
    local systemd
    systemd=$(image systemd)
    hull run -d --name t-systemd --network none -m 512m --tmpfs /run --tmpfs /tmp "$systemd" >/dev/null
    # One unit or another may fail that wants a machine of its own.
    wait_for 120 sh -c 'hull exec t-systemd systemctl is-system-running | grep -qE "running|degraded"' ||
        fail "$(hull exec t-systemd systemctl is-system-running; hull exec t-systemd systemctl --failed --no-pager)"
    capture hull exec t-systemd sh -c 'systemd-run --quiet --wait --pipe echo served; systemctl is-active dbus; cat /proc/1/comm'
    expect_out $'served\nactive\nsystemd\n'
    expect_eq "$(hull exec t-systemd systemctl --failed --no-legend --plain | cut -d' ' -f1 | xargs)" '' 'units that failed'
    hull stop -t 20 t-systemd >/dev/null
    hull inspect -f '{{.State.ExitCode}}' t-systemd | grep -qxE '0|130' || fail "$(hull inspect -f '{{.State.ExitCode}}' t-systemd)"
}

case_redis_keeps_what_it_was_told() {
    local redis
    redis=$(image redis)
    hull run -d --name t-redis -p 127.0.0.1:16379:6379 -v t-redis:/data "$redis" --protected-mode no --appendonly yes >/dev/null
    wait_for 60 answers 16379 'PING\r\n' PONG || fail "redis does not answer: $(hull logs t-redis 2>&1 | tail -5)"
    expect_eq "$(ask 16379 'SET kept yes\r\n' | tr -d '\r')" +OK
    hull restart -t 10 t-redis >/dev/null
    wait_for 60 answers 16379 'GET kept\r\n' yes || fail 'forgotten over a restart'
    hull rm -f t-redis >/dev/null
    # Another container of the same volume.
    hull run -d --name t-redis -p 127.0.0.1:16379:6379 -v t-redis:/data "$redis" --protected-mode no --appendonly yes >/dev/null
    wait_for 60 answers 16379 'GET kept\r\n' yes || fail 'forgotten by a new container'
    hull rm -f t-redis >/dev/null
    hull volume rm t-redis >/dev/null
}

# On a directory of the host that belongs to somebody else, which its start changes the owner of.
case_postgres_on_a_directory_of_the_host() {
    local postgres query=(hull exec -u postgres t-pg psql -h 127.0.0.1 -At -c)
    postgres=$(image postgres)
    mkdir -m 755 "$T/pg"
    hull run -d --name t-pg -v "$T/pg:/var/lib/postgresql/data" "$postgres" >/dev/null
    wait_for 600 sh -c 'hull exec -u postgres t-pg psql -h 127.0.0.1 -At -c "select 1" 2>/dev/null | grep -qx 1' ||
        fail "postgres does not answer: $(hull logs t-pg 2>&1 | tail -20)"
    "${query[@]}" 'create table t as select i, md5(i::text) as h from generate_series(1, 20000) i' >/dev/null
    hull stop -t 30 t-pg >/dev/null
    expect_eq "$(hull inspect -f '{{.State.ExitCode}}' t-pg)" 0 'exit status of postgres'
    hull start t-pg >/dev/null
    wait_for 120 sh -c 'hull exec -u postgres t-pg psql -h 127.0.0.1 -At -c "select 1" 2>/dev/null | grep -qx 1' || fail 'not back after a stop'
    expect_eq "$("${query[@]}" 'select count(*), md5(string_agg(h, $$$$ order by i)) from t')" \
        "$(python3 -c '
from hashlib import md5
def of(text): return md5(text.encode()).hexdigest()
print("20000|" + of("".join(of(str(i)) for i in range(1, 20001))))')" 'what was stored'
    expect_eq "$(hull exec t-pg stat -c '%U %a' /var/lib/postgresql/data)" 'postgres 700' 'owner inside'
}
