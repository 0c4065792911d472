# Networks: reach, names, published ports, isolation.
. tests/integration/networks.sh

# Core.
case_the_default_network_reaches_host_and_containers() {
    capture hull run --rm "$BUSYBOX" sh -c 'ip -o -4 addr show eth0; ip route; tail -n 1 /etc/hosts; hostname'
    expect_status 0
    expect_out_has '/16'
    expect_out_has 'default via'
    web t-web
    local address
    address=$(address_of t-web bridge)
    wait_for 10 sh -c "curl -s --max-time 3 http://$address/ | grep -q served"
    expect_eq "$(hull run --rm "$BUSYBOX" timeout 10 wget -q -O- "http://$address/")" served 'from another container'
    hull rm -f t-web >/dev/null
    expect_clean_host
}

# While no bridge of Hull's is there, others may take its addresses, as dockerd does.
case_the_default_network_makes_way_for_others_addresses() {
    local subnet address
    subnet=$(hull network inspect -f '{{(index .IPAM.Config 0).Subnet}}' bridge)
    hulld_stop
    ip link add t-other type dummy
    ip addr add "${subnet%.*.*}.0.1/${subnet#*/}" dev t-other
    ip link set t-other up
    hulld_start
    web t-way
    address=$(address_of t-way bridge)
    wait_for 20 sh -c "curl -s --max-time 3 http://$address/ | grep -q served"
    [ "$(hull network inspect -f '{{(index .IPAM.Config 0).Subnet}}' bridge)" != "$subnet" ] || fail 'the same addresses'
    hull rm -f t-way >/dev/null
    expect_clean_host
}

# Core.
case_published_ports() {
    web t-pub -p 18080:80 -p 127.0.0.1::80
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18080/ | grep -q served'
    hull port t-pub 80 | grep -qx 0.0.0.0:18080
    local free
    free=$(hull port t-pub 80 | grep '^127.0.0.1:')
    expect_eq "$(curl -s --max-time 5 "http://$free/")" served 'a port that was chosen'
    hull ps | grep t-pub | grep -q '18080->80/tcp'
    capture hull run --rm -p 18080:80 "$BUSYBOX" true
    expect_status 125
    expect_err_has 18080
    hull rm -f t-pub >/dev/null
    curl -s --max-time 2 http://127.0.0.1:18080/ && fail 'the port outlived its container'
    expect_clean_host
}

# Core.
case_names_on_a_user_defined_network() {
    hull network create t-net >/dev/null
    hull run -d --name t-db --network t-net --network-alias data "$BUSYBOX" sleep 600 >/dev/null
    capture hull run --rm --network t-net "$BUSYBOX" sh -c 'ping -c 1 -W 5 t-db >/dev/null && echo name; ping -c 1 -W 5 data >/dev/null && echo alias; ping -c 1 -W 5 t-db.t-net >/dev/null && echo full; nslookup nothing.invalid >/dev/null 2>&1 || echo unknown'
    expect_out $'name\nalias\nfull\nunknown\n'
    capture hull network rm t-net
    [ "$status" != 0 ] || fail 'a network in use was removed'
    expect_err_has 'active endpoints'
    # Another address is seen at once.
    hull run -d --name t-hold --network t-net "$BUSYBOX" sleep 600 >/dev/null
    hull rm -f t-db >/dev/null
    hull run -d --name t-db --network t-net "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-hold nslookup t-db | sed -n 's/^Address: //p' | tail -n 1)" "$(address_of t-db t-net)" 'the new address'
    hull rm -f t-db t-hold >/dev/null
    hull network rm t-net >/dev/null
}

case_networks_are_apart() {
    hull network create t-one >/dev/null
    hull network create --internal t-inner >/dev/null
    hull run -d --name t-a --network t-one "$BUSYBOX" sleep 600 >/dev/null
    capture hull run --rm "$BUSYBOX" ping -c 1 -W 2 "$(address_of t-a t-one)"
    [ "$status" != 0 ] || fail 'one network reached another'
    capture hull run --rm --network t-inner "$BUSYBOX" sh -c 'ip route | grep -c default'
    expect_out $'0\n'
    capture hull run --rm --network none "$BUSYBOX" sh -c 'ls /sys/class/net'
    expect_out $'lo\n'
    hull rm -f t-a >/dev/null
    hull network rm t-one t-inner >/dev/null
}

# Core.
case_bad_networks_are_named() {
    capture hull run --rm --network t-nothing "$BUSYBOX" true
    expect_status 125
    expect_err_has t-nothing
    capture hull run --rm --network container:t-nothing "$BUSYBOX" true
    expect_status 125
    expect_err_has 'No such container: t-nothing'
    capture hull network create --subnet nonsense t-x
    expect_err_has nonsense
    capture hull run --rm -p 99999:80 "$BUSYBOX" true
    expect_status 125
}

case_killed_engine_keeps_networks() {
    web t-keep -p 18081:80
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18081/ | grep -q served'
    next_engine
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18081/ | grep -q served'
    hull rm -f t-keep >/dev/null
    expect_eq "$(taps)" '' 'taps left'
    expect_clean_host
}

case_large_transfer() {
    web t-big
    hull exec t-big sh -c 'dd if=/dev/zero bs=1M count=64 2>/dev/null | tr "\0" x >/www/big'
    local address
    address=$(address_of t-big bridge)
    expect_eq "$(curl -s --max-time 60 "http://$address/big" | wc -c)" 67108864 'bytes'
}

# Core.
case_a_guest_sends_from_its_own_address_only() {
    hull network create --subnet 10.231.0.0/24 t-guard >/dev/null
    hull run -d --name t-peer --network t-guard --ip 10.231.0.9 "$BUSYBOX" sleep 600 >/dev/null
    capture hull run --rm --cap-add NET_ADMIN --network t-guard "$BUSYBOX" sh -c '
        ping -c 1 -W 5 10.231.0.9 >/dev/null && echo own
        ip addr add 10.231.0.77/24 dev eth0
        ping -c 1 -W 2 -I 10.231.0.77 10.231.0.9 >/dev/null || echo no other address
        ip link set eth0 down; ip link set eth0 address 02:42:0a:e7:00:4d; ip link set eth0 up
        ping -c 1 -W 2 10.231.0.9 >/dev/null || echo no other interface'
    expect_out $'own\nno other address\nno other interface\n'
    hull rm -f t-peer >/dev/null
    hull network rm t-guard >/dev/null
}

# Core.
case_egress_policies() {
    local gateway
    hull network create --subnet 10.232.0.0/24 t-egress >/dev/null
    gateway=10.232.0.1
    web t-in --network t-egress --egress none -p 18082:80
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18082/ | grep -q served'
    capture hull exec t-in sh -c "ping -c 1 -W 2 $gateway >/dev/null || echo not the host; nslookup t-in >/dev/null && echo names; nslookup example.org | grep -c REFUSED"
    expect_out $'not the host\nnames\n2\n'
    ip link add t-outside type dummy
    ip addr add 10.233.0.1/32 dev t-outside
    capture hull run --rm --network t-egress --egress outside "$BUSYBOX" ping -c 1 -W 2 10.233.0.1
    ip link del t-outside
    [ "$status" != 0 ] || fail 'an address of the host was reached'
    capture hull run --rm --egress bogus "$BUSYBOX" true
    expect_status 125
    expect_err_has bogus
    hull rm -f t-in >/dev/null
    hull network rm t-egress >/dev/null
}

# Core.
case_ports_on_ipv6_localhost() {
    web t-six -p 18083:80
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18083/ | grep -q served'
    [ -e /proc/net/if_inet6 ] || skip 'no IPv6 here'
    expect_eq "$(curl -s --max-time 5 'http://[::1]:18083/')" served 'by IPv6'
}

case_networks_come_and_go_while_a_container_runs() {
    hull network create t-hot >/dev/null
    hull run -d --name t-server --network t-hot "$BUSYBOX" sh -c 'echo page >/f; exec httpd -f -p 80 -h /' >/dev/null
    hull run -d --name t-client "$BUSYBOX" sleep 600 >/dev/null
    local address
    address=$(hull inspect -f '{{json .NetworkSettings.Networks}}' t-server | jq -r '.[].IPAddress')
    hull network connect t-hot t-client
    expect_eq "$(hull exec t-client wget -q -O - "http://$address/f")" page 'after connect'
    hull exec t-client ip addr show eth1 | grep -q 'inet ' || fail 'no eth1'
    expect_eq "$(hull inspect -f '{{json .NetworkSettings.Networks}}' t-client | jq -r 'keys | join(" ")')" 'bridge t-hot' inspect
    capture hull network connect t-hot t-client
    [ "$status" != 0 ] || fail 'connected twice'
    hull network disconnect t-hot t-client
    expect_eq "$(hull exec t-client sh -c 'ls /sys/class/net | grep -c eth1')" 0 'after disconnect' || true
    capture hull exec t-client timeout 3 wget -q -O - "http://$address/f"
    [ "$status" != 0 ] || fail 'reached after disconnect'
    # The slot is free again, and the first network too.
    hull network connect t-hot t-client
    expect_eq "$(hull exec t-client wget -q -O - "http://$address/f")" page 'connected again'
    hull network disconnect bridge t-client
    expect_eq "$(hull exec t-client wget -q -O - "http://$address/f")" page 'without the first'
    hull restart -t 1 t-client >/dev/null
    expect_eq "$(hull exec t-client wget -q -O - "http://$address/f")" page 'after a restart'
    hull rm -f t-client t-server >/dev/null
    hull network rm t-hot >/dev/null
}

