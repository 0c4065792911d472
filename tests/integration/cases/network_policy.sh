# What a policy closes, and networks that have no path to each other.
. tests/integration/networks.sh

# Asks a name server that says of every name that there is none.
ASK='timeout 8 nslookup -type=a any.test 10.233.0.1 2>&1; :'

# Packet rules of many addresses are written as those of few are.
case_long_policies() {
    local number most=/proc/sys/net/core/wmem_max before list='192.0.2.1:443'
    before=$(cat "$most")
    echo 212992 >"$most"
    for number in $(seq 2 250); do list+=,192.0.2.$number:443; done
    for number in 1 2; do
        hull run -d --name t-long$number --egress "allow:$list" "$BUSYBOX" sleep 600 >/dev/null || fail "container $number"
    done
    echo "$before" >"$most"
    hull network create t-new >/dev/null
    hull run --rm --network t-new "$BUSYBOX" true || fail 'no new network'
    hull rm -f t-long1 t-long2 >/dev/null
    hull network rm t-new >/dev/null
    expect_clean_host
}

# Of the host's services a policy leaves the name server of the container's own network alone.
case_a_policy_leaves_one_name_server() {
    local server one
    ip link add t-outside type dummy
    ip addr add 10.233.0.1/32 dev t-outside
    python3 -c '
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("10.233.0.1", 53))
print("bound", flush=True)
while True:
    question, peer = server.recvfrom(512)
    server.sendto(question[:2] + b"\x81\x83" + question[4:], peer)
' >"$T/bound" &
    server=$!
    wait_for 10 grep -q bound "$T/bound"
    hull run --rm "$BUSYBOX" sh -c "$ASK" | grep -q NXDOMAIN || fail 'it does not answer'
    for one in none outside; do
        hull run --rm --egress "$one" "$BUSYBOX" sh -c "$ASK" >"$T/told"
        grep -q NXDOMAIN "$T/told" && fail "--egress $one: another name server of the host is asked: $(cat "$T/told")"
    done
    # The network's server asks it for who names it.
    hull run --rm --egress outside --dns 10.233.0.1 "$BUSYBOX" sh -c 'nslookup -type=a any.test 2>&1; :' >"$T/told"
    kill "$server"
    ip link del t-outside
    grep -q NXDOMAIN "$T/told" || fail "the one that is named is not asked: $(cat "$T/told")"
    expect_clean_host
}

# Asks for a container's name.
QUESTION='
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(4)
one.sendto(b"\0\7\1\0\0\1\0\0\0\0\0\0\4t-db\0\0\1\0\1", ("10.249.0.1", 53))
try: print("told" if socket.inet_aton("10.249.0.2") in one.recv(512) else "not told")
except TimeoutError: print("silence")'

# A name server answers the containers of its networks, by their own addresses.
case_name_servers_do_not_answer_strangers() {
    has_ipv6
    python_image
    hull network create --subnet 10.249.0.0/24 t-known >/dev/null
    hull network create --ipv6 --ipv4=false --subnet fd00:73::/64 t-six >/dev/null
    hull run -d --name t-db --network t-known "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(python3 -c "$QUESTION")" 'told' 'the host'
    other_machine
    ip -n t-out route add 10.249.0.0/24 via 192.0.2.1
    expect_eq "$(there python3 -c "$QUESTION")" 'silence' 'a stranger'
    other_machine_gone
    # By its link-local address a guest is nobody.
    capture hull run --rm --network t-six --egress none "$PYTHON" python3 -c '
import socket
def ask(own):
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.bind((own, 0, 0, socket.if_nametoindex("eth0")) if own else ("::", 0))
    one.settimeout(6)
    one.sendto(b"\0\7\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1", ("fd00:73::1", 53))
    try: return ["answer 0", "", "failed", "no name", "", "refused"][one.recv(512)[3] & 15]
    except TimeoutError: return "silence"
rows = [line.split() for line in open("/proc/net/if_inet6")]
digits = [row[0] for row in rows if row[3] == "20" and row[5] == "eth0"][0]
print(ask(None), ask(":".join(digits[at:at + 4] for at in range(0, 32, 4))), sep="\n")'
    expect_out $'refused\nsilence\n'
    hull rm -f t-db >/dev/null
    hull network rm t-known t-six >/dev/null
    expect_clean_host
}

