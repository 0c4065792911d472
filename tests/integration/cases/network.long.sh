# Networks under load and over time. Numbers are taken from variables, for slow machines.
# seconds: 6000
. tests/integration/networks.sh

TRAFFIC=tests/integration/traffic.py
traffic() { python3 "$TRAFFIC" "$@"; }
guest_traffic() { hull exec -i "$1" python3 - "${@:2}" <"$TRAFFIC"; }
engine_pid() { cat "$HARNESS/hulld.pid"; }
open_files() { ls "/proc/$(engine_pid)/fd" | wc -l; }
conversations() { cat /proc/sys/net/netfilter/nf_conntrack_count; }
server() { hull run -d --name "$1" "${@:2}" "$PYTHON" sleep 3600 >/dev/null; hull exec -d "$1" python3 -c "$(cat "$TRAFFIC")" serve 7000; }

# What there is of the host's network, without what changes with time: counters, addresses whose
# conversations are counted, which the kernel forgets with these, and how long a router is known.
host_network() {
    nft list tables | sort
    nft list ruleset | sed 's/ packets [0-9]* bytes [0-9]*//; /elements = {/{:a;/}/!{N;ba};d}' | grep .
    ip -o link | sed -nE 's/^[0-9]+: (h[0-9b][^:@]*).*/\1/p' | sort
    ip -o addr show | awk '{ print $2, $3, $4 }' | sort
    { ip route show table all; ip -6 route show table all; } | sed 's/ linkdown//; s/ expires [0-9]*sec//' | sort
    ip netns list
}

# Containers come and go with ports, names and networks that are connected and disconnected: the host has
# what it had before.
case_cycles_leave_nothing() {
    local cycles=${HULL_CYCLES:-200} cycle before files talks
    hull network create --ipv6 t-cycles >/dev/null
    for ((cycle = 0; cycle <= cycles; cycle++)); do
        # The first one makes what stays: bridges, and pools of threads.
        if [ "$cycle" = 1 ]; then
            host_network >"$T/before"
            files=$(open_files) talks=$(conversations)
        fi
        web t-cycle -p 18200:80 -p 18200:80/udp
        wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18200/ | grep -q served' || fail "cycle $cycle: no answer"
        hull network connect t-cycles t-cycle
        hull exec t-cycle nslookup -type=a t-cycle >/dev/null || fail "cycle $cycle: no name"
        case $((cycle % 3)) in
            0) hull network disconnect t-cycles t-cycle ;;
            1) hull network disconnect bridge t-cycle ;;
        esac
        if [ $((cycle % 2)) = 0 ]; then hull rm -f t-cycle >/dev/null; else hull stop -t 0 t-cycle >/dev/null && hull rm t-cycle >/dev/null; fi
    done
    host_network >"$T/after"
    diff "$T/before" "$T/after" || fail "after $cycles cycles the host's network differs"
    [ "$(open_files)" -le $((files + 4)) ] || fail "open files: $files before, $(open_files) after $cycles cycles: $(ls -l "/proc/$(engine_pid)/fd")"
    echo "$cycles cycles; open files $files and $(open_files), conversations $talks and $(conversations)"
    [ "$(conversations)" -le $((talks + 12 * cycles + 64)) ] || fail 'conversations are left'
    hull network rm t-cycles >/dev/null
    expect_clean_host
}