# As many as there are slots, from the start and while it runs; one more is refused before it starts.
case_a_container_on_four_networks() {
    local n networks=()
    for n in 1 2 3 4 5; do hull network create "t-n$n" >/dev/null; done
    for n in 1 2 3 4; do hull run -d --name "t-s$n" --network "t-n$n" "$BUSYBOX" sleep 600 >/dev/null; done
    for n in 1 2 3; do networks+=(--network "t-n$n"); done
    hull run -d --name t-all "${networks[@]}" "$BUSYBOX" sleep 600 >/dev/null
    hull network connect t-n4 t-all
    for n in 1 2 3 4; do
        hull exec t-all ping -c 1 -W 5 "t-s$n" >/dev/null || fail "t-s$n is not reached"
        hull exec "t-s$n" ping -c 1 -W 5 t-all >/dev/null || fail "t-s$n does not reach it"
    done
    expect_eq "$(hull exec t-all sh -c 'ls /sys/class/net | grep -c ^eth')" 4 interfaces
    capture hull network connect t-n5 t-all
    [ "$status" != 0 ] || fail 'a fifth'
    expect_err_has 'at most 4 networks'
    hull network disconnect t-n3 t-all
    hull network connect t-n5 t-all
    hull exec t-all ping -c 1 -W 2 t-s3 >/dev/null 2>&1 && fail 'reached after disconnect'
    capture hull run --rm "${networks[@]}" --network t-n4 --network t-n5 "$BUSYBOX" true
    expect_status 125
    expect_err_has 'at most 4 networks'
    hull restart -t 1 t-all >/dev/null
    for n in 1 2 4; do hull exec t-all ping -c 1 -W 5 "t-s$n" >/dev/null || fail "t-s$n is not reached after a restart"; done
    hull rm -f t-all t-s1 t-s2 t-s3 t-s4 >/dev/null
    hull network rm t-n1 t-n2 t-n3 t-n4 t-n5 >/dev/null
}

# Both families on one network: addresses, names, reach, masquerading, a published port.
case_ipv6_on_a_network() {
    [ -e /proc/net/if_inet6 ] || skip 'no IPv6 here'
    hull network create --ipv6 --subnet 10.61.0.0/24 --subnet fd00:61::/64 t-six >/dev/null
    web t-v6 --network t-six --ip6 fd00:61::77 -p 18090:80
    expect_eq "$(hull inspect -f '{{json .NetworkSettings.Networks}}' t-v6 | jq -r '."t-six" | "\(.GlobalIPv6Address)/\(.GlobalIPv6PrefixLen) \(.IPv6Gateway)"')" 'fd00:61::77/64 fd00:61::1' inspect
    ip netns add t-out
    ip link add t-v0 type veth peer name t-v1 netns t-out
    ip addr add 2001:db8:1::1/64 dev t-v0 nodad
    ip link set t-v0 up
    ip -n t-out addr add 2001:db8:1::2/64 dev t-v1 nodad
    ip -n t-out link set t-v1 up
    capture hull run --rm --cap-add NET_ADMIN --network t-six "$BUSYBOX" sh -c '
        printf "GET / HTTP/1.0\r\n\r\n" | nc -w 5 fd00:61::77 80 | tail -n 1
        nslookup -type=aaaa t-v6 | grep -o fd00:61::77
        nslookup fd00:61::77 | grep -o "name = t-v6[a-z.-]*"
        cat /proc/sys/net/ipv6/conf/eth0/accept_ra
        ping6 -c 1 -W 5 2001:db8:1::2 >/dev/null && echo outside
        ip -6 addr add fd00:61::99/64 dev eth0
        ping6 -c 1 -W 2 -I fd00:61::99 fd00:61::77 >/dev/null || echo no other address'
    local refused
    refused=$(hull run --rm --network t-six --egress none "$BUSYBOX" sh -c 'ping6 -c 1 -W 2 2001:db8:1::2 >/dev/null || echo closed; ping6 -c 1 -W 5 fd00:61::77 >/dev/null && echo neighbours')
    ip netns del t-out
    expect_out $'served\nfd00:61::77\nname = t-v6.t-six\n0\noutside\nno other address\n'
    expect_eq "$refused" $'closed\nneighbours' 'egress none'
    expect_eq "$(curl -s --max-time 5 'http://[::1]:18090/')" served 'by IPv6 from the host'
    hull rm -f t-v6 >/dev/null
    hull network rm t-six >/dev/null
}

# A network without IPv4: addresses, names, routes, ports, policies and what a guest may send are those
# of IPv6 alone, beside a network of IPv4 as well, and for the next engine.
case_a_network_without_ipv4() {
    [ -e /proc/net/if_inet6 ] || skip 'no IPv6 here'
    capture hull network create --ipv4=false t-six
    [ "$status" != 0 ] || fail 'a network without addresses was made'
    expect_err_has 'IPv4 or IPv6 must be enabled'
    hull network create --ipv6 --ipv4=false --subnet fd00:71::/64 t-six >/dev/null
    expect_eq "$(hull network ls --filter name=t-six --format '{{.IPv4}} {{.IPv6}}')" 'false true' ls
    expect_eq "$(hull network inspect t-six | jq -cS '.[0] | [.EnableIPv4, .EnableIPv6, .IPAM.Config]')" '[false,true,[{"Gateway":"fd00:71::1","Subnet":"fd00:71::/64"}]]' inspect
    capture hull run --rm --network t-six --ip 10.0.0.9 "$BUSYBOX" true
    expect_status 125
    expect_err_has 'has no IPv4'
    web t-only --network t-six -p 18095:80
    expect_eq "$(hull inspect t-only | jq -c '.[0].NetworkSettings.Networks["t-six"] | [.IPAddress, .IPPrefixLen, .Gateway, .GlobalIPv6Address, .GlobalIPv6PrefixLen, .IPv6Gateway]')" '["",0,"","fd00:71::2",64,"fd00:71::1"]' 'of the container'
    expect_eq "$(hull network inspect t-six | jq -r '.[0].Containers[] | "\(.IPv4Address)+\(.IPv6Address)"')" '+fd00:71::2/64' 'of the network'
    ip netns add t-out
    ip link add t-v0 type veth peer name t-v1 netns t-out
    ip addr add 2001:db8:2::1/64 dev t-v0 nodad
    ip link set t-v0 up
    ip -n t-out addr add 2001:db8:2::2/64 dev t-v1 nodad
    ip -n t-out link set t-v1 up
    capture hull run --rm --network t-six "$BUSYBOX" sh -c '
        ip -4 addr show dev eth0 | grep -c inet
        ip -4 route | grep -c .
        grep nameserver /etc/resolv.conf
        timeout 10 wget -q -O- http://t-only/
        nslookup -type=aaaa t-only | grep -o fd00:71::2
        nslookup -type=a t-only 2>&1 | grep -c "^Address.*fd00:71::2"
        ping6 -c 1 -W 5 2001:db8:2::2 >/dev/null && echo outside'
    expect_out $'0\n0\nnameserver fd00:71::1\nserved\nfd00:71::2\n0\noutside\n'
    capture hull run --rm --network t-six --egress none "$BUSYBOX" sh -c 'ping6 -c 1 -W 2 2001:db8:2::2 >/dev/null || echo closed; ping6 -c 1 -W 5 fd00:71::2 >/dev/null && echo neighbours; nslookup -type=aaaa t-only | grep -o fd00:71::2'
    expect_out $'closed\nneighbours\nfd00:71::2\n'
    capture hull run --rm --network t-six --egress 'allow:[2001:db8:2::2]' "$BUSYBOX" sh -c 'ping6 -c 1 -W 5 2001:db8:2::2 >/dev/null && echo open; ping6 -c 1 -W 2 2001:db8:2::1 >/dev/null || echo closed'
    expect_out $'open\nclosed\n'
    expect_eq "$(curl -s --max-time 5 http://127.0.0.1:18095/)" served 'by IPv4 from the host'
    expect_eq "$(curl -s --max-time 5 'http://[::1]:18095/')" served 'by IPv6 from the host'
    # Neither IPv4 nor ARP nor another's address is let out.
    hull run -d --name t-forger --cap-add NET_ADMIN --network t-six "$BUSYBOX" sleep 600 >/dev/null
    hull exec t-forger sh -c 'ip addr add 10.71.0.9/24 dev eth0; ping -c 2 -W 1 10.71.0.1; ip -6 addr add fd00:71::99/64 dev eth0 nodad; ping6 -c 1 -W 2 -I fd00:71::99 fd00:71::2' >/dev/null && fail 'another address was let out'
    wait_for 5 sh -c "[ \"\$(hull inspect t-forger | jq -r '.[0].NetworkSettings.Networks[\"t-six\"].DriverOpts[\"dev.hull.denied\"]')\" -ge 2 ]"
    # A network of IPv4 beside it: each has the default route of its family, until one goes.
    hull network connect bridge t-forger
    expect_eq "$(hull exec t-forger sh -c 'ip -4 route show default | grep -c .; ip -6 route show default | grep -c fd00:71::1')" $'1\n1' 'default routes'
    hull network disconnect t-six t-forger
    expect_eq "$(hull exec t-forger sh -c 'ip -4 route show default | grep -c .; ip -6 route show default | grep -c .')" $'1\n0' 'default routes without it'
    hull network connect t-six t-forger
    hull exec t-forger ping6 -c 1 -W 5 2001:db8:2::2 >/dev/null || fail 'no way out after it came again'
    next_engine
    expect_eq "$(curl -s --max-time 5 http://127.0.0.1:18095/)" served 'with the next engine'
    hull exec t-forger nslookup -type=aaaa t-only | grep -q fd00:71::2 || fail 'no names with the next engine'
    ip netns del t-out
    hull rm -f t-only t-forger >/dev/null
    hull network rm t-six >/dev/null
    expect_clean_host
}