# Policies by IPv4 addresses and ports.
case_policies_by_address() {
    other_machine
    echo page >"$T/page"
    there busybox httpd -p 80 -h "$T"
    there busybox httpd -p 81 -h "$T"
    hull run --rm --egress none "$BUSYBOX" ping -c 1 -W 2 192.0.2.2 >/dev/null && fail 'none is open'
    capture hull run --rm --egress allow:192.0.2.0/24:80,198.51.100.1 "$BUSYBOX" sh -c '
        timeout 9 wget -q -O- http://192.0.2.2/page
        timeout 3 wget -q -O- http://192.0.2.2:81/page || echo other port
        ping -c 1 -W 2 192.0.2.2 >/dev/null || echo other protocol'
    other_machine_gone
    expect_out $'page\nother port\nother protocol\n'
    expect_clean_host
}

# Where clouds answer with secrets: closed to who is not trusted, whatever an allowed name says.
case_addresses_with_secrets_are_closed() {
    local one server all='169.254.169.254 168.63.129.16 100.100.100.200 192.0.0.192'
    other_machine
    for one in $all; do
        ip -n t-out addr add "$one/32" dev t-v1
        ip route add "$one/32" dev t-v0
    done
    capture hull run --rm "$BUSYBOX" sh -c "for one in $all; do ping -c 1 -W 5 \$one >/dev/null || echo \$one is not there; done"
    expect_out ''
    capture hull run --rm --untrusted "$BUSYBOX" sh -c "for one in $all; do ping -c 1 -W 2 \$one >/dev/null && echo \$one is open; done; ping -c 1 -W 5 192.0.2.2 >/dev/null || echo the world outside is closed"
    expect_out ''
    # Of good.test it is said that it is there, and elsewhere.
    python3 tests/lib/name_server.py 127.0.0.9 169.254.169.254 192.0.2.2 &
    server=$!
    capture hull run --rm --dns 127.0.0.9 --untrusted --egress allow:good.test "$BUSYBOX" sh -c '
        nslookup -type=a good.test | grep -c 169.254.169.254
        ping -c 1 -W 5 192.0.2.2 >/dev/null && echo open
        ping -c 1 -W 2 169.254.169.254 >/dev/null || echo closed'
    kill "$server"
    other_machine_gone
    expect_out $'1\nopen\nclosed\n'
    expect_clean_host
}

# A network reaches no other, and is reached by nobody outside; what is inside stays inside.
case_networks_have_no_path_to_each_other() {
    has_ipv6
    hull network create --ipv6 --subnet 10.254.1.0/24 --subnet fd00:254:1::/64 t-left >/dev/null
    hull network create --ipv6 --subnet 10.254.2.0/24 --subnet fd00:254:2::/64 t-right >/dev/null
    hull network create --internal --subnet 10.254.3.0/24 t-inner >/dev/null
    web t-web --network t-right -p 18260:80
    web t-inside --network t-inner
    other_machine
    ip -n t-out route add 10.254.0.0/16 via 192.0.2.1
    local to try='timeout 3 wget -q -O- http://'
    capture hull run --rm --network t-left "$BUSYBOX" sh -c "for to in 10.254.2.2 '[fd00:254:2::2]' 10.254.3.2; do ${try}\$to/ || echo apart; done; ping -c 1 -W 5 192.0.2.2 >/dev/null && echo out"
    expect_out $'apart\napart\napart\nout\n'
    # Who is inside alone, with a route of its own making.
    capture hull run --rm --cap-add NET_ADMIN --network t-inner "$BUSYBOX" sh -c "
        ${try}10.254.3.2/; ${try}10.254.3.1:18260/; ip route add default via 10.254.3.1
        for to in 10.254.2.2 192.0.2.1:18260; do ${try}\$to/ || echo apart; done
        ping -c 1 -W 2 192.0.2.2 >/dev/null || echo inside
        ping -c 1 -W 2 192.0.2.1 >/dev/null || echo not the host"
    expect_out $'served\nserved\napart\napart\ninside\nnot the host\n'
    for to in 10.254.2.2 10.254.3.2; do
        there curl -s --max-time 3 http://$to/ >/dev/null && fail "$to is reached from outside"
    done
    other_machine_gone
    hull rm -f t-web t-inside >/dev/null
    hull network rm t-left t-right t-inner >/dev/null
    expect_clean_host
}

