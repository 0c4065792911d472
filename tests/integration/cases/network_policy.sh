# What a policy closes, and networks that have no path to each other.
. tests/integration/networks.sh

# Asks a name server that says of every name that there is none.
ASK='timeout 8 nslookup -type=a any.test 10.233.0.1 2>&1; :'

# Packet rules of many addresses are written as those of few are.
# Core.
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
# Core.
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

# A name server answers the containers of its networks, by their own addresses.
case_name_servers_do_not_answer_strangers() {
    has_ipv6
    python_image
    hull network create --subnet 10.249.0.0/24 t-known >/dev/null
    hull network create --ipv6 --ipv4=false --subnet fd00:73::/64 t-six >/dev/null
    hull run -d --name t-db --network t-known "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(busybox nslookup -type=a t-db 10.249.0.1 | grep -c '10\.249\.0\.2')" 1 'the host is told'
    other_machine
    ip -n t-out route add 10.249.0.0/24 via 192.0.2.1
    there timeout 8 busybox nslookup -type=a t-db 10.249.0.1 >"$T/told" 2>&1 || true
    grep -q '10\.249\.0\.2' "$T/told" && fail "a stranger is told names: $(cat "$T/told")"
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
    python3 -c '
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.9", 53))
while True:
    question, peer = server.recvfrom(512)
    a = question[-4:-2] == b"\0\1"
    head = question[:2] + b"\x81\x80\0\1" + (b"\0\2" if a else b"\0\0") + bytes(4)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4"
    server.sendto(head + question[12:] + (record + b"\xa9\xfe\xa9\xfe" + record + b"\xc0\0\2\2" if a else b""), peer)
' &
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
# Core.
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
    hull network create --subnet 10.254.4.0/24 --opt com.docker.network.bridge.enable_icc=false t-alone >/dev/null
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