# A guest sends SYNs without end, to the host and to the outside: a neighbour answers meanwhile, though the
# host keeps few conversations in mind. Refused ones are not counted, and the kernel makes room of them.
case_a_flood_of_syns() {
    python_image
    local seconds=${HULL_FLOOD_SECONDS:-30} end table=/proc/sys/net/netfilter before peak asked one flood
    hull network create --subnet 10.237.0.0/24 t-syn >/dev/null
    hull run -d --name t-syn --network t-syn "$PYTHON" sleep 3600 >/dev/null
    web t-calm -p 18201:80
    hull run -d --name t-asks "$BUSYBOX" sleep 3600 >/dev/null
    wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18201/ | grep -q served' || fail 'no answer before the flood'
    # Room is made in a few buckets, so there are as few for as many conversations as is usual.
    before=$(cat "$table/nf_conntrack_max" "$table/nf_conntrack_buckets")
    echo 4096 >"$table/nf_conntrack_buckets"
    echo 4096 >"$table/nf_conntrack_max"
    # A port of hulld, one of nobody, and an address that nobody answers at.
    for one in '10.237.0.1 18201' '10.237.0.1 9' '192.0.2.1 80'; do
        guest_traffic t-syn syn $one "$seconds" >"$T/sent" 2>&1 &
        flood=$!
        end=$((SECONDS + seconds)) peak=0 asked=0
        while [ "$SECONDS" -lt "$end" ]; do
            curl -s --max-time 15 http://127.0.0.1:18201/ | grep -q served || fail "no answer by the port while SYNs come to $one, after $asked"
            hull exec t-asks timeout 15 wget -q -O- "http://$(address_of t-calm bridge)/" | grep -q served || fail "a neighbour has no answer while SYNs come to $one, after $asked"
            [ "$(conversations)" -le "$peak" ] || peak=$(conversations)
            asked=$((asked + 1))
        done
        wait "$flood" || fail "the flood: $(cat "$T/sent")"
        [ "$(cat "$T/sent")" -ge $((seconds * 100)) ] || fail "this is no flood: $(cat "$T/sent") SYNs in $seconds s"
        [ "$asked" -ge 3 ] || fail "only $asked questions meanwhile"
        echo "$one: $(cat "$T/sent") SYNs, $asked questions answered, $peak conversations at most of 4096"
    done
    echo "${before#*$'\n'}" >"$table/nf_conntrack_buckets"
    echo "${before%$'\n'*}" >"$table/nf_conntrack_max"
    hull exec t-syn true || fail 'the flooder itself is gone'
    hull rm -f t-syn t-calm t-asks >/dev/null
    hull network rm t-syn >/dev/null
    expect_clean_host
}

# Many connections through a published port, and from a container to the host. Then as many at once, while
# another container's port answers.
case_many_connections() {
    python_image
    local count=${HULL_CONNECTIONS:-10000} together=${HULL_TOGETHER:-10000} files
    server t-many -p 18202:7000 --ulimit nofile=4096:4096
    wait_for 20 traffic connect 127.0.0.1 18202 1 >/dev/null
    files=$(open_files)
    expect_eq "$(traffic connect 127.0.0.1 18202 "$count")" "$count" 'answers by IPv4'
    expect_eq "$(traffic connect ::1 18202 $((count / 10)))" $((count / 10)) 'answers by IPv6'
    wait_for 20 sh -c "[ \$(ls /proc/$(engine_pid)/fd | wc -l) -le $((files + 4)) ]" || fail "open files: $files, then $(open_files)"
    python3 "$TRAFFIC" serve 18203 &
    local pid=$!
    expect_eq "$(guest_traffic t-many connect 172.17.0.1 18203 "$count")" "$count" 'answers outward'
    kill "$pid"
    hull rm -f t-many >/dev/null
    # A port that is alone has an eighth of the files that the engine may open.
    hulld_stop
    ulimit -n 100000
    hulld_start
    web t-other -p 18208:80
    hull run -d --name t-hold -p 18207:7001 --ulimit nofile=30000:30000 "$PYTHON" python3 -c "$(cat "$TRAFFIC")" hold 7001 >/dev/null
    wait_for 20 traffic connect 127.0.0.1 18207 1 >/dev/null
    traffic together 127.0.0.1 18207 "$together" >"$T/together" &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        curl -s --max-time 20 http://127.0.0.1:18208/ | grep -q served || fail 'another container is not reached meanwhile'
        sleep 1
    done
    wait "$pid" || true
    expect_eq "$(cat "$T/together")" "$together" 'connections that are open at once'
    hull rm -f t-hold t-other >/dev/null
    expect_clean_host
}