# A container of the default network that is connected to another finds its names; a container that
# is gone is not found; a new name is; links have names of their own.
case_names_follow_containers() {
    hull network create t-nn >/dev/null
    hull run -d --name t-db --network t-nn --network-alias data "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-late "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-late nslookup -type=a t-db 2>&1 | grep -c NXDOMAIN)" 1 'before connect'
    hull network connect t-nn t-late
    hull exec t-late ping -c 1 -W 5 data >/dev/null || fail 'no names after connect'
    hull rename t-db t-renamed
    hull exec t-late ping -c 1 -W 5 t-renamed >/dev/null || fail 'no new name'
    hull rm -f t-renamed >/dev/null
    expect_eq "$(hull exec t-late timeout 3 nslookup -type=a data 2>&1 | grep -c NXDOMAIN)" 1 'a name that is gone'
    capture hull run --rm --link t-late:other --add-host here:host-gateway "$BUSYBOX" sh -c 'ping -c 1 -W 5 other >/dev/null && echo link; ping -c 1 -W 5 here >/dev/null && echo host'
    expect_out $'link\nhost\n'
    hull rm -f t-late >/dev/null
    hull network rm t-nn >/dev/null
}

# The MTU is that of the way out, unless the network has its own.
case_mtu_of_the_way_out() {
    local uplink mtu whole
    uplink=$(ip route show default | sed -n '1s/.* dev \([^ ]*\).*/\1/p')
    [ -n "$uplink" ] || skip 'no default route here'
    hull network create --ipv6 t-six >/dev/null
    for mtu in 576 1450 9000; do
        ip link set "$uplink" mtu $mtu || continue
        web t-web -p 18207:80
        hull exec t-web dd if=/dev/zero of=/www/big bs=64k count=16 2>/dev/null
        whole=$(curl -s --max-time 20 http://127.0.0.1:18207/big | wc -c)
        capture hull run --rm "$BUSYBOX" sh -c "cat /sys/class/net/eth0/mtu; wget -q -O- http://$(address_of t-web bridge)/big | wc -c; ping -c 1 -W 5 -s $((mtu - 28)) $(address_of t-web bridge) >/dev/null && echo whole"
        expect_out "$mtu"$'\n1048576\nwhole\n'
        # IPv6 has a least size.
        capture hull run --rm --network t-six "$BUSYBOX" sh -c 'cat /sys/class/net/eth0/mtu; ping6 -c 1 -W 5 -s 3000 "$(ip -6 route show default | sed -n "s/.*via \([^ ]*\).*/\1/p")" >/dev/null && echo in pieces'
        ip link set "$uplink" mtu 1500
        expect_out "$((mtu < 1280 ? 1280 : mtu))"$'\nin pieces\n'
        expect_eq "$whole" 1048576 'by the port'
        hull rm -f t-web >/dev/null
    done
    hull network rm t-six >/dev/null
    expect_clean_host
}

# No container is started for any of these.
case_networks_that_can_not_be() {
    hull network create --subnet 10.62.0.0/24 t-taken >/dev/null
    local wrong
    while read -r wrong; do
        capture hull network create $wrong t-bad
        [ "$status" != 0 ] || fail "made: $wrong"
        expect_err_has "$(awk -F'[ =]' '{print $NF}' <<<"$wrong")"
    done <<'END'
--subnet 10.62.0.128/25
--subnet 10.63.0.1/16
--subnet 10.63.0.0/31
--subnet 10.63.0.0/24 --gateway 10.64.0.1
--subnet 10.63.0.0/24 --ip-range 10.64.0.0/25
--subnet 10.63.0.0/24 --aux-address router=10.64.0.1
-d nonsense
END
    capture hull run --rm --ip 172.17.0.99 "$BUSYBOX" true
    expect_status 125
    expect_err_has 'user defined networks only'
    capture hull run --rm --network t-taken --ip 10.62.0.1 "$BUSYBOX" true
    expect_status 125
    expect_err_has 'already in use'
    capture hull run --rm --network t-taken --ip 10.99.0.1 "$BUSYBOX" true
    expect_status 125
    expect_err_has 10.99.0.1
    # All addresses are given out; one that a container has is nobody else's, until that is gone.
    hull network create --subnet 10.62.4.0/30 t-small >/dev/null
    hull run -d --name t-holds --network t-small "$BUSYBOX" sleep 600 >/dev/null
    capture hull run --rm --network t-small "$BUSYBOX" true
    expect_status 125
    expect_err_has "no available IPv4 addresses on this network's address pools: t-small"
    capture hull run --rm --network t-small --ip 10.62.4.2 "$BUSYBOX" true
    expect_status 125
    expect_err_has 'Address already in use'
    hull rm -f t-holds >/dev/null
    expect_eq "$(hull run --rm --network t-small "$BUSYBOX" ip -o -4 addr show eth0 | grep -o '10.62.4.2/30')" 10.62.4.2/30 'the address that was given back'
    hull network rm t-small >/dev/null
    capture hull network ls --filter colour=red
    [ "$status" != 0 ] || fail 'a filter that is none'
    expect_eq "$(hull network ls -q --filter name=t-taken | wc -l)" 1 'filtered'
    hull network rm t-taken >/dev/null
}

case_flushed_rules_come_back() {
    command -v nft >/dev/null || skip 'no nft here'
    hull run -d --name t-flush --egress none "$BUSYBOX" sleep 600 >/dev/null
    # Hull's own: nobody brings back what other engines had.
    local before
    before=$(nft list ruleset | grep -c 'drop comment "h')
    nft flush ruleset
    wait_for 10 sh -c "[ \$(nft list ruleset | grep -c 'drop comment \"h') = $before ]" || fail "rules: $(nft list ruleset)"
    capture hull exec t-flush ping -c 1 -W 2 172.17.0.1
    [ "$status" != 0 ] || fail 'the policy is gone'
    local denied
    denied=$(hull inspect -f '{{json .NetworkSettings.Networks}}' t-flush | jq -r '.bridge.DriverOpts["dev.hull.denied"]')
    [ "$denied" -gt 0 ] || fail "denied packets: $denied"
    hull rm -f t-flush >/dev/null
}

# What a container was denied is told once, and counted whatever happens to the rules.
case_denied_packets_are_counted_and_told() {
    command -v nft >/dev/null || skip 'no nft here'
    local denied before
    denied_of() { hull inspect -f '{{json .NetworkSettings.Networks}}' "$1" | jq -r '.bridge.DriverOpts["dev.hull.denied"]'; }
    hull run -d --name t-quiet "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-deny --egress none "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(denied_of t-deny)" 0 'at first'
    hull exec t-deny ping -c 3 -W 1 172.17.0.1 >/dev/null && fail 'the policy does not hold'
    before=$(denied_of t-deny)
    [ "$before" -ge 3 ] || fail "denied packets: $before"
    hull run --rm --egress outside "$BUSYBOX" true
    expect_eq "$(denied_of t-deny)" "$before" 'after another container'
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    hulld_start
    expect_eq "$(denied_of t-deny)" "$before" 'after a new engine'
    nft flush ruleset
    wait_for 10 sh -c "nft list ruleset | grep -q 'drop comment \"h'" || fail 'no rules'
    expect_eq "$(denied_of t-deny)" "$before" 'after a flush'
    hull exec t-deny ping -c 1 -W 1 172.17.0.1 >/dev/null && fail 'the policy does not hold any more'
    [ "$(denied_of t-deny)" -gt "$before" ] || fail 'it does not count any more'
    expect_eq "$(denied_of t-quiet)" 0 'of one that was denied nothing'
    sleep 4
    capture docker -H "$HULL_HOST" events --since 60s --until 0s --filter event=egress-denied --format '{{.Actor.Attributes.name}} {{.Actor.Attributes.packets}}'
    expect_out $'t-deny 1\n'
    hull rm -f t-deny t-quiet >/dev/null
}

# Names in a policy: closed until the name server said where it is, and nothing else.
case_egress_by_name() {
    ip netns add t-out
    ip link add t-v0 type veth peer name t-v1 netns t-out
    ip addr add 10.234.0.1/24 dev t-v0
    ip link set t-v0 up
    ip -n t-out addr add 10.234.0.2/24 dev t-v1
    ip -n t-out addr add 10.234.0.3/24 dev t-v1
    ip -n t-out link set t-v1 up
    ip -n t-out route add default via 10.234.0.1
    # Every name is 10.234.0.2.
    python3 tests/lib/name_server.py 127.0.0.9 10.234.0.2 &
    local server=$!
    capture hull run --rm --dns 127.0.0.9 --egress 'allow:good.test,*.better.test' "$BUSYBOX" sh -c '
        ping -c 1 -W 2 10.234.0.2 >/dev/null || echo closed
        ping -c 1 -W 5 good.test >/dev/null && echo open
        ping -c 1 -W 5 the.better.test >/dev/null && echo open
        ping -c 1 -W 2 10.234.0.3 >/dev/null || echo nothing else
        nslookup -type=a bad.test | grep -c REFUSED'
    kill "$server"
    ip netns del t-out
    expect_out $'closed\nopen\nopen\nnothing else\n1\n'
}

# UDP is segmented as late as TCP is: a frame for many datagrams goes through the tap, both ways, and
# what comes out at the other end is what was sent.
case_udp_of_many_datagrams_passes_in_one_frame() {
    printf '6.2\n%s\n' "$(uname -r)" | sort -VC || skip 'this kernel segments no UDP for others (Linux 6.2 does)'
    has_ipv6
    python_image
    local tool address bits end
    tool=$PWD/tests/lib/segmented.py
    hull network create --ipv6 --subnet 10.254.9.0/24 --subnet fd00:254:9::/64 t-long >/dev/null
    hull run -d --name t-udp --network t-long -v "$tool:/segmented.py:ro" "$PYTHON" sleep 600 >/dev/null
    # VIRTIO_NET_F_GUEST_USO4, GUEST_USO6 and HOST_USO.
    bits=$(hull exec t-udp cat /sys/class/net/eth0/device/features)
    expect_eq "${bits:54:3}" 111 'what the driver agreed on'
    for end in 10.254.9. fd00:254:9::; do
        python3 "$tool" receive "${end}1" 5999 >"$T/host" &
        wait_for 10 grep -q ready "$T/host"
        hull exec t-udp python3 /segmented.py send "${end}1" 5999
        wait $!
        expect_eq "$(tail -n 1 "$T/host")" '30 of 30 came as they were sent' "from the guest to ${end}1"
        address=${end}2
        hull exec t-udp python3 /segmented.py receive "$address" 5999 >"$T/guest" &
        wait_for 20 grep -q ready "$T/guest"
        python3 "$tool" send "$address" 5999
        wait $!
        expect_eq "$(tail -n 1 "$T/guest")" '30 of 30 came as they were sent' "from the host to $address"
    done
    hull rm -f t-udp >/dev/null
    hull network rm t-long >/dev/null
}

# The default route goes to the network that is left, and published ports lead there.
case_the_default_route_follows() {
    hull network create --subnet 10.235.0.0/24 t-next >/dev/null
    web t-multi -p 18084:80
    hull network connect t-next t-multi
    hull network disconnect bridge t-multi
    expect_eq "$(hull exec t-multi ip route | grep default)" 'default via 10.235.0.1 dev eth1 ' 'route'
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18084/ | grep -q served' || fail 'the port does not follow'
    hull rm -f t-multi >/dev/null
    hull network rm t-next >/dev/null
}

# What is published goes with the network by which the host reaches the container, and comes again with
# one; an engine that comes after a kill finds each port where it was.
case_published_ports_go_and_come_with_the_networks() {
    hull network create --subnet 10.238.0.0/24 t-late >/dev/null
    web t-ports -p 18097:80 -p 127.0.0.1::80
    local chosen
    chosen=$(hull port t-ports 80 | sed -n 's/^127.0.0.1://p')
    next_engine
    expect_eq "$(hull port t-ports 80 | sort | xargs)" "0.0.0.0:18097 127.0.0.1:$chosen [::]:18097" 'with the next engine'
    expect_eq "$(curl -s --max-time 5 "http://127.0.0.1:$chosen/")" served 'at the port that was chosen'
    hull network disconnect bridge t-ports
    expect_eq "$(hull port t-ports)" '' 'ports without a network'
    expect_eq "$(hull ps --filter name=t-ports --format '{{.Ports}}')" '' 'in the list'
    capture curl -s --max-time 5 http://127.0.0.1:18097/
    expect_status 7
    next_engine
    expect_eq "$(hull port t-ports)" '' 'with an engine more'
    # Somebody else may have it.
    web t-taker -p 18097:80
    capture hull network connect t-late t-ports
    expect_status 1
    expect_err_has 'port is already allocated'
    expect_eq "$(hull inspect -f '{{range $name, $end := .NetworkSettings.Networks}}{{$name}} {{end}}' t-ports)" 'none ' 'networks after that'
    hull rm -f t-taker >/dev/null
    hull network connect t-late t-ports
    expect_eq "$(curl -s --max-time 5 http://127.0.0.1:18097/)" served 'on another network'
    # Its own name is known by the address that it has by now, whatever else it has written there.
    hull exec t-ports sh -c 'echo "10.9.9.9 mine" >>/etc/hosts'
    expect_eq "$(hull exec t-ports sh -c 'grep -c "^10.238.0.*$(hostname)$" /etc/hosts')" 1 'lines of the network that came'
    hull network disconnect t-late t-ports
    expect_eq "$(hull exec t-ports sh -c 'grep "^10" /etc/hosts')" '10.9.9.9 mine' 'lines after it went'
    hull network connect bridge t-ports
    expect_eq "$(curl -s --max-time 5 http://127.0.0.1:18097/)" served 'on the first one again'
    hull rm -f t-ports >/dev/null
    hull network rm t-late >/dev/null
    # One that begins without a network.
    hull run -d --name t-ports --network none -p 18097:80 "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull port t-ports)" '' 'ports without a network from the start'
    hull rm -f t-ports >/dev/null
    expect_clean_host
}

# Which network comes first is said when it is connected, too; an engine that is killed meanwhile is
# another case. The way back is that of before.
case_the_default_route_goes_by_priority() {
    local net
    for net in 1 2 3; do
        hull network create --ipv6 --subnet 10.236.$net.0/24 --subnet fd36:$net::/64 t-way$net >/dev/null
    done
    hull run -d --name t-ways --network t-way1 "$BUSYBOX" sleep 600 >/dev/null
    ways() { hull exec t-ways sh -c 'ip route; ip -6 route' | sed -n 's/^default via .* dev \(eth[0-9]\).*/\1/p' | xargs; }
    expect_eq "$(ways)" 'eth0 eth0' 'of one network'
    hull network connect --gw-priority -1 t-way3 t-ways
    expect_eq "$(ways)" 'eth0 eth0' 'one of a lower priority'
    hull network connect --gw-priority 5 t-way2 t-ways
    expect_eq "$(ways)" 'eth2 eth2' 'one of a higher priority'
    next_engine
    hull network disconnect t-way2 t-ways
    expect_eq "$(ways)" 'eth0 eth0' 'when that is gone'
    hull network connect --gw-priority 5 t-way2 t-ways
    hull restart -t 0 t-ways >/dev/null
    expect_eq "$(hull exec t-ways ip route | sed -n 's/^default via \([0-9.]*\) .*/\1/p')" 10.236.2.1 'after a restart'
    hull rm -f t-ways >/dev/null
    hull network rm t-way1 t-way2 t-way3 >/dev/null
    expect_clean_host
}

# As with dockerd: what does not run has no end on a network.
case_a_prune_of_networks_asks_who_runs() {
    hull network create t-used >/dev/null
    hull network create t-idle >/dev/null
    hull run -d --name t-up --network t-used "$BUSYBOX" sleep 600 >/dev/null
    hull create --name t-down --network t-idle "$BUSYBOX" true >/dev/null
    hull network prune -f >"$T/pruned"
    grep -q t-idle "$T/pruned" || fail "what nobody who runs is on stays: $(cat "$T/pruned")"
    grep -q t-used "$T/pruned" && fail 'a network in use was pruned'
    hull network inspect t-used >/dev/null
    capture hull start t-down
    expect_status 1
    expect_err_has 'not found'
    hull rm -f t-up t-down >/dev/null
    hull network rm t-used >/dev/null
}

# Somebody takes a tap away: the container goes on without it, and everything ends as ever.
case_a_tap_that_is_taken_away() {
    hull run -d --name t-cut "$BUSYBOX" sh -c 'while :; do echo; sleep 1; done' >/dev/null
    ip link del "$(taps | sed -n '1s/^[0-9]*: \([^:]*\):.*/\1/p')"
    expect_eq "$(hull exec t-cut sh -c 'ping -c 1 -W 1 172.17.0.1 >/dev/null || echo cut off')" 'cut off' 'without a tap'
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-cut)" running status
    # A new start has a new one.
    hull restart -t 1 t-cut >/dev/null
    hull exec t-cut ping -c 1 -W 5 172.17.0.1 >/dev/null || fail 'no network after a restart'
    ip link del "$(taps | sed -n '1s/^[0-9]*: \([^:]*\):.*/\1/p')"
    hull rm -f t-cut >/dev/null
    expect_eq "$(taps)" '' 'taps left'
    expect_clean_host
}

