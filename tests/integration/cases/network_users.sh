# What users of container engines ran into with networks, names and ports.
. tests/integration/networks.sh

guest_python() { hull exec -i "$1" timeout 60 python3 -; }

# A client of a UDP port keeps its socket while the container restarts, and while another one takes the
# port over; datagrams larger than a packet pass both ways.
case_a_udp_client_outlives_the_container() {
    python_image
    local server='import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 53))
while True:
    data, peer = s.recvfrom(65536); s.sendto(data, peer)'
    hull run -d --name t-udp -p 18210:53/udp "$PYTHON" python3 -c "$server" >/dev/null
    python3 - <<'END' || fail 'the client has no answer'
import os, socket, subprocess
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(1)
one.connect(("127.0.0.1", 18210))
def ask(data):
    for _ in range(30):
        try:
            one.send(data)
            if one.recv(65536) == data:
                return
        except OSError:
            pass
    raise SystemExit("no answer of %d bytes" % len(data))
for size in (1, 1472, 1473, 9000, 60000):
    ask(os.urandom(size))
subprocess.run(["hull", "restart", "-t", "0", "t-udp"], check=True, stdout=subprocess.DEVNULL)
ask(b"after a restart")
END
    hull rm -f t-udp >/dev/null
    expect_clean_host
}

# A client that has said all waits for the answer; a server that reads slowly holds its client up, not the
# engine's memory; where nobody listens the client is told at once.
case_half_closed_slow_and_refused_connections() {
    python_image
    local before after
    hull run -d --name t-tcp -p 18211:80 -p 18212:81 -p 18213:82 "$PYTHON" python3 -c '
import socket, threading, time
def count():
    s = socket.create_server(("", 80))
    while True:
        c, _ = s.accept(); total = 0
        while got := c.recv(65536): total += len(got)
        time.sleep(2); c.sendall(b"%d" % total); c.close()
def slow():
    s = socket.create_server(("", 81))
    while True:
        c, _ = s.accept(); time.sleep(600)
threading.Thread(target=count).start(); slow()' >/dev/null
    wait_for 20 sh -c "hull exec t-tcp python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 80))'"
    before=$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$(cat "$HARNESS/hulld.pid")/status")
    python3 - <<'END' || fail 'connections'
import socket, time
one = socket.create_connection(("127.0.0.1", 18211), 20)
one.sendall(b"x" * 3_000_000)
one.shutdown(socket.SHUT_WR)
assert one.recv(100) == b"3000000", "half-closed"
assert one.recv(100) == b""
slow = [socket.create_connection(("127.0.0.1", 18212), 20) for _ in range(8)]
for one in slow:
    one.setblocking(False)
end, sent = time.monotonic() + 5, 0
while time.monotonic() < end:
    for one in slow:
        try: sent += one.send(b"y" * 65536)
        except BlockingIOError: pass
    time.sleep(0.01)
assert sent < 200_000_000, f"{sent} bytes went somewhere"
one = socket.create_connection(("127.0.0.1", 18213), 10)
began = time.monotonic()
try: assert one.recv(1) == b"", "an answer of nobody"
except ConnectionResetError: pass
assert time.monotonic() - began < 5, "a client hangs where nobody listens"
END
    after=$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$(cat "$HARNESS/hulld.pid")/status")
    [ "$after" -lt $((before + 32768)) ] || fail "hulld: $before KiB before slow readers, $after after"
    hull rm -f t-tcp >/dev/null
    expect_clean_host
}

# A container that is connected before its first start has the name there; names may have capitals,
# dots and underscores, and are found in any case.
case_names_of_all_kinds() {
    hull network create t-one >/dev/null
    hull network create t-two >/dev/null
    hull create --name t_My.Web --network t-one "$BUSYBOX" sleep 600 >/dev/null
    hull network connect --alias late.alias t-two t_My.Web
    hull start t_My.Web >/dev/null
    capture hull run --rm --network t-two "$BUSYBOX" sh -c 'for name in late.alias t_My.Web t_my.web T_MY.WEB LATE.ALIAS.; do nslookup -type=a "$name" | tail -n +3 | grep -c "^Address"; done'
    expect_out $'1\n1\n1\n1\n1\n'
    expect_eq "$(hull run --rm --network t-one "$BUSYBOX" nslookup -type=a late.alias 2>&1 | grep -c NXDOMAIN)" 1 'the alias on another network'
    hull rm -f t_My.Web >/dev/null
    hull network rm t-one t-two >/dev/null
    expect_clean_host
}