# Bytes between host and guests, both ways, over both families and both protocols, arrive as they were.
case_transfers_arrive_whole() {
    python_image
    local bytes=${HULL_TRANSFER_BYTES:-268435456} packets=${HULL_DATAGRAM_BYTES:-12000000} one way
    hull network create --ipv6 --subnet 10.238.0.0/24 --subnet fd00:238::/64 t-move >/dev/null
    server t-a --network t-move
    server t-b --network t-move -p 18204:7000
    python3 "$TRAFFIC" serve 18205 &
    local pid=$!
    wait_for 20 traffic connect "$(address_of t-a t-move)" 7000 1 >/dev/null
    wait_for 20 traffic connect "$(address_of t-b t-move)" 7000 1 >/dev/null
    for way in put get; do
        for one in "$(address_of t-a t-move)" "$(v6_address_of t-a t-move)"; do
            expect_eq "$(traffic $way "$one" 7000 "$bytes")" same "$way host to guest, $one"
            expect_eq "$(guest_traffic t-b $way "$one" 7000 "$bytes")" same "$way guest to guest, $one"
        done
        for one in 10.238.0.1 fd00:238::1; do
            expect_eq "$(guest_traffic t-b $way $one 18205 "$bytes")" same "$way guest to host, $one"
        done
        expect_eq "$(traffic $way 127.0.0.1 18204 "$bytes")" same "$way by a published port"
    done
    for one in "$(address_of t-a t-move)" "$(v6_address_of t-a t-move)"; do
        expect_eq "$(traffic datagrams "$one" 7000 "$packets")" same "datagrams host to guest, $one"
        expect_eq "$(guest_traffic t-b datagrams "$one" 7000 "$packets")" same "datagrams guest to guest, $one"
    done
    for one in 10.238.0.1 fd00:238::1; do
        expect_eq "$(guest_traffic t-b datagrams $one 18205 "$packets")" same "datagrams guest to host, $one"
    done
    kill "$pid"
    hull rm -f t-a t-b >/dev/null
    hull network rm t-move >/dev/null
    expect_clean_host
}

# Questions and what is none, from a guest: each question is answered, and the server is as large as before.
case_many_questions() {
    python_image
    local count=${HULL_QUESTIONS:-12500} rate=${HULL_QUESTION_RATE:-50} before
    hull network create --ipv6 --subnet 10.239.0.0/24 --subnet fd00:239::/64 t-ask >/dev/null
    hull run -d --name t-ask --network t-ask "$PYTHON" sleep 3600 >/dev/null
    guest_traffic t-ask questions 10.239.0.1 100 t-ask >/dev/null 2>&1
    before=$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$(engine_pid)/status")
    expect_eq "$(guest_traffic t-ask questions 10.239.0.1 "$count" t-ask 2>"$T/rate")" "$((count - count / 5)) of $((count - count / 5))" answers
    echo "$(cat "$T/rate") answers in a second"
    [ "$(cat "$T/rate")" -ge "$rate" ] || fail "that is fewer than $rate"
    [ "$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$(engine_pid)/status")" -lt $((before + 16384)) ] || fail 'the name server grew'
    hull rm -f t-ask >/dev/null
    hull network rm t-ask >/dev/null
    expect_clean_host
}

networks_of() { hull inspect t-cut | jq -r '.[0].NetworkSettings.Networks | keys | join(" ")'; }