# One container begins conversations without end: the host keeps some in mind for it, and others
# have theirs. Then it sends its name server what is no question, and questions.
case_a_guest_that_floods() {
    python_image
    local all=/proc/sys/net/netfilter/nf_conntrack_max before count number
    hull run -d --name t-calm "$BUSYBOX" sleep 600 >/dev/null
    before=$(cat "$all")
    echo 4096 >"$all"
    hull network create --subnet 10.236.0.0/24 t-flood >/dev/null
    hull run -d --name t-flood --network t-flood --ulimit nofile=9000:9000 "$PYTHON" sleep 600 >/dev/null
    hull exec t-flood python3 -c '
import socket
for port in range(20000, 26000):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("", port))
    try: one.sendto(b"x", ("10.236.0.1", 9))
    except OSError: pass
    one.close()
'
    # Its share stays what it is when rules change.
    for number in 1 2 3; do
        hull network create t-more$number >/dev/null
        hull run --rm --network t-more$number "$BUSYBOX" true
        hull exec t-flood python3 -c '
import socket, sys
first = 20000 + 2000 * int(sys.argv[1])
for port in range(first, first + 2000):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("", port))
    try: one.sendto(b"x", ("10.236.0.1", 9))
    except OSError: pass
    one.close()
' "$((number + 3))"
        hull network rm t-more$number >/dev/null
    done
    count=$(cat /proc/sys/net/netfilter/nf_conntrack_count)
    hull exec t-calm ping -c 1 -W 5 172.17.0.1 >/dev/null || fail 'a neighbour is cut off'
    echo "$before" >"$all"
    [ "$count" -gt 300 ] && [ "$count" -lt 1500 ] || fail "the host keeps $count conversations in mind"
    hull exec t-flood python3 -c '
import os, socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.connect(("10.236.0.1", 53))
for number in range(20000):
    try: one.send(os.urandom(number % 600) if number % 2 else bytes((0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 0, 0, 1, 0, 1)))
    except OSError: pass
'
    hull run --rm --name t-asks --network t-flood "$BUSYBOX" sh -c 'for i in 1 2 3; do nslookup -type=a t-flood && exit; done; exit 1' >/dev/null || fail 'the name server is gone'
    hull rm -f t-flood t-calm >/dev/null
    hull network rm t-flood >/dev/null
}

