# Published ports: every kind of them, from everywhere.
. tests/integration/networks.sh

# Asks a UDP port by a socket that takes answers of the address that it asked alone.
ASKS='
import socket, sys
one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(2)
one.connect((sys.argv[1], 18226))
for _ in range(5):
    try:
        one.send(b"word")
        if one.recv(9) == b"word": break
    except OSError: pass
else: raise SystemExit("no answer from " + sys.argv[1])'

# A datagram is answered from the address that was asked, whichever of the host's that is, wherever it came
# from.
case_udp_answers_come_from_the_address_that_was_asked() {
    python_image
    local one gateway
    other_machine
    ip addr add 192.0.2.9/24 dev t-v0
    if [ -e /proc/net/if_inet6 ]; then
        for one in 2001:db8:9::1/64 2001:db8:9::9/64; do ip addr add $one dev t-v0 nodad; done
        ip -n t-out addr add 2001:db8:9::2/64 dev t-v1 nodad
    fi
    hull network create --subnet 10.247.8.0/24 t-far >/dev/null
    hull run -d --name t-echo -p 18226:53/udp "$PYTHON" python3 -c '
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
while True:
    data, peer = server.recvfrom(65536)
    server.sendto(data, peer)' >/dev/null
    gateway=$(hull inspect -f '{{.NetworkSettings.Networks.bridge.Gateway}}' t-echo)
    for one in 127.0.0.1 127.0.0.2 192.0.2.9; do python3 -c "$ASKS" $one || fail "the host at $one"; done
    for one in 192.0.2.1 192.0.2.9; do there python3 -c "$ASKS" $one || fail "another machine at $one"; done
    if [ -e /proc/net/if_inet6 ]; then
        python3 -c "$ASKS" ::1 || fail 'the host at ::1'
        for one in 2001:db8:9::1 2001:db8:9::9; do there python3 -c "$ASKS" $one || fail "another machine at $one"; done
    fi
    hull run --rm "$PYTHON" sh -c "for one in $gateway 192.0.2.1 192.0.2.9; do python3 -c '$ASKS' \$one || exit 1; done" || fail 'a neighbour'
    hull run --rm --network t-far "$PYTHON" sh -c "for one in 192.0.2.1 192.0.2.9; do python3 -c '$ASKS' \$one || exit 1; done" || fail 'another network'
    hull rm -f t-echo >/dev/null
    hull network rm t-far >/dev/null
    other_machine_gone
    expect_clean_host
}

# A network may have an address for ports that name none, and one that breaks off does so for the other side, too.
case_ports_at_a_networks_own_address() {
    local here=192.0.2.1
    python_image
    other_machine
    capture hull network create -o com.docker.network.bridge.gateway_mode_ipv4=isolated t-refused
    expect_err_has 'gateway_mode_ipv4=isolated'
    hull network create --subnet 10.247.9.0/24 -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 t-local >/dev/null
    hull run -d --name t-breaks --network t-local -p 18227:80 "$PYTHON" python3 -c '
import socket, struct
server = socket.create_server(("", 80))
while True:
    one, _ = server.accept()
    one.recv(9)
    one.sendall(b"ten bytes.")
    one.recv(9)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()' >/dev/null
    capture hull port t-breaks
    expect_out $'80/tcp -> 127.0.0.1:18227\n'
    there curl -s --max-time 3 "http://$here:18227/" >/dev/null && fail 'it is open to others'
    capture python3 -c '
import socket, subprocess, time
for _ in range(50):
    one = socket.create_connection(("127.0.0.1", 18227))
    one.sendall(b"go")
    try: first = one.recv(99)
    except ConnectionResetError: first = b""
    if first: break
    time.sleep(0.2)
print(first)
seen = subprocess.run(["ss", "-tno", "state", "established", "sport = :18227"], capture_output=True, text=True).stdout
print("timer:(keepalive" in seen)
one.sendall(b"on")
try: print(one.recv(99))
except ConnectionResetError: print("broken off")'
    expect_out $'b\'ten bytes.\'\nTrue\nbroken off\n'
    # Of several networks the one with the default route says where.
    hull run -d --name t-two --network bridge --network name=t-local,gw-priority=1 -p 18228:80 "$BUSYBOX" sleep 600 >/dev/null
    capture hull port t-two
    expect_out $'80/tcp -> 127.0.0.1:18228\n'
    # Also when that one comes later, or goes.
    hull run -d --name t-moves --network bridge -p 18229:80 -p 127.0.0.3:18219:81 "$BUSYBOX" httpd -f -h /etc >/dev/null
    hull network connect --gw-priority 1 t-local t-moves
    capture hull port t-moves
    expect_out $'80/tcp -> 127.0.0.1:18229\n81/tcp -> 127.0.0.3:18219\n'
    expect_eq "$(curl -s --max-time 5 http://127.0.0.1:18229/hostname)" "$(hull inspect -f '{{.Config.Hostname}}' t-moves)" 'a port that moved'
    hull network disconnect t-local t-moves
    capture hull port t-moves
    expect_out_has '80/tcp -> 0.0.0.0:18229'
    # Nobody else's port is taken, and the container is as before.
    hull network create -o com.docker.network.bridge.host_binding_ipv4=127.0.0.4 t-taken >/dev/null
    python3 -c '
import socket, time
one = socket.create_server(("127.0.0.4", 18230))
open("'"$T"'/listens", "w").close()
time.sleep(600)' &
    local holder=$!
    wait_for 10 test -e "$T/listens"
    hull run -d --name t-stays --network t-local -p 18230:80 "$BUSYBOX" sleep 600 >/dev/null
    capture hull network connect --gw-priority 1 t-taken t-stays
    expect_status 1
    expect_err_has '127.0.0.4:18230'
    expect_eq "$(hull port t-stays)" '80/tcp -> 127.0.0.1:18230' 'a port that could not move'
    expect_eq "$(hull inspect -f '{{len .NetworkSettings.Networks}}' t-stays)" 1 'networks'
    kill "$holder"
    hull rm -f t-breaks t-two t-moves t-stays >/dev/null
    hull network rm t-local t-taken >/dev/null
    other_machine_gone
    expect_clean_host
}