# A full host name is known in short as well, and is the container's address.
case_a_full_host_name() {
    capture hull run --rm --hostname web.example.test "$BUSYBOX" sh -c 'hostname; hostname -f; hostname -s; hostname -i; ip -o -4 addr show eth0 | sed "s/.*inet \([^/]*\).*/\1/"; ping -c 1 -W 2 web >/dev/null && echo short'
    local address
    address=$(sed -n 5p <<<"$out")
    expect_out "web.example.test"$'\n'"web.example.test"$'\n'web$'\n'"$address"$'\n'"$address"$'\nshort\n'
    capture hull run --rm --hostname web --domainname example.test "$BUSYBOX" sh -c 'tail -n 1 /etc/hosts | cut -f 2'
    expect_out $'web.example.test web\n'
}

# Containers of one network find each other by broadcasts and multicasts, those of others do not hear
# them.
case_broadcasts_and_multicasts() {
    python_image
    hull network create --subnet 10.242.0.0/24 t-cast >/dev/null
    hull network create --subnet 10.243.0.0/24 t-deaf >/dev/null
    local hears='
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 9000))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("0.0.0.0"))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("0.0.0.0"))
while True: print(s.recv(100).decode(), flush=True)'
    hull run -d --name t-hears --network t-cast "$PYTHON" python3 -c "$hears" >/dev/null
    hull run -d --name t-deaf --network t-deaf "$PYTHON" python3 -c "$hears" >/dev/null
    hull run -d --name t-calls --network t-cast "$PYTHON" sleep 600 >/dev/null
    guest_python t-calls <<'END' || fail 'sending'
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
for number in range(3):
    for to in ("10.242.0.255", "255.255.255.255", "239.1.2.3", "224.0.0.251"):
        s.sendto(to.encode(), (to, 9000))
    time.sleep(1)
END
    wait_for 10 sh -c "[ \"\$(hull logs t-hears | sort -u | wc -l)\" = 4 ]" || fail "heard: $(hull logs t-hears | sort -u)"
    expect_eq "$(hull logs t-deaf)" '' 'heard on another network'
    hull rm -f t-hears t-deaf t-calls >/dev/null
    hull network rm t-cast t-deaf >/dev/null
    expect_clean_host
}

# Questions for both kinds of address that leave by one socket at once are both answered, so nobody waits
# for a second try; also of names that have one kind, none, or are not there.
case_both_kinds_of_address_at_once() {
    python_image
    hull network create --subnet 10.244.0.0/24 t-both >/dev/null
    hull run -d --name t-both --network t-both "$PYTHON" sleep 600 >/dev/null
    guest_python t-both <<'END' || fail 'names take their time'
import socket, threading, time
def look():
    for name, there in (("t-both", True), ("nobody", False)) * 10:
        began = time.monotonic()
        try: found = bool(socket.getaddrinfo(name, 80))
        except socket.gaierror: found = False
        assert found == there, name
        took.append(time.monotonic() - began)
took = []
all = [threading.Thread(target=look) for _ in range(4)]
for one in all: one.start()
for one in all: one.join()
assert len(took) == 80, f"{len(took)} answers"
assert max(took) < 4.5, f"{max(took)} s"
END
    hull rm -f t-both >/dev/null
    hull network rm t-both >/dev/null
    expect_clean_host
}

# Neighbours see each other's own addresses, the outside the host's; a container reaches its own published
# port by the host's address; a port that one gives up is another's at once.
case_addresses_that_peers_see() {
    local host
    hull network create --subnet 10.245.0.0/24 t-see >/dev/null
    ip netns add t-out
    ip link add t-v0 type veth peer name t-v1 netns t-out
    ip addr add 192.0.2.1/24 dev t-v0
    ip link set t-v0 up
    ip -n t-out addr add 192.0.2.2/24 dev t-v1
    ip -n t-out link set t-v1 up
    local tells='mkdir -p /www/cgi-bin; printf "#!/bin/sh\necho; echo \$REMOTE_ADDR\n" >/www/cgi-bin/who; chmod +x /www/cgi-bin/who; exec httpd -f -p 80 -h /www'
    ip netns exec t-out sh -c "mkdir -p /tmp/t-www/cgi-bin; printf '#!/bin/sh\necho; echo \$REMOTE_ADDR\n' >/tmp/t-www/cgi-bin/who; chmod +x /tmp/t-www/cgi-bin/who; exec busybox httpd -f -p 80 -h /tmp/t-www" &
    local outside=$!
    hull run -d --name t-first --network t-see --ip 10.245.0.7 -p 18214:80 "$BUSYBOX" sh -c "$tells" >/dev/null
    hull run -d --name t-peer --network t-see --ip 10.245.0.9 "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-peer wget -q -O- http://t-first/cgi-bin/who | tr -d '[]' | sed 's/::ffff://')" 10.245.0.9 'a neighbour'
    expect_eq "$(hull exec t-peer wget -q -O- http://192.0.2.2/cgi-bin/who | tr -d '[]' | sed 's/::ffff://')" 192.0.2.1 'the outside'
    hull exec t-first wget -q -O- http://192.0.2.1:18214/cgi-bin/who >/dev/null || fail 'its own port by the host'
    ip netns exec t-out curl -sf --max-time 5 http://192.0.2.1:18214/cgi-bin/who >/dev/null || fail 'the port from outside'
    ip netns exec t-out curl -sf --max-time 2 http://10.245.0.7/cgi-bin/who >/dev/null 2>&1 && fail 'the container from outside, without a port'
    hull stop -t 0 t-first >/dev/null
    hull run -d --name t-second --network t-see -p 18214:80 "$BUSYBOX" sh -c "$tells" >/dev/null || fail 'a port that was given up'
    capture hull start t-first
    [ "$status" != 0 ] || fail 'a port twice'
    expect_err_has 'port is already allocated'
    hull rm -f t-second >/dev/null
    hull start t-first >/dev/null || fail 'its port again'
    expect_eq "$(address_of t-first t-see)" 10.245.0.7 'its address again'
    kill "$outside"
    hull rm -f t-first t-peer >/dev/null
    ip netns del t-out
    hull network rm t-see >/dev/null
    expect_clean_host
}

