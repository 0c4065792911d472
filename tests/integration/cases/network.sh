# Networks: reach, names, published ports, isolation.

address_of() { hull inspect -f "{{.NetworkSettings.Networks.$2.IPAddress}}" "$1"; }
web() { hull run -d --name "$1" "${@:2}" "$BUSYBOX" sh -c 'mkdir /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www' >/dev/null; }

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

case_names_on_a_user_defined_network() {
    hull network create t-net >/dev/null
    hull run -d --name t-db --network t-net --network-alias data "$BUSYBOX" sleep 600 >/dev/null
    capture hull run --rm --network t-net "$BUSYBOX" sh -c 'ping -c 1 -W 5 t-db >/dev/null && echo name; ping -c 1 -W 5 data >/dev/null && echo alias; nslookup nothing.invalid >/dev/null 2>&1 || echo unknown'
    expect_out $'name\nalias\nunknown\n'
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

case_bad_networks_are_named() {
    capture hull run --rm --network t-nothing "$BUSYBOX" true
    expect_status 125
    expect_err_has t-nothing
    capture hull run --rm --network host "$BUSYBOX" true
    expect_status 125
    expect_err_has 'not built yet'
    capture hull network create --subnet nonsense t-x
    expect_err_has nonsense
    capture hull run --rm -p 99999:80 "$BUSYBOX" true
    expect_status 125
}

case_killed_engine_keeps_networks() {
    web t-keep -p 18081:80
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18081/ | grep -q served'
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18081/ | grep -q served'
    hull rm -f t-keep >/dev/null
    [ -z "$(ip -o link | grep -E ': h[0-9][0-9a-f]{13}:')" ] || fail "taps left: $(ip -o link)"
    expect_clean_host
}

case_large_transfer() {
    web t-big
    hull exec t-big sh -c 'dd if=/dev/zero bs=1M count=64 2>/dev/null | tr "\0" x >/www/big'
    local address
    address=$(address_of t-big bridge)
    expect_eq "$(curl -s --max-time 60 "http://$address/big" | wc -c)" 67108864 'bytes'
}

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

case_egress_policies() {
    local gateway
    hull network create --subnet 10.232.0.0/24 t-egress >/dev/null
    gateway=10.232.0.1
    web t-in --network t-egress --egress none -p 18082:80
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18082/ | grep -q served'
    capture hull exec t-in sh -c "ping -c 1 -W 2 $gateway >/dev/null || echo not the host; nslookup t-in >/dev/null && echo names; nslookup example.org | grep -c REFUSED"
    expect_out_has $'not the host\nnames\n'
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
