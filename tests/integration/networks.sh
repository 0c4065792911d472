# Sourced by cases of networks: images, addresses, servers, another machine.

PYTHON=$REGISTRY/python:latest
python_image() { registry_push "$IMAGES/python" "$PYTHON" && hull pull -q "$PYTHON" >/dev/null; }
address_of() { hull inspect -f "{{(index .NetworkSettings.Networks \"$2\").IPAddress}}" "$1"; }
v6_address_of() { hull inspect -f "{{(index .NetworkSettings.Networks \"$2\").GlobalIPv6Address}}" "$1"; }
taps() { ip -o link | grep -E ': h[0-9][0-9a-f]{13}:' || true; }
has_ipv6() { [ -e /proc/net/if_inet6 ] || skip 'no IPv6 here'; }
# A container that serves the page "served" by HTTP.
web() {
    hull run -d --name "$1" "${@:2}" "$BUSYBOX" sh -c 'mkdir /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www' >/dev/null
    hull exec "$1" sh -c 'until [ -s /www/index.html ]; do sleep 0.1; done'
}
# The engine is killed, and another one starts.
next_engine() {
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
}
# Another machine: 192.0.2.2, beside the host's 192.0.2.1; its programs run by `there`.
other_machine() {
    ip netns add t-out
    ip link add t-v0 type veth peer name t-v1 netns t-out
    ip addr add 192.0.2.1/24 dev t-v0
    ip link set t-v0 up
    ip -n t-out link set lo up
    ip -n t-out addr add 192.0.2.2/24 dev t-v1
    ip -n t-out link set t-v1 up
}
there() { ip netns exec t-out "$@"; }
other_machine_gone() {
    ip netns pids t-out | xargs -r kill
    ip netns del t-out
}