# Containers that do not reach each other, but by what is published.
case_containers_apart_on_one_network() {
    hull network create --subnet 10.254.4.0/24 --opt com.docker.network.bridge.enable_icc=0 t-alone >/dev/null
    web t-first --network t-alone -p 18261:80
    capture hull run --rm --network t-alone "$BUSYBOX" sh -c 'timeout 3 wget -q -O- http://10.254.4.2/ || echo apart; ping -c 1 -W 2 t-first >/dev/null || echo apart; timeout 9 wget -q -O- http://10.254.4.1:18261/'
    expect_out $'apart\napart\nserved\n'
    hull rm -f t-first >/dev/null
    hull network rm t-alone >/dev/null
    expect_clean_host
}

# An internal network with IPv6: neighbours find each other, and no more.
case_an_internal_network_with_ipv6() {
    has_ipv6
    hull network create --internal --ipv6 --subnet 10.254.5.0/24 --subnet fd00:254:5::/64 t-inner6 >/dev/null
    web t-inside --network t-inner6
    other_machine
    ip addr add 2001:db8:9::1/64 dev t-v0 nodad
    capture hull run --rm --cap-add NET_ADMIN --network t-inner6 "$BUSYBOX" sh -c '
        timeout 9 wget -q -O- http://[fd00:254:5::2]/
        ping6 -c 1 -W 5 fd00:254:5::1 >/dev/null && echo its gateway
        ip -6 route add default via fd00:254:5::1
        ping6 -c 1 -W 2 2001:db8:9::1 >/dev/null || echo not the host'
    other_machine_gone
    expect_out $'served\nits gateway\nnot the host\n'
    hull rm -f t-inside >/dev/null
    hull network rm t-inner6 >/dev/null
    expect_clean_host
}

# Rules of a container that was lost while no engine ran do not outlive it.
case_rules_of_who_was_lost_are_gone() {
    local id
    hull network create --subnet 10.248.9.0/24 t-lost >/dev/null
    id=$(hull run -d --name t-gone --network t-lost --egress none "$BUSYBOX" sleep 600)
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    pgrep -f "shim-hull-v2.*$id" | xargs -r kill -9 || true
    sleep 2
    hulld_start
    hull rm -f t-gone >/dev/null
    hull run --rm --network t-lost "$BUSYBOX" ping -c 1 -W 5 10.248.9.1 >/dev/null || fail 'the policy of another'
    hull network rm t-lost >/dev/null
    expect_clean_host
}