case_rates_hold_both_ways() {
    web t-rated --net-rate in=64k,out=64k
    hull run --rm --net-rate out=0 "$BUSYBOX" true 2>"$T/err" && fail 'a rate of nothing'
    grep -q 'dev.hull.net-rate' "$T/err"
    hull exec t-rated sh -c 'head -c 400000 /dev/zero >/www/big'
    local ip from
    ip=$(hull inspect -f '{{.NetworkSettings.IPAddress}}' t-rated)
    # 400000 bytes at 65536 a second, of which a tenth of a second's are free, and a frame's.
    from=$(date +%s%N)
    [ "$(curl -s "http://$ip/big" | wc -c)" = 400000 ]
    [ $((($(date +%s%N) - from) / 1000000)) -ge 4500 ] || fail 'out of it faster than the rate'
    hull exec -d t-rated sh -c 'nc -l -p 99 | wc -c >/got'
    wait_for 20 hull exec t-rated sh -c 'netstat -ltn | grep -q :99'
    from=$(date +%s%N)
    head -c 400000 /dev/zero >"/dev/tcp/$ip/99"
    wait_for 60 hull exec t-rated sh -c '[ "$(cat /got)" = 400000 ]'
    [ $((($(date +%s%N) - from) / 1000000)) -ge 4500 ] || fail 'into it faster than the rate'
}

# A name server that knows 200 addresses for one name and does not care how much fits into a packet.
case_large_answers_of_name_servers() {
    python_image
    python3 -c '
import socket, threading
def answer(question):
    count = 200 if question[-4:-2] == b"\0\1" else 0
    head = question[:2] + b"\x81\x80\0\1" + count.to_bytes(2, "big") + bytes(4)
    end = question.index(b"\0", 12) + 5
    return head + question[12:end] + b"".join(
        b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\x63\0" + bytes([host]) for host in range(count))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.9", 53))
tcp = socket.create_server(("127.0.0.9", 53))
def by_tcp():
    while True:
        connection = tcp.accept()[0]
        question = connection.recv(4096)
        reply = answer(question[2:])
        connection.sendall(len(reply).to_bytes(2, "big") + reply)
        connection.close()
threading.Thread(target=by_tcp, daemon=True).start()
while True:
    question, peer = udp.recvfrom(4096)
    udp.sendto(answer(question), peer)
' &
    local server=$!
    # On the default network it would ask by itself.
    hull network create t-asks >/dev/null
    capture hull run --rm --network t-asks --dns 127.0.0.9 "$PYTHON" python3 -c '
import socket
print(len(socket.getaddrinfo("many.test", 80, socket.AF_INET, socket.SOCK_STREAM)))
ask = b"\0\7\1\0\0\1\0\0\0\0\0\0\4many\4test\0\0\1\0\1"
server = [line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver")][0]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.sendto(ask, (server, 53))
answer = udp.recv(65535)
print(len(answer) <= 512, bool(answer[2] & 2))'
    kill "$server"
    expect_out $'200\nTrue True\n'
}

# A receiver that does not read while small packets come as fast as they can leaves a queue that is
# full; afterwards all goes on as before.
case_a_flooded_interface_recovers() {
    python_image
    hull run -d --name t-flooded "$PYTHON" python3 -c '
import os, signal, socket, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("", 9999))
print("bound", flush=True)
time.sleep(600)' >/dev/null
    wait_for 20 sh -c 'hull logs t-flooded | grep -q bound'
    local address
    address=$(address_of t-flooded bridge)
    python3 -c '
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.time() + 10
while time.time() < end:
    for _ in range(100):
        try: out.sendto(b"x", (sys.argv[1], 9999))
        except OSError: pass' "$address"
    busybox ping -c 3 -W 5 "$address" | grep -q '3 packets received' || fail 'no answer after the flood'
    hull exec t-flooded python3 -c '
import socket
port = socket.create_server(("", 8000))
peer = port.accept()[0]
count = 0
while data := peer.recv(1 << 16): count += len(data)
print(count)' >"$T/got" &
    local receiver=$!
    wait_for 20 python3 -c '
import socket, sys
try: out = socket.create_connection((sys.argv[1], 8000), 5)
except OSError: sys.exit(1)
for _ in range(160): out.sendall(bytes(1 << 16))' "$address"
    wait "$receiver"
    expect_eq "$(cat "$T/got")" 10485760 'bytes after the flood'
}

# The smallest and a large MTU: packets of that size pass, larger ones are cut.
case_small_and_large_mtus() {
    local mtu
    for mtu in 576 9000; do
        hull network create --opt com.docker.network.driver.mtu=$mtu "t-mtu-$mtu" >/dev/null
        web "t-web-$mtu" --network "t-mtu-$mtu"
        capture hull run --rm --network "t-mtu-$mtu" "$BUSYBOX" sh -c "
            cat /sys/class/net/eth0/mtu
            ping -c 1 -W 5 -s $((mtu - 28)) t-web-$mtu >/dev/null && echo whole
            ping -c 1 -W 5 -s $((mtu * 3)) t-web-$mtu >/dev/null && echo in pieces
            wget -q -O- http://t-web-$mtu/"
        expect_out "$mtu"$'\nwhole\nin pieces\nserved\n'
        hull rm -f "t-web-$mtu" >/dev/null
        hull network rm "t-mtu-$mtu" >/dev/null
    done
    expect_clean_host
}

# Containers on the network of an interface of the host: others there reach them under their own
# hardware addresses, the host does not.
case_a_macvlan_network() {
    ip netns add t-lan
    ip link add t-p0 type veth peer name t-p1 netns t-lan
    ip link set t-p0 up mtu 1400
    ip -n t-lan addr add 10.240.0.1/24 dev t-p1
    ip -n t-lan link set t-p1 up
    capture hull network create -d macvlan -o parent=no-such0 t-bad
    expect_status 1
    expect_err_has 'no-such0'
    hull network create -d macvlan --subnet 10.240.0.0/24 -o parent=t-p0 t-mac >/dev/null
    expect_eq "$(hull network inspect -f '{{.Driver}} {{.Options.parent}}' t-mac)" 'macvlan t-p0' driver
    capture hull run --rm --network t-mac --egress none "$BUSYBOX" true
    expect_status 125
    expect_err_has 'egress policy'
    web t-one --network t-mac --ip 10.240.0.9 -p 80 --cap-add NET_ADMIN
    expect_eq "$(hull port t-one)" '' 'published ports'
    capture hull exec t-one sh -c 'cat /sys/class/net/eth0/mtu; ip route | head -n 1; ping -c 1 -W 5 10.240.0.1 >/dev/null && echo out'
    expect_out $'1400\ndefault via 10.240.0.1 dev eth0 \nout\n'
    ip netns exec t-lan busybox ping -c 1 -W 5 10.240.0.9 >/dev/null || fail 'not reached from the network'
    expect_eq "$(ip netns exec t-lan cat /proc/net/arp | awk '$1 == "10.240.0.9" { print $4 }')" \
        "$(hull inspect -f '{{(index .NetworkSettings.Networks "t-mac").MacAddress}}' t-one)" 'its hardware address'
    capture hull run --rm --network t-mac "$BUSYBOX" timeout 10 wget -q -O- http://10.240.0.9/
    expect_out $'served\n'
    # From no other address.
    capture hull exec t-one sh -c 'ip addr add 10.240.0.77/24 dev eth0; ping -c 1 -W 2 -I 10.240.0.77 10.240.0.1 >/dev/null || echo pinned'
    expect_out $'pinned\n'
    # An engine that starts anew finds it again.
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
    hull exec t-one ping -c 1 -W 5 10.240.0.1 >/dev/null || fail 'no network after a crash of the engine'
    hull rm -f t-one >/dev/null
    expect_eq "$(taps)" '' 'taps left'
    hull network rm t-mac >/dev/null
    ip link del t-p0
    ip netns del t-lan
    expect_clean_host
}

# lan_of_t_p0 COMMAND...: t-p0 is this host's end of a cable whose other end, t-p1, is in another place.
lan_of_t_p0() {
    ip netns add t-lan
    ip link add t-p0 type veth peer name t-p1 netns t-lan
    ip link set t-p0 up
    ip -n t-lan link set t-p1 up
}
no_lan_of_t_p0() {
    ip link del t-p0
    ip netns del t-lan
}
links() { ip -o link | awk -F': ' '{ sub("@.*", "", $2); print $2 }' | grep -E "$1" || true; }

# The VLAN of a network's name is there as long as a network is on it.
case_a_network_brings_its_vlan_along() {
    modprobe 8021q 2>/dev/null || true
    [ -e /proc/net/vlan ] || skip 'no module 8021q here'
    lan_of_t_p0
    ip -n t-lan link add link t-p1 name t-v type vlan id 50
    ip -n t-lan addr add 10.245.0.1/24 dev t-v
    ip -n t-lan link set t-v up
    local parent
    for parent in t-p0.0 t-p0.4095 no-such0.50; do
        capture hull network create -d macvlan -o "parent=$parent" t-bad
        expect_status 1
        expect_err_has "$parent"
    done
    hull network create -d macvlan --subnet 10.245.0.0/24 -o parent=t-p0.50 t-vlan >/dev/null
    hull network create -d macvlan --subnet 10.246.0.0/24 -o parent=t-p0.50 t-vlan2 >/dev/null
    expect_eq "$(awk '$1 == "t-p0.50" { print $3, $5 }' /proc/net/vlan/config)" '50 t-p0' 'the VLAN'
    hull run --rm --network t-vlan "$BUSYBOX" ping -c 1 -W 5 10.245.0.1 >/dev/null || fail 'not by the VLAN'
    hull network rm t-vlan2 >/dev/null
    # A host that was started anew has it no more.
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    ip link del t-p0.50
    hulld_start
    hull run --rm --network t-vlan "$BUSYBOX" ping -c 1 -W 5 10.245.0.1 >/dev/null || fail 'not by a VLAN that had gone'
    hull network rm t-vlan >/dev/null
    expect_eq "$(links '^t-p0')" t-p0 'interfaces left'
    # One that was there stays.
    ip link add link t-p0 name t-p0.51 type vlan id 51
    hull network create -d ipvlan --subnet 10.245.0.0/24 -o parent=t-p0.51 t-vlan >/dev/null
    hull network rm t-vlan >/dev/null
    expect_eq "$(links '^t-p0[.]')" t-p0.51 "somebody else's VLAN"
    no_lan_of_t_p0
    expect_clean_host
}

