# Names of every kind, and the files by which they are found.
. tests/integration/networks.sh

case_names_of_each_kind() {
    local id
    hull network create --subnet 10.253.0.0/24 t-kinds >/dev/null
    hull run -d --name t-turn1 --network t-kinds --network-alias turns "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-turn2 --network t-kinds --network-alias turns "$BUSYBOX" sleep 600 >/dev/null
    id=$(hull inspect -f '{{.Id}}' t-turn1)
    capture hull run --rm --network t-kinds --dns-search corp.test --dns-search other.test --dns-option timeout:3 --dns-option attempts:1 --hostname named "$BUSYBOX" sh -c "
        ping -c 1 -W 5 ${id:0:12} >/dev/null && echo id
        nslookup 10.253.0.2 | grep -o 'name = t-turn1[a-z.-]*'
        grep -E '^(nameserver|search|options)' /etc/resolv.conf
        cat /etc/hostname"
    expect_out $'id\nname = t-turn1.t-kinds\nnameserver 10.253.0.1\nsearch corp.test other.test\noptions timeout:3 attempts:1 ndots:0\nnamed\n'
    # Two of one name take turns.
    capture hull exec t-turn1 sh -c 'for n in $(seq 16); do nslookup -type=a turns | grep -o "10[.]253[.]0[.][23]" | head -n 1; done | sort -u | wc -l'
    expect_out $'2\n'
    # With servers of its own on the default network: these lines and no other.
    capture hull run --rm --dns 1.1.1.1 --dns 2001:db8::1 "$BUSYBOX" grep nameserver /etc/resolv.conf
    expect_out $'nameserver 1.1.1.1\nnameserver 2001:db8::1\n'
    hull rm -f t-turn1 t-turn2 >/dev/null
    hull network rm t-kinds >/dev/null
    expect_clean_host
}

# A service of the host by name, if it is asked for; what is on its loopback address alone is not reached.
case_the_host_by_name() {
    local all loop
    echo page >"$T/page"
    busybox httpd -f -p 0.0.0.0:18263 -h "$T" &
    all=$!
    busybox httpd -f -p 127.0.0.1:18264 -h "$T" &
    loop=$!
    capture hull run --rm --add-host host.docker.internal:host-gateway "$BUSYBOX" sh -c '
        timeout 9 wget -q -O- http://host.docker.internal:18263/page
        timeout 3 wget -q -O- http://host.docker.internal:18264/page || echo its own'
    kill "$all" "$loop"
    expect_out $'page\nits own\n'
    expect_clean_host
}

# Whom a container asks follows its networks.
case_names_outlive_the_first_network() {
    local one
    hull network create t-one >/dev/null
    hull network create t-two >/dev/null
    hull run -d --name t-db --network t-two "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-asks --network t-one "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-late --network none "$BUSYBOX" sleep 600 >/dev/null
    hull exec t-asks sh -c 'echo "# own" >>/etc/resolv.conf'
    hull network connect t-two t-asks
    hull network disconnect t-one t-asks
    hull network rm t-one >/dev/null
    hull network connect t-two t-late
    for one in t-asks t-late; do
        hull exec $one ping -c 1 -W 5 t-db >/dev/null || fail "$one has no names: $(hull exec $one cat /etc/resolv.conf)"
    done
    hull exec t-asks grep -q '# own' /etc/resolv.conf || fail 'what it wrote itself is gone'
    hull rm -f t-db t-asks t-late >/dev/null
    hull network rm t-two >/dev/null
    expect_clean_host
}

# A name server on an internal network is asked by who is there, and by nobody else.
case_a_name_server_inside() {
    python_image
    hull network create --internal --subnet 10.247.3.0/24 t-deep >/dev/null
    hull run -d --name t-names --network t-deep --ip 10.247.3.9 "$PYTHON" python3 -c '
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
while True:
    question, peer = server.recvfrom(512)
    head = question[:2] + b"\x81\x80\0\1\0\1" + bytes(4)
    server.sendto(head + question[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\xf7\3\x63", peer)' >/dev/null
    capture hull run --rm --network t-deep --dns 10.247.3.9 "$BUSYBOX" sh -c 'for n in 1 2 3; do nslookup -type=a deep.test | grep -c 10.247.3.99 && exit; done; exit 1'
    expect_out $'1\n'
    capture hull run --rm --network t-deep --dns 192.0.2.1 "$BUSYBOX" sh -c 'nslookup -type=a deep.test 2>&1 | grep -c REFUSED'
    expect_out $'1\n'
    hull rm -f t-names >/dev/null
    hull network rm t-deep >/dev/null
    expect_clean_host
}

# A network without a subnet is one that the host has no route to; when there is none left it is said.
case_pools_of_the_host_are_passed_over() {
    local number free made=()
    ip link add t-lan type dummy
    ip link set t-lan up
    for number in $(seq 17 31); do ip route add "172.$number.200.0/24" dev t-lan; done
    for number in $(seq 0 16 240); do
        [ "$number" = 64 ] || ip route add "192.168.$number.0/24" dev t-lan 2>/dev/null || true
    done
    free=$(hull network inspect -f '{{(index .IPAM.Config 0).Subnet}}' "$(hull network create t-free)")
    capture hull network create t-none
    ip link del t-lan
    hull network rm t-free >/dev/null
    expect_eq "$free" 192.168.64.0/20 'the one that is free'
    [ "$status" != 0 ] || { hull network rm t-none >/dev/null; fail 'a network where there is no room'; }
    expect_err_has 'all predefined address pools have been fully subnetted'
}