# The network of a container that is stopped is removed, or the container is taken off it: what then
# happens is said.
case_a_network_that_is_gone() {
    local gone
    gone=$(hull network create t-gone)
    hull create --name t-left --network t-gone "$BUSYBOX" sleep 600 >/dev/null
    hull network rm t-gone >/dev/null || fail 'a network without running containers stays'
    capture hull start t-left
    [ "$status" != 0 ] || fail 'started without its network'
    expect_err_has 'not found'
    hull network disconnect "$(hull inspect -f '{{json .HostConfig.NetworkMode}}' t-left | tr -d '"')" t-left 2>/dev/null && fail 'disconnected from a name that is none'
    hull network disconnect "$gone" t-left || fail 'it stays on a network that is gone'
    hull network create t-gone >/dev/null
    hull network connect t-gone t-left || fail 'no network of that name'
    hull start t-left >/dev/null || fail 'no start on the new one'
    hull exec t-left ip -o -4 addr show eth0 | grep -q inet || fail 'no address'
    capture hull network connect t-gone t-left
    expect_err_has 'already exists in network'
    hull rm -f t-left >/dev/null
    hull network rm t-gone >/dev/null
    expect_clean_host
}

# What one container knows of another's closed ports, and of its own past: a refusal comes at once.
case_closed_ports_answer() {
    python_image
    hull network create --subnet 10.246.0.0/24 t-shut >/dev/null
    hull run -d --name t-shut --network t-shut "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-tries --network t-shut "$PYTHON" sleep 600 >/dev/null
    guest_python t-tries <<'END' || fail 'closed ports'
import errno, socket, time
began = time.monotonic()
try: socket.create_connection(("t-shut", 81), 10); raise SystemExit("open")
except ConnectionRefusedError: pass
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(5)
one.connect(("t-shut", 81))
one.send(b"x")
try: one.recv(1); raise SystemExit("an answer")
except ConnectionRefusedError: pass
# The path's size is known, not only guessed: a whole packet passes, a larger one is refused here.
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
one.connect(("10.246.0.1", 81))
one.send(b"x" * 1000)
try: one.send(b"x" * 60000); raise SystemExit("too large")
except OSError as error: assert error.errno in (errno.EMSGSIZE, errno.ECONNREFUSED), error
assert time.monotonic() - began < 8
END
    hull rm -f t-shut t-tries >/dev/null
    hull network rm t-shut >/dev/null
    expect_clean_host
}

# As docker: any user of a container may ping and listen below port 1024, unless it is told otherwise.
case_users_without_rights_ping_and_listen_below_1024() {
    python_image
    hull run --rm -i -u 1000 --cap-drop ALL "$PYTHON" python3 - <<'END' || fail 'refused'
import socket
socket.socket().bind(("", 80))
socket.socket(socket.AF_INET6).bind(("::", 443))
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
echo.settimeout(10)
echo.connect(("127.0.0.1", 0))
echo.send(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b"hull")
assert echo.recv(100)[-4:] == b"hull"
END
    hull run --rm -u 1000 --sysctl net.ipv4.ip_unprivileged_port_start=81 "$PYTHON" python3 -c 'import socket; socket.socket().bind(("", 80))' 2>/dev/null && fail 'the bound that was asked for is not there'
    expect_eq "$(hull run --rm -u 1000 "$BUSYBOX" sh -c 'echo $(ulimit -n) $(ulimit -Hn) $(ulimit -u) $(ulimit -i)')" '1024 524288 unlimited unlimited' 'its limits'
    hull run --rm "$BUSYBOX" sh -c 'ulimit -n 65536' || fail 'a server cannot raise its number of files'
}