case_networks_without_an_interface_of_the_host() {
    local driver
    for driver in macvlan ipvlan; do
        hull network create -d "$driver" --subnet 10.247.0.0/24 t-nowhere >/dev/null
        expect_eq "$(links ^dm-)" "dm-$(hull network ls -q --filter name=t-nowhere)" 'its interface'
        web t-one --network t-nowhere --ip 10.247.0.9
        capture hull run --rm --network t-nowhere "$BUSYBOX" sh -c 'ip route; timeout 10 wget -q -O- http://10.247.0.9/'
        expect_out_has 'served'
        [[ $out != *default* ]] || fail "$driver: a way out of nowhere: $out"
        hull rm -f t-one >/dev/null
        hull network rm t-nowhere >/dev/null
        expect_eq "$(links ^dm-)" '' 'interfaces left'
    done
    expect_clean_host
}

case_an_interface_is_passed_through_to_one_container() {
    lan_of_t_p0
    ip -n t-lan addr add 10.248.0.1/24 dev t-p1
    hull network create -d macvlan --subnet 10.248.0.0/24 -o parent=t-p0 -o macvlan_mode=passthru t-pass >/dev/null
    capture hull network create -d macvlan -o parent=t-p0 t-bad
    expect_err_has 'already using parent interface t-p0'
    hull run -d --name t-one --network t-pass "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-one cat /sys/class/net/eth0/address)" "$(cat /sys/class/net/t-p0/address)" 'its hardware address'
    hull exec t-one ping -c 1 -W 5 10.248.0.1 >/dev/null || fail 'not by the interface'
    capture hull run --rm --network t-pass "$BUSYBOX" true
    expect_status 125
    expect_err_has 't-one'
    hull rm -f t-one >/dev/null
    hull network rm t-pass >/dev/null
    no_lan_of_t_p0
    expect_clean_host
}

# Where frames go: "vhost-net" or "in-process".
path_of() { hull inspect --vm "$1" | sed -n 's/.*"path": *"\([a-z-]*\)".*/\1/p'; }
# 8 MiB into a container's port and back at the same time, no part of which is like another.
same_both_ways() {
    hull exec -d "$1" nc -l -p 99 -e cat
    wait_for 20 hull exec "$1" sh -c 'netstat -ltn | grep -q :99'
    timeout 90 python3 -c '
import os, socket, sys, threading
sent = os.urandom(8 << 20)
stream = socket.create_connection((sys.argv[1], 99), 20)
stream.settimeout(60)
def send():
    stream.sendall(sent)
    stream.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = bytearray()
while part := stream.recv(1 << 20): got += part
sys.exit(got != sent)' "$2" || fail "what came back is not what went into $1"
}

# Core.
case_the_hosts_kernel_moves_the_frames() {
    modprobe vhost_net 2>/dev/null || true
    [ -c /dev/vhost-net ] || skip 'no vhost-net here'
    web t-vhost
    expect_eq "$(path_of t-vhost)" vhost-net path
    local address
    address=$(address_of t-vhost bridge)
    same_both_ways t-vhost "$address"
    # Its counters are those of the interface, whoever serves it.
    hull stats --no-stream --format '{{.NetIO}}' t-vhost | grep -Eq '(8\.[0-9]+|9)[0-9.]*MB / (8\.[0-9]+|9)[0-9.]*MB' || fail "counted: $(hull stats --no-stream --format '{{.NetIO}}' t-vhost)"
    hull pause t-vhost >/dev/null
    hull unpause t-vhost >/dev/null
    busybox ping -c 1 -W 5 "$address" >/dev/null || fail 'no answer after a pause'
    hull doctor --jail t-vhost >/dev/null || fail 'the jail does not hold'
    hull rm -f t-vhost >/dev/null
    expect_clean_host
}

case_who_moves_the_frames_can_be_said() {
    modprobe vhost_net 2>/dev/null || true
    [ -c /dev/vhost-net ] || skip 'no vhost-net here'
    # An interface that comes later, goes, and comes again.
    hull network create t-late >/dev/null
    hull run -d --name t-plug "$BUSYBOX" sleep 600 >/dev/null
    hull network connect t-late t-plug
    expect_eq "$(path_of t-plug)" $'vhost-net\nvhost-net' 'paths of both'
    same_both_ways t-plug "$(address_of t-plug t-late)"
    hull network disconnect t-late t-plug
    expect_eq "$(path_of t-plug)" vhost-net 'path of what is left'
    hull network connect t-late t-plug
    busybox ping -c 1 -W 5 "$(address_of t-plug t-late)" >/dev/null || fail 'no answer the second time'
    hull rm -f t-plug >/dev/null
    hull network rm t-late >/dev/null
    # Rates are the VMM's to hold; a container, and the operator, may say no.
    hull run -d --name t-rate --net-rate in=100m "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(path_of t-rate)" in-process 'path with a rate'
    hull run -d --name t-no --annotation dev.hull.vhost-net=false "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(path_of t-no)" in-process 'path of who said no'
    hull rm -f t-rate t-no >/dev/null
    kill "$(cat "$HARNESS/hulld.pid")"
    wait_for 20 sh -c "! kill -0 $(cat "$HARNESS/hulld.pid") 2>/dev/null"
    hulld_start --no-vhost-net
    hull run -d --name t-off --annotation dev.hull.vhost-net=true "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(path_of t-off)" in-process 'path that the operator turned off'
    hull rm -f t-off >/dev/null
    kill "$(cat "$HARNESS/hulld.pid")"
    wait_for 20 sh -c "! kill -0 $(cat "$HARNESS/hulld.pid") 2>/dev/null"
    hulld_start
}

# A host without the device, whose containers have a network all the same.
case_without_vhost_net_the_vmm_moves_the_frames() {
    [ -c /dev/vhost-net ] || skip 'no vhost-net here to take away'
    mv /dev/vhost-net /dev/vhost-net.away
    web t-none || true
    mv /dev/vhost-net.away /dev/vhost-net
    expect_eq "$(path_of t-none)" in-process path
    same_both_ways t-none "$(address_of t-none bridge)"
    hull rm -f t-none >/dev/null
}

# As many queues as CPUs, whoever serves them; with one CPU all is as it was.
# SMP.
case_each_cpu_has_a_queue() {
    local option address pid
    for option in --label=a=b --net-rate=in=1g; do
        hull run -d --name t-mq --cpus 2 "$option" "$BUSYBOX" sh -c 'nc -l -p 98 -e cat & exec sleep 600' >/dev/null
        expect_eq "$(hull inspect --vm t-mq | sed -n 's/.*"queue_pairs": *\([0-9]*\).*/\1/p')" 2 "pairs with $option"
        expect_eq "$(hull exec t-mq sh -c 'ls -d /sys/class/net/eth0/queues/tx-* | wc -l')" 2 'queues in the guest'
        echo "$option: $(path_of t-mq)"
        address=$(address_of t-mq bridge)
        same_both_ways t-mq "$address" &
        pid=$!
        expect_eq "$(echo beside it | timeout 30 busybox nc "$address" 98)" 'beside it' 'a second connection'
        wait "$pid"
        hull rm -f t-mq >/dev/null
    done
    # The driver tells the device of another hardware address, which nothing is let out from.
    hull run -d --name t-mac --cpus 2 --cap-add NET_ADMIN "$BUSYBOX" sleep 600 >/dev/null
    capture hull exec t-mac sh -c '
        own=$(cat /sys/class/net/eth0/address)
        cut -c 18,23,24 /sys/class/net/eth0/device/features
        ip link set eth0 address 02:00:00:00:00:99 && cat /sys/class/net/eth0/address
        ping -c 1 -W 2 172.17.0.1 >/dev/null || echo dropped
        ip link set eth0 address "$own" && ping -c 1 -W 5 172.17.0.1 >/dev/null && echo back'
    expect_out $'111\n02:00:00:00:00:99\ndropped\nback\n'
    hull rm -f t-mac >/dev/null
    hull run -d --name t-single "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull inspect --vm t-single | sed -n 's/.*"queue_pairs": *\([0-9]*\).*/\1/p')" 1 'pairs of one CPU'
    # IFF_MULTI_QUEUE is 0x100.
    expect_eq $(($(cat "/sys/class/net/$(taps | sed -n 's/^[0-9]*: \([^:@]*\).*/\1/p')/tun_flags") & 0x100)) 0 'its tap'
    hull rm -f t-single >/dev/null
    expect_clean_host
}

# An echo server by SCTP that answers on the stream, and with the kind of payload, that it was asked by.
SCTP_SERVER='
import socket, struct
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
server.bind(("", 7))
server.listen()
print("listens", flush=True)
while True:
    peer = server.accept()[0]
    peer.setsockopt(132, 32, 1)
    while True:
        data, control = peer.recvmsg(1 << 16, 256)[:2]
        if not data: break
        stream, flags, kind = struct.unpack_from("H2xH2xI", control[0][2])
        about = struct.pack("HHIIi", stream, flags & 1, kind, 0, 0)
        peer.sendmsg([data.upper()], [(132, 2, about)])
    peer.close()
'
# sctp_ask ADDRESS PORT: the answer, its stream and the kind of its payload, and the length of a large one.
SCTP_CLIENT='
import socket, struct, sys
to = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
to.settimeout(10)
to.setsockopt(132, 32, 1)
to.connect((sys.argv[1], int(sys.argv[2])))
about = struct.pack("HHIIi", 5, 0, 46, 0, 0)
to.sendmsg([b"word"], [(132, 2, about)])
data, control = to.recvmsg(1 << 16, 256)[:2]
stream, kind = struct.unpack_from("H6xI", control[0][2])
to.send(b"x" * 60000)
length = 0
while length < 60000: length += len(to.recv(1 << 16))
print(data.decode(), stream, kind, length)
'
sctp_ask() { timeout 20 python3 -c "$SCTP_CLIENT" "$@"; }