# Another program's table is as it was, whatever Hull does; what it drops stays dropped until it accepts; pins
# come back after a flush as policies do.
case_others_rules_stay_as_they_are() {
    has_ipv6
    command -v nft >/dev/null || skip 'no nft here'
    local own
    nft add table inet t-other
    nft add chain inet t-other forward '{ type filter hook forward priority 0; policy accept; }'
    nft add rule inet t-other forward ip saddr 198.51.100.1 drop
    nft list table inet t-other >"$T/before"
    other_machine
    hull network create --ipv6 --subnet 10.255.1.0/24 --subnet fd00:255::/64 t-beside >/dev/null
    web t-web --network t-beside --egress outside -p 18262:80 --cap-add NET_ADMIN
    own=$(nft list tables | sed -n 's/^table netdev \(hull-.*\)/\1/p' | head -n 1)
    nft delete table netdev "$own"
    wait_for 10 sh -c "nft list table netdev $own 2>/dev/null | grep -q 'drop comment \"h'" || fail 'pins do not come back'
    hull exec t-web sh -c 'ip addr add 10.255.1.77/24 dev eth0; ping -c 1 -W 2 -I 10.255.1.77 192.0.2.2' >/dev/null && fail 'another address is let out after a flush'
    # What was asked from the wrong address has no answer for some seconds, whoever asks.
    hull exec t-web sh -c 'ip addr del 10.255.1.77/24 dev eth0; ping -c 6 -W 5 192.0.2.2' >/dev/null || fail 'its own address is not let out'
    nft delete table inet "$own"
    wait_for 10 nft list table inet "$own" >/dev/null || fail 'rules do not come back'
    curl -s --max-time 5 http://127.0.0.1:18262/ | grep -q served || fail 'no port after a flush'
    # A firewall that lets nothing through until it is told.
    nft chain inet t-other forward '{ policy drop; }'
    hull exec t-web ping -c 1 -W 2 192.0.2.2 >/dev/null && fail 'it lets through'
    nft insert rule inet t-other forward iifname '"hb*"' accept
    nft insert rule inet t-other forward oifname '"hb*"' accept
    hull exec t-web ping -c 1 -W 5 192.0.2.2 >/dev/null || fail 'it lets nothing through'
    for way in iifname oifname; do
        nft delete rule inet t-other forward handle "$(nft -a list chain inet t-other forward | sed -n "s/.*$way \"hb.*handle //p")"
    done
    nft chain inet t-other forward '{ policy accept; }'
    hull rm -f t-web >/dev/null
    hull network rm t-beside >/dev/null
    other_machine_gone
    nft list table inet t-other >"$T/after"
    nft delete table inet t-other
    diff "$T/before" "$T/after" || fail "another's table was changed"
    expect_clean_host
}

# Words that frames on an interface of the host carry.
WORDS='
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((sys.argv[1], 0))
wire.settimeout(0.5)
print("listens", file=sys.stderr, flush=True)
end = time.time() + 15
while time.time() < end:
    try: frame = wire.recv(65536)
    except TimeoutError: continue
    for word in b"honest", b"forged":
        if word in frame: print(frame[frame.index(word):][:16].rstrip(b"\0").decode(), flush=True)
'
FORGER='
import socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
own = bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
row = [line.split() for line in open("/proc/net/if_inet6") if line.split()[3] == "20" and line.split()[5] == "eth0"][0][0]
link = ":".join(row[at:at + 4] for at in range(0, 32, 4))
all, group, other = b"\xff" * 6, bytes.fromhex("333300000001"), bytes.fromhex("026666666666")
def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value >> 16: value = (value & 0xffff) + (value >> 16)
    return struct.pack("!H", ~value & 0xffff)
def v4(source, port, word):
    body = struct.pack("!4H", port, 9, 8 + len(word), 0) + word
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0, socket.inet_aton(source), all[:4])
    return head[:10] + total(head) + head[12:] + body
def v6(source, kind, word):
    source, to = (socket.inet_pton(socket.AF_INET6, one) for one in (source, "ff02::1"))
    body = struct.pack("!BBH", kind, 0, 0) + bytes(12) + b"\xfd\x02" + word.ljust(14, b"\0")
    body = body[:2] + total(source + to + struct.pack("!II", len(body), 58) + body) + body[4:]
    return struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source + to + body