case_published_ports_of_all_kinds() {
    local one here=192.0.2.1
    other_machine
    web t-kinds -p 18230-18231:80-81 -p 18240-18245:80 -p '[::1]:18250:80' -p 127.0.0.2:18251:80
    for one in 127.0.0.1:18230 127.0.0.1:18240 127.0.0.2:18251 "$here:18230"; do
        expect_eq "$(curl -s --max-time 5 "http://$one/")" served "at $one"
    done
    expect_eq "$(curl -g -s --max-time 5 'http://[::1]:18250/')" served 'at [::1]:18250'
    for one in 127.0.0.1:18250 127.0.0.1:18251 "$here:18251"; do
        curl -s --max-time 3 "http://$one/" >/dev/null && fail "at $one as well"
    done
    expect_eq "$(there curl -s --max-time 5 "http://$here:18230/")" served 'from another machine'
    # By the host's address from a neighbour and from another network; not what is for the host alone.
    hull network create t-apart >/dev/null
    for one in bridge t-apart; do
        capture hull run --rm --network $one "$BUSYBOX" sh -c "timeout 10 wget -q -O- http://$here:18230/; timeout 3 wget -q -O- http://$here:18251/ || echo refused"
        expect_out $'served\nrefused\n'
    done
    # The next one of a range, and all that are exposed.
    web t-next -p 18240-18245:80
    expect_eq "$(hull port t-next 80 | sed -n 's/^0.0.0.0://p')" 18241 'one of a range'
    web t-all -P --expose 80
    one=$(hull port t-all 80 | sed -n 's/^0.0.0.0://p')
    expect_eq "$(curl -s --max-time 5 "http://127.0.0.1:$one/")" served 'an exposed port'
    capture hull run --rm -p 5000-5005:6000-6003 "$BUSYBOX" true
    expect_status 125
    hull rm -f t-kinds t-next t-all >/dev/null
    hull network rm t-apart >/dev/null
    other_machine_gone
    expect_clean_host
}

# A port that somebody else on the host has, by either family: an error, and no VM.
# Core.
case_ports_of_others() {
    local one held
    for one in AF_INET AF_INET6; do
        [ $one = AF_INET ] || [ -e /proc/net/if_inet6 ] || continue
        python3 -c "
import socket, time
one = socket.socket(socket.$one)
if one.family == socket.AF_INET6: one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
one.bind(('', 18255))
one.listen()
print('held', flush=True)
time.sleep(600)" >"$T/held" &
        held=$!
        wait_for 10 grep -q held "$T/held"
        capture hull run -d --name t-late -p 18255:80 "$BUSYBOX" sleep 600
        kill "$held"
        expect_status 125
        expect_err_has 'address already in use'
        # No process, tap or file: it has not been started.
        expect_clean_host
        hull rm -f t-late >/dev/null 2>&1 || true
        : >"$T/held"
    done
}