# SCTP: streams and kinds of payload stay what they are.
case_sctp_ports() {
    python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)' 2>/dev/null || skip 'no SCTP here'
    python_image
    hull run -d --name t-sctp --expose 7/sctp -P -p 18085:7/sctp -p 127.0.0.1:18185-18186:7/sctp "$PYTHON" python3 -c "$SCTP_SERVER" >/dev/null
    wait_for 30 sh -c 'hull logs t-sctp | grep -q listens' || fail "$(hull logs t-sctp 2>&1)"
    expect_eq "$(hull port t-sctp 7/sctp | grep -v '^\[' | sort | head -n 2)" $'0.0.0.0:18085\n127.0.0.1:18185' 'hull port'
    hull ps | grep t-sctp | grep -q '18085->7/sctp' || fail 'hull ps'
    local want='WORD 5 46 60000' gateway
    gateway=$(hull inspect -f '{{.NetworkSettings.Networks.bridge.Gateway}}' t-sctp)
    expect_eq "$(sctp_ask 127.0.0.1 18085)" "$want" localhost
    expect_eq "$(sctp_ask 127.0.0.1 18185)" "$want" 'one of a range'
    expect_eq "$(sctp_ask "$gateway" 18085)" "$want" 'an address of the host'
    capture hull run --rm "$PYTHON" sh -c 'timeout 20 python3 -c "$0" "$1" 7; timeout 20 python3 -c "$0" "$2" 18085' "$SCTP_CLIENT" "$(address_of t-sctp bridge)" "$gateway"
    expect_out "$want"$'\n'"$want"$'\n'
    capture hull run --rm -p 18085:9/sctp "$BUSYBOX" true
    expect_status 125
    expect_err_has '18085'
    hull rm -f t-sctp >/dev/null
    sctp_ask 127.0.0.1 18085 2>/dev/null && fail 'the port outlived its container'
    expect_clean_host
}

# Containers on the network of an interface of the host, all under its hardware address.
case_an_ipvlan_network() {
    ip netns add t-lan
    ip link add t-p0 type veth peer name t-p1 netns t-lan
    ip link set t-p0 up mtu 1400
    ip addr add 10.241.0.200/24 dev t-p0
    ip -n t-lan addr add 10.241.0.1/24 dev t-p1
    ip -n t-lan link set t-p1 up
    local wrong
    while read -r wrong; do
        capture hull network create -d ipvlan $wrong t-bad
        [ "$status" != 0 ] || fail "made: $wrong"
        expect_err_has "$(awk -F'[ =]' '{print $NF}' <<<"$wrong")"
    done <<'END'
-o parent=no-such0
-o parent=t-p0 -o ipvlan_mode=l3s
-o parent=t-p0 -o ipvlan_flag=nonsense
END
    hull network create -d ipvlan --subnet 10.241.0.0/24 -o parent=t-p0 t-ipv >/dev/null
    capture hull network create -d macvlan --subnet 10.242.0.0/24 -o parent=t-p0 t-bad
    expect_err_has 'already using parent interface t-p0'
    expect_eq "$(hull network inspect -f '{{.Driver}} {{.Options.parent}}' t-ipv)" 'ipvlan t-p0' driver
    capture hull run --rm --network t-ipv --mac-address 02:42:0a:f1:00:09 "$BUSYBOX" true
    expect_status 125
    expect_err_has 'custom mac address'
    web t-one --network t-ipv --ip 10.241.0.9 --cap-add NET_ADMIN
    expect_eq "$(hull exec t-one cat /sys/class/net/eth0/address)" "$(cat /sys/class/net/t-p0/address)" 'its hardware address'
    capture hull exec t-one sh -c 'cat /sys/class/net/eth0/mtu; ip route | head -n 1; ping -c 1 -W 5 10.241.0.1 >/dev/null && echo out; ping -c 1 -W 2 10.241.0.200 >/dev/null || echo not the host'
    expect_out $'1400\ndefault via 10.241.0.1 dev eth0 \nout\nnot the host\n'
    ip netns exec t-lan busybox ping -c 1 -W 5 10.241.0.9 >/dev/null || fail 'not reached from the network'
    busybox ping -c 1 -W 2 10.241.0.9 >/dev/null && fail 'the host took the address for its own'
    ip netns exec t-lan curl -s --max-time 5 http://10.241.0.9/ | grep -q served || fail 'not served to the network'
    capture hull run --rm --network t-ipv "$BUSYBOX" timeout 10 wget -q -O- http://10.241.0.9/
    expect_out $'served\n'
    capture hull exec t-one sh -c 'ip addr add 10.241.0.77/24 dev eth0; ping -c 1 -W 2 -I 10.241.0.77 10.241.0.1 >/dev/null || echo pinned'
    expect_out $'pinned\n'
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
    hull exec t-one ping -c 1 -W 5 10.241.0.1 >/dev/null || fail 'no network after a crash of the engine'
    hull rm -f t-one >/dev/null
    expect_eq "$(taps)" '' 'taps left'
    hull network rm t-ipv >/dev/null
    ip link del t-p0
    ip netns del t-lan
    expect_clean_host
}

# ipvlan's other mode: the host's routes lead on, and nobody is asked for hardware addresses.
case_an_ipvlan_network_by_routes() {
    ip netns add t-lan
    ip link add t-p0 type veth peer name t-p1 netns t-lan
    ip link set t-p0 up
    ip addr add 10.243.0.1/24 dev t-p0
    ip -n t-lan addr add 10.243.0.2/24 dev t-p1
    ip -n t-lan link set t-p1 up
    ip -n t-lan route add 10.244.0.0/24 via 10.243.0.1
    hull network create -d ipvlan --subnet 10.244.0.0/24 -o parent=t-p0 -o ipvlan_mode=l3 t-ipv3 >/dev/null
    web t-one --network t-ipv3 --ip 10.244.0.9
    capture hull exec t-one sh -c 'ip route | head -n 1; ip link show eth0 | grep -o NOARP; ping -c 1 -W 5 10.243.0.2 >/dev/null && echo out'
    expect_out $'default dev eth0 scope link \nNOARP\nout\n'
    ip netns exec t-lan curl -s --max-time 5 http://10.244.0.9/ | grep -q served || fail 'not served to others'
    capture hull run --rm --network t-ipv3 "$BUSYBOX" timeout 10 wget -q -O- http://10.244.0.9/
    expect_out $'served\n'
    hull rm -f t-one >/dev/null
    hull network rm t-ipv3 >/dev/null
    ip link del t-p0
    ip netns del t-lan
    expect_clean_host
}