# The engine is killed while a network is connected, disconnected or made: afterwards it is as before or as
# after, record and guest tell the same, and the next engine goes on with it.
case_killed_while_networks_change() {
    local kills=${HULL_KILLS:-30} number there seen inside taps client id
    RANDOM=${HULL_KILL_SEED:-7}
    hull network create --subnet 10.240.0.0/24 t-cut >/dev/null
    web t-cut -p 18206:80
    id=$(hull inspect -f '{{.Id}}' t-cut)
    for ((number = 0; number < kills; number++)); do
        case $((number % 3)) in
            0) hull network connect t-cut t-cut >/dev/null 2>&1 & ;;
            1) hull network disconnect t-cut t-cut >/dev/null 2>&1 & ;;
            2) hull network create --subnet 10.241.0.0/24 t-made >/dev/null 2>&1 & ;;
        esac
        client=$!
        sleep "0.$(printf %03d $((RANDOM % ${HULL_KILL_WITHIN:-600})))"
        next_engine || fail "no engine after kill $number"
        wait "$client" || true
        seen=$(networks_of)
        inside=$(hull exec t-cut sh -c 'ls -d /sys/class/net/eth* | wc -l')
        taps=$(ip -o link | grep -cE ": h[0-9][0-9a-f]{5}${id:0:8}:")
        case $seen in
            bridge) there=1 ;;
            'bridge t-cut') there=2 ;;
            *) fail "kill $number: networks: $seen" ;;
        esac
        echo "kill $number: $seen; $inside in the guest, $taps taps"
        expect_eq "$inside $taps" "$there $there" "kill $number: interfaces and taps with $seen"
        [ "$there" = 1 ] || hull exec t-cut ping -c 1 -W 5 10.240.0.1 >/dev/null || fail "kill $number: no network"
        hull exec t-cut ping -c 1 -W 5 172.17.0.1 >/dev/null || fail "kill $number: cut off"
        wait_for 10 sh -c 'curl -s --max-time 3 http://127.0.0.1:18206/ | grep -q served' || fail "kill $number: the port is gone"
        if hull network inspect t-made >/dev/null 2>&1; then hull network rm t-made >/dev/null; fi
        # The next change begins where it can.
        case "$((number % 3)) $there" in
            '0 1') hull network connect t-cut t-cut ;;
            '1 2') hull network disconnect t-cut t-cut ;;
        esac || fail "kill $number: no change after it"
    done
    hull rm -f t-cut >/dev/null
    hull network rm t-cut >/dev/null
    expect_eq "$(ip -o link | grep -E ': h[0-9][0-9a-f]{13}:')" '' 'taps left'
    expect_clean_host
}

# All of many find each other by name.
case_many_containers_find_each_other() {
    local count=${HULL_MANY:-100} number
    hull network create --subnet 10.251.0.0/24 t-many >/dev/null
    for ((number = 1; number <= count; number++)); do
        hull run -d --name t-m$number --network t-many -m 32m "$BUSYBOX" sleep 7200 >/dev/null || fail "container $number"
    done
    for ((number = 1; number <= count; number++)); do
        expect_eq "$(hull exec t-m$number sh -c "for n in \$(seq $count); do ping -c 1 -W 10 t-m\$n >/dev/null 2>&1 && echo; done | wc -l")" "$count" "answers to t-m$number"
    done
    for ((number = 1; number <= count; number++)); do hull rm -f t-m$number >/dev/null; done
    hull network rm t-many >/dev/null
    expect_clean_host
}

# Networks come and go while bytes move.
case_networks_change_under_load() {
    python_image
    local bytes=${HULL_TRANSFER_BYTES:-268435456} number pid other
    hull network create --subnet 10.252.0.0/24 t-load >/dev/null
    hull network create --subnet 10.253.0.0/24 t-more >/dev/null
    server t-serve --network t-load -p 18261:7000
    server t-peer --network t-load
    wait_for 20 traffic connect 127.0.0.1 18261 1 >/dev/null
    traffic get 127.0.0.1 18261 "$bytes" >"$T/port" &
    pid=$!
    guest_traffic t-peer put "$(address_of t-serve t-load)" 7000 "$bytes" >"$T/peer" &
    other=$!
    for number in 1 2 3 4 5; do
        hull network connect t-more t-serve || fail "connect $number"
        hull exec t-serve python3 -c 'import os; assert len(os.listdir("/sys/class/net")) == 3' || fail "interfaces $number"
        hull network disconnect t-more t-serve || fail "disconnect $number"
    done
    wait "$pid" || true
    wait "$other" || true
    expect_eq "$(cat "$T/port" "$T/peer")" $'same\nsame' 'transfers meanwhile'
    # The network itself goes and comes while somebody asks.
    for number in 1 2 3; do
        traffic get 127.0.0.1 18261 "$bytes" >/dev/null 2>&1 &
        pid=$!
        sleep 1
        hull network disconnect t-load t-serve && hull network connect t-load t-serve || fail "again $number"
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        wait_for 20 traffic connect 127.0.0.1 18261 10 >/dev/null || fail "no answer after change $number"
    done
    hull rm -f t-serve t-peer >/dev/null
    hull network rm t-load t-more >/dev/null
    expect_clean_host
}