def dhcp6(word):
    source, to = (socket.inet_pton(socket.AF_INET6, one) for one in (link, "ff02::1"))
    body = struct.pack("!4H", 547, 546, 8 + len(word), 0) + word
    body = body[:6] + total(source + to + struct.pack("!II", len(body), 17) + body) + body[8:]
    return struct.pack("!IHBB", 0x60000000, len(body), 17, 255) + source + to + body
def arp(mac, address, word):
    address = socket.inet_aton(address)
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, mac, address, all, address) + word
mine = "10.250.0.9"
for to, mac, kind, frame in [
    (all, own, 0x800, v4(mine, 9, b"honest")),
    (all, other, 0x800, v4(mine, 9, b"forged mac")),
    (all, own, 0x800, v4("10.250.0.1", 9, b"forged address")),
    (all, own, 0x800, v4(mine, 67, b"forged dhcp")),
    (all, own, 0x806, arp(own, "10.250.0.1", b"forged arp")),
    (all, own, 0x806, arp(other, mine, b"forged arp mac")),
    (all, own, 0x8100, struct.pack("!HH", 5, 0x806) + arp(own, "10.250.0.1", b"forged vlan")),
    (all, own, 0x88cc, b"forged lldp"),
    (group, own, 0x86dd, v6(link, 134, b"forged ra")),
    (group, own, 0x86dd, v6(link, 137, b"forged redir")),
    (group, own, 0x86dd, v6(link, 130, b"forged mld")),
    (group, own, 0x86dd, v6(link, 136, b"forged na")),
    (group, own, 0x86dd, v6("fe80::1", 128, b"forged v6")),
    (group, own, 0x86dd, dhcp6(b"forged dhcp6")),
    (all, own, 0x800, v4(mine, 9, b"honest end")),
]: wire.send(to + mac + struct.pack("!H", kind) + frame.ljust(46, b"\0"))
'
# With its whole kernel a guest is nobody else on its network: seen on the bridge, behind the taps.
case_a_forger_on_a_bridge() {
    has_ipv6
    python_image
    local id bridge capture denied
    id=$(hull network create --ipv6 --subnet 10.250.0.0/24 --subnet fd00:250::/64 t-forge)
    hull run -d --name t-forger --network t-forge --ip 10.250.0.9 "$PYTHON" sleep 600 >/dev/null
    bridge=$(ip -o link | grep -o "hb[0-9a-f]\{5\}${id:0:8}" | head -n 1)
    python3 -c "$WORDS" "$bridge" >"$T/seen" 2>"$T/ready" &
    capture=$!
    wait_for 10 grep -q listens "$T/ready" || fail 'no capture'
    hull exec t-forger python3 -c "$FORGER" || fail 'nothing was sent'
    wait "$capture"
    expect_eq "$(sort -u "$T/seen")" $'honest\nhonest end' 'words of frames that passed'
    denied=$(hull inspect t-forger | jq -r '.[0].NetworkSettings.Networks["t-forge"].DriverOpts["dev.hull.denied"]')
    [ "$denied" -ge 13 ] || fail "$denied of them are counted"
    hull rm -f t-forger >/dev/null
    hull network rm t-forge >/dev/null
    expect_clean_host
}

# Containers that name no policy have the daemon's.
case_the_policy_of_the_daemon() {
    hulld_stop
    hulld_start --egress none
    capture hull run --rm "$BUSYBOX" sh -c 'gateway=$(ip route | sed -n "s/default via \([^ ]*\).*/\1/p"); ping -c 1 -W 2 "$gateway" >/dev/null || echo closed'
    expect_out $'closed\n'
    capture hull run --rm --egress all "$BUSYBOX" sh -c 'gateway=$(ip route | sed -n "s/default via \([^ ]*\).*/\1/p"); ping -c 1 -W 5 "$gateway" >/dev/null && echo open'
    expect_out $'open\n'
    hulld_stop
    hulld_start
}