# Both of ipvlan's modes, and networks that have IPv6 alone.
case_ipvlan_networks_with_ipv6() {
    [ -e /proc/net/if_inet6 ] || skip 'this host has no IPv6'
    local mode families ping6='ping -6 -c 1 -W 5'
    lan_of_t_p0
    ip -n t-lan addr add fd00:249::1/64 dev t-p1 nodad
    ip addr add fd00:249::200/64 dev t-p0 nodad
    for mode in l2 l3; do
        for families in '--ipv4=true' '--ipv4=false'; do
            local subnet=fd00:249::/64
            # Where the host's routes lead on, they are others than the cable's.
            [ $mode = l2 ] || subnet=fd00:250::/64
            hull network create -d ipvlan --ipv6 $families --subnet $subnet -o parent=t-p0 -o ipvlan_mode=$mode t-ipv6 >/dev/null
            web t-one --network t-ipv6 --ip6 ${subnet%/*}9
            [ $mode = l2 ] || ip -n t-lan route add $subnet via fd00:249::200
            hull exec t-one $ping6 fd00:249::1 >/dev/null || fail "$mode $families: not to the network"
            ip netns exec t-lan busybox $ping6 ${subnet%/*}9 >/dev/null || fail "$mode $families: not reached from the network"
            ip netns exec t-lan curl -s --max-time 5 "http://[${subnet%/*}9]/" | grep -q served || fail "$mode $families: not served to the network"
            busybox ping -6 -c 1 -W 2 ${subnet%/*}9 >/dev/null && fail 'the host took the address for its own'
            capture hull run --rm --network t-ipv6 "$BUSYBOX" timeout 10 wget -q -O- "http://[${subnet%/*}9]/"
            expect_out $'served\n'
            [ $mode = l2 ] || ip -n t-lan route del $subnet
            hull rm -f t-one >/dev/null
            hull network rm t-ipv6 >/dev/null
        done
    done
    no_lan_of_t_p0
    expect_clean_host
}

uplink_address() { ip -4 -o addr show | awk '$2 != "lo" && $2 !~ /^h[b0-9]/ { sub("/.*", "", $4); print $4; exit }'; }

# No container is started for any of these.
# Core.
case_the_hosts_network_is_one() {
    hull network ls --format '{{.Name}} {{.Driver}} {{.Scope}}' | grep -qx 'host host local' || fail 'it is not listed'
    expect_eq "$(hull network ls --filter type=builtin -q | wc -l)" 3 'builtin networks'
    capture hull network create -d host t-other
    [ "$status" != 0 ] || fail 'a second one'
    expect_err_has 'only one instance of "host" network is allowed'
    capture hull network rm host
    expect_err_has 'pre-defined network'
    hull create --name t-stays --network host -p 80:80 "$BUSYBOX" true >/dev/null 2>"$T/warned"
    grep -q 'Published ports are discarded when using host network mode' "$T/warned" || fail "$(cat "$T/warned")"
    expect_eq "$(hull inspect -f '{{.Config.Hostname}} {{.HostConfig.NetworkMode}}' t-stays)" "$(uname -n) host" inspect
    capture hull network disconnect host t-stays
    expect_err_has 'cannot be disconnected from host network'
    capture hull network connect bridge t-stays
    expect_err_has 'connected to host network'
}

case_the_hosts_network() {
    local here holder
    here=$(uplink_address)
    hull run -d --name t-host --network host "$BUSYBOX" sh -c '
        mkdir /www; echo served >/www/index.html; httpd -p 18086 -h /www
        httpd -p 127.0.0.1:18087 -h /www; sleep 600' >/dev/null
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18086/ | grep -q served' || fail 'not at localhost'
    curl -s --max-time 5 "http://$here:18086/" | grep -q served || fail "not at $here"
    [ ! -e /proc/net/if_inet6 ] || curl -s --max-time 5 'http://[::1]:18086/' | grep -q served || fail 'not by IPv6'
    curl -s --max-time 3 http://127.0.0.1:18087/ >/dev/null && fail "the guest's own localhost is not the host's"
    expect_eq "$(hull exec t-host hostname)" "$(uname -n)" 'host name'
    capture hull inspect -f '{{json .NetworkSettings.Networks.host}}' t-host
    expect_eq "$(jq -r '.IPAddress + .DriverOpts["dev.hull.host-ports"]' <<<"$out")" 18086/tcp inspect
    # The host's services, and others' ports.
    web t-beside
    capture hull exec t-host sh -c "wget -q -O- http://$here:18086/; wget -q -O- http://$(address_of t-beside bridge)/"
    expect_out $'served\nserved\n'
    # The host's own localhost is the container's, too, so such ports are in use.
    echo local >"$T/local"
    python3 -m http.server --bind 127.0.0.1 --directory "$T" 18089 >/dev/null 2>&1 &
    holder=$!
    wait_for 20 curl -s -o "$T/got" http://127.0.0.1:18089/local || fail 'no server on the host'
    wait_for 20 hull exec t-host wget -q -O- http://127.0.0.1:18089/local >"$T/got" || fail "not the host's localhost"
    expect_eq "$(tail -n 1 "$T/got")" local "the host's localhost"
    hull exec t-host httpd -p 18089 -h /www 2>/dev/null && fail 'a port that the host has is free'
    kill "$holder"
    # An engine that starts anew goes on.
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
    wait_for 15 sh -c 'curl -s --max-time 3 http://127.0.0.1:18086/ | grep -q served' || fail 'not after a crash of the engine'
    hull exec t-host sh -c 'kill $(pidof httpd | tr " " "\n" | sort -n | head -n 1)'
    wait_for 10 sh -c '! curl -s --max-time 3 http://127.0.0.1:18086/' || fail 'a port that was closed is served'
    hull rm -f t-host t-beside >/dev/null
    expect_eq "$(taps)" '' 'taps left'
    capture hull run --rm --network host --egress none "$BUSYBOX" sh -c "ping -c 1 -W 2 $here >/dev/null || echo closed"
    expect_out $'closed\n'
    expect_clean_host
}

UDP_ASK='
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(2)
one.sendto(b"word", ("127.0.0.1", int(sys.argv[1])))
print(one.recv(9).decode())
'

# A port that the host has for another is told of, and taken when it is free; what a container may not
# have it does not get.
case_the_hosts_network_refuses_ports() {
    python_image
    python3 -c 'import socket, time
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); held.bind(("0.0.0.0", 18088)); time.sleep(600)' &
    local holder=$!
    wait_for 10 sh -c 'ss -lun | grep -q :18088'
    hull run -d --name t-udp --network host --cap-drop NET_BIND_SERVICE --sysctl net.ipv4.ip_unprivileged_port_start=0 "$PYTHON" python3 -c '
import selectors, socket
all = selectors.DefaultSelector()
for port in 18087, 18088, 1018:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("", port))
    all.register(one, selectors.EVENT_READ)
while True:
    for key, _ in all.select():
        data, peer = key.fileobj.recvfrom(99)
        key.fileobj.sendto(data, peer)
' >/dev/null
    wait_for 20 sh -c "hull inspect -f '{{json .NetworkSettings.Networks.host}}' t-udp | jq -e '.DriverOpts[\"dev.hull.host-ports\"] == \"18087/udp\"' >/dev/null" || fail "$(hull inspect -f '{{json .NetworkSettings.Networks.host}}' t-udp; hull logs t-udp 2>&1)"
    expect_eq "$(hull inspect -f '{{json .NetworkSettings.Networks.host}}' t-udp | jq -r '.DriverOpts["dev.hull.host-ports-refused"]')" 1018/udp,18088/udp refused
    expect_eq "$(timeout 5 python3 -c "$UDP_ASK" 18087)" word 'by UDP'
    capture docker -H "$HULL_HOST" events --since 60s --until 0s --filter event=host-port-refused --format '{{.Actor.Attributes.ports}} {{.Actor.Attributes.reason}}'
    expect_out_has '1018/udp,18088/udp'
    kill "$holder"
    wait_for 20 sh -c "timeout 5 python3 -c '$UDP_ASK' 18088 | grep -q word" || fail 'not taken when it was free'
    hull rm -f t-udp >/dev/null
    expect_clean_host
}

# Whoever runs the engine may not want it.
case_the_hosts_network_switched_off() {
    hulld_stop
    hulld_start --no-host-network
    capture hull run --rm --network host "$BUSYBOX" true
    hulld_stop
    hulld_start
    expect_status 125
    expect_err_has 'no-host-network'
}

# Frames that reach t-p1, by their hardware address, kind and sender: those of ARP, IPv4 and IPv6.
CAPTURE='
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("t-p1", 0))
wire.settimeout(0.5)
print("listens", file=sys.stderr, flush=True)
end = time.time() + 15
while time.time() < end:
    try: frame, about = wire.recvfrom(65536)
    except TimeoutError: continue
    if about[2] == socket.PACKET_OUTGOING: continue
    place = {b"\x08\x06": (28, 32), b"\x08\x00": (26, 30), b"\x86\xdd": (22, 38)}.get(frame[12:14])
    if place: print(frame[6:12].hex(), frame[12:14].hex(), frame[slice(*place)].hex(), flush=True)
'

# With all rights over its own network a container is nobody else on the network of its interface.
case_a_forger_on_the_network_of_an_interface() {
    local driver capture
    ip netns add t-lan
    ip link add t-p0 type veth peer name t-p1 netns t-lan
    ip link set t-p0 up
    ip -n t-lan addr add 10.241.0.1/24 dev t-p1
    ip -n t-lan link set t-p1 up
    for driver in macvlan ipvlan; do
        hull network create -d "$driver" --subnet 10.241.0.0/24 -o parent=t-p0 t-forge >/dev/null
        hull run -d --name t-forger --network t-forge --ip 10.241.0.9 --cap-add NET_ADMIN --cap-add NET_RAW "$BUSYBOX" sleep 600 >/dev/null
        ip netns exec t-lan python3 -c "$CAPTURE" >"$T/$driver" 2>"$T/ready" &
        capture=$!
        wait_for 10 grep -q listens "$T/ready" || fail 'no capture'
        hull exec t-forger ping -c 1 -W 5 10.241.0.1 >/dev/null || fail "$driver: an honest packet"
        hull exec t-forger sh -c '
            ip addr add 10.241.0.1/24 dev eth0; arping -c 2 -U -I eth0 10.241.0.1
            ip -6 addr add fd00:bad::1/64 dev eth0; ping -c 1 -W 1 -I fd00:bad::1 ff02::1%eth0
            ip link set eth0 down; ip link set eth0 address 02:66:66:66:66:66; ip link set eth0 up
            ping -c 2 -W 1 10.241.0.1; arping -c 2 -I eth0 10.241.0.1' >/dev/null 2>&1 || true
        wait "$capture"
        grep -q '0800 0af10009' "$T/$driver" || fail "$driver: the capture saw nothing: $(cat "$T/$driver")"
        grep -E '^026666666666|080[06] 0af10001|86dd fd000bad' "$T/$driver" && fail "$driver: forged frames went out"
        hull rm -f t-forger >/dev/null
        hull network rm t-forge >/dev/null
    done
    ip link del t-p0
    ip netns del t-lan
    expect_clean_host
}

# What one end is given by options of its network: a name, and parameters of the kernel.
case_an_end_has_the_name_and_the_parameters_that_it_is_given() {
    local opts=com.docker.network.endpoint
    hull network create --subnet 10.239.0.0/24 t-named >/dev/null
    hull run -d --name t-end --network "name=t-named,driver-opt=$opts.ifname=wan.0,\"driver-opt=$opts.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0\"" "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec t-end sh -c 'ls /sys/class/net | xargs; cat /proc/sys/net/ipv4/conf/wan.0/log_martians /proc/sys/net/ipv4/conf/wan.0/forwarding; ip route | grep -c "default.*wan.0"' | xargs)" 'lo wan.0 1 0 1' 'as it starts'
    hull network connect --driver-opt "$opts.ifname=lan" --driver-opt "$opts.sysctls=net.ipv4.conf.IFNAME.rp_filter=2" bridge t-end
    expect_eq "$(hull exec t-end sh -c 'ls /sys/class/net | xargs; cat /proc/sys/net/ipv4/conf/lan/rp_filter' | xargs)" 'lan lo wan.0 2' 'as it runs'
    hull network disconnect bridge t-end
    capture hull network connect --driver-opt "$opts.ifname=wan.0" bridge t-end
    expect_status 1
    expect_err_has "can't be called wan.0"
    capture hull network connect --driver-opt "$opts.sysctls=net.ipv4.ip_forward=1" bridge t-end
    expect_status 1
    expect_err_has 'net.ipv4.ip_forward=1'
    hull network connect bridge t-end
    hull restart -t 0 t-end >/dev/null
    expect_eq "$(hull exec t-end sh -c 'ls /sys/class/net | xargs; cat /proc/sys/net/ipv4/conf/wan.0/log_martians' | xargs)" 'eth1 lo wan.0 1' 'after a restart'
    hull rm -f t-end >/dev/null
    hull network rm t-named >/dev/null
    expect_clean_host
}
