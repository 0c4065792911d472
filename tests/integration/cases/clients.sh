# Clients that are not as they should be: wrong, slow, gone half-way.
# seconds: 600

CLIENTS=tests/integration/clients.py
SOCKET=${HULL_HOST#unix://}

# Each field of the API with values that it can't have: never a fault of the engine's.
case_clients_that_are_wrong_are_told_so() {
    capture python3 $CLIENTS wrong "$SOCKET" "$BUSYBOX"
    expect_status 0
    expect_eq "$(hull ps -aq | wc -l)" 0 'containers that were left'
}

case_clients_that_say_nothing_keep_nobody_waiting() {
    capture timeout 120 python3 $CLIENTS idle "$SOCKET" 1000
    expect_status 0
    hull version >/dev/null
}

case_clients_that_do_not_read_cost_little() {
    local before after pid
    pid=$(cat "$HARNESS/hulld.pid")
    before=$(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup")
    capture timeout 200 python3 $CLIENTS deaf "$SOCKET" 20 "$BUSYBOX"
    expect_status 0
    after=$(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup")
    # Events of 4 KB, 800 of them: a queue that had no bound would hold them once for each client.
    [ $((after - before)) -lt 20000 ] || fail "hulld has grown from $before to $after KiB"
}

case_clients_that_go_away_leave_no_change_half_made() {
    local seconds
    hull run -d --name t-hasty "$BUSYBOX" sleep 600 >/dev/null
    for seconds in 0 0.01 0.05 0.2; do
        python3 $CLIENTS hasty "$SOCKET" POST /containers/t-hasty/pause $seconds
        wait_for 20 hull unpause t-hasty 2>/dev/null || fail "after $seconds s it is $(hull inspect -f '{{.State.Status}}' t-hasty)"
        expect_eq "$(timeout 60 hull exec t-hasty echo there)" there "an exec after $seconds s"
    done
    # A removal of several is made to its end.
    hull stop -t 0 t-hasty >/dev/null
    for seconds in 1 2 3 4 5 6; do hull create --name "t-many$seconds" "$BUSYBOX" true >/dev/null; done
    python3 $CLIENTS hasty "$SOCKET" POST /containers/prune 0.02
    wait_for 30 sh -c '[ "$(hull ps -aq --filter name=^t- | wc -l)" = 0 ]' || fail "left: $(hull ps -a)"
}

case_a_removal_does_not_take_what_is_being_started() {
    hull create --name t-race "$BUSYBOX" sleep 600 >/dev/null
    hull start t-race >/dev/null &
    # While it is started, it is created still.
    sleep 0.5
    [ "$(hull inspect -f '{{.State.Status}}' t-race)" = created ] || echo 'its start was over before'
    capture hull rm t-race
    wait $! || fail 'the start failed'
    expect_status 1
    expect_err_has 'stop the container before removing'
    expect_eq "$(hull exec t-race echo there)" there 'an exec'
    hull restart -t 0 t-race >/dev/null &
    sleep 1
    hull rm -f t-race >/dev/null
    wait $! || true
    hull ps -a | grep t-race && fail 'it is still there'
    expect_clean_host
}

# A container that fails again and again is one that runs, for users: it is in the list.
case_a_container_between_two_starts_is_listed() {
    hull run -d --name t-loop --restart always "$BUSYBOX" sh -c 'sleep 1; exit 3' >/dev/null
    wait_for 60 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-loop)" = restarting ]' || fail 'it is not started again'
    # The sixth pause is one of seconds.
    wait_for 200 sh -c '[ "$(hull inspect -f "{{.RestartCount}} {{.State.Status}}" t-loop)" = "7 restarting" ]' || fail 'too few starts'
    wait_for 5 sh -c 'hull ps --filter name=^t-loop | grep -q "Restarting (3)"' || fail "$(hull ps -a)"
    capture hull rm t-loop
    expect_err_has 'stop the container before removing'
    capture hull exec t-loop true
    expect_err_has 'is restarting, wait until the container is running'
    # As with docker, a kill and a stop end that.
    hull kill t-loop >/dev/null
    hull ps -a --filter name=^t-loop | grep -q 'Exited (3)' || fail "$(hull ps -a)"
    hull start t-loop >/dev/null
    wait_for 60 sh -c '[ "$(hull inspect -f "{{.State.Status}}" t-loop)" = restarting ]' || fail 'it is not started again'
    hull stop -t 1 t-loop >/dev/null
    sleep 2
    hull ps -a --filter name=^t-loop | grep -q 'Exited (' || fail "$(hull ps -a)"
}

# Nobody who follows a log slows its container, and who is slow misses nothing that is kept.
case_a_log_that_begins_anew_is_followed_without_a_gap() {
    mkfifo "$T/hold"
    hull create --name t-rot --log-opt max-size=20k --log-opt max-file=100 "$BUSYBOX" sh -c 'i=0; while [ $i -lt 8000 ]; do i=$((i+1)); echo "$i"; done' >/dev/null
    hull start t-rot >/dev/null
    python3 $CLIENTS deaf-log "$SOCKET" t-rot <"$T/hold" &
    exec 7>"$T/hold"
    hull logs -f t-rot >"$T/followed"
    exec 7>&-
    seq 8000 | cmp - "$T/followed" || fail "followed: $(wc -l <"$T/followed") lines, first gap: $(seq 8000 | diff - "$T/followed" | head -3)"
    expect_eq "$(hull logs t-rot | wc -l)" 8000 'lines that are kept'
    expect_eq "$(hull logs --tail 3 t-rot | tr '\n' ' ')" '7998 7999 8000 ' 'the last lines'
}

# Whoever keeps a copy of a log, or needs its room, cuts it off.
case_a_log_that_is_emptied_goes_on() {
    local log
    hull run -d --name t-cut "$BUSYBOX" sh -c 'i=0; while :; do i=$((i+1)); echo "$i"; sleep 0.2; done' >/dev/null
    hull logs -f t-cut >"$T/followed" &
    wait_for 20 grep -qx 20 "$T/followed"
    log=$(hull inspect -f '{{.LogPath}}' t-cut)
    truncate -s0 "$log"
    wait_for 20 sh -c '[ -n "$(hull logs --tail 1 t-cut)" ]' || fail 'no last line'
    wait_for 20 grep -qx 60 "$T/followed" || fail "followed: $(tail -n 1 "$T/followed")"
    [ "$(hull logs t-cut | head -n 1)" -ge 20 ] || fail 'what was cut off is still there'
    hull rm -f t-cut >/dev/null
    wait $!
}

case_a_host_name_may_be_as_long_as_linux_has_it() {
    local name
    name=$(printf 'h%.0s' $(seq 64))
    expect_eq "$(hull run --rm --hostname "$name" "$BUSYBOX" hostname)" "$name" 'the host name'
    capture hull create --hostname "${name}h" "$BUSYBOX" true
    expect_err_has 'invalid hostname'
}

api() { curl -s --unix-socket "$SOCKET" "${@:2}" "http://x$1"; }
status_of() { api "$1" -o /dev/null -w '%{http_code}' "${@:2}"; }

# Clients of older versions find what they know.
case_clients_of_old_find_what_they_know() {
    local id untagged
    api "/v1.38/images/$BUSYBOX/json" >"$T/old"
    jq -e '.ContainerConfig.Volumes == null and (.ContainerConfig | has("Cmd")) and .VirtualSize == .Size' "$T/old" >/dev/null || fail "$(cat "$T/old")"
    api "/v1.51/images/$BUSYBOX/json" >"$T/new"
    jq -e '(has("ContainerConfig") or has("VirtualSize") | not) and has("Parent") and has("DockerVersion") and has("GraphDriver")' "$T/new" >/dev/null || fail "$(cat "$T/new")"
    id=$(hull create --name t-untagged "$BUSYBOX" true)
    untagged=$(hull commit t-untagged)
    api "/v1.41/images/json" | jq -e ".[] | select(.Id == \"$untagged\") | .RepoTags == [\"<none>:<none>\"] and .RepoDigests == [\"<none>@<none>\"] and .Containers == -1 and .VirtualSize == .Size" >/dev/null || fail "$(api /v1.41/images/json)"
    api "/v1.51/images/json" | jq -e ".[] | select(.Id == \"$untagged\") | .RepoTags == [] and .Containers == 0" >/dev/null || fail "$(api /v1.51/images/json)"
    api "/v1.51/images/json" | jq -e 'map(select(.Containers == 1)) | length == 1' >/dev/null || fail 'who has an image'
    hull rmi "$untagged" >/dev/null
    hull run --name t-said "$BUSYBOX" echo said
    api '/v1.41/containers/t-said/logs?stdout=1' -o /dev/null -D - | grep -qi '^content-type: application/vnd.docker.raw-stream' || fail 'the type of a stream of old'
    api '/v1.42/containers/t-said/logs?stdout=1' -o /dev/null -D - | grep -qi '^content-type: application/vnd.docker.multiplexed-stream' || fail 'the type of a stream'
}

# Go's decoder does not look at the case of names; words of the API are names of objects as well.
# Core.
case_clients_may_write_names_as_they_like() {
    local id json=(-H 'content-type: application/json')
    id=$(api '/containers/create?name=t-lower' "${json[@]}" -d "{\"image\":\"$BUSYBOX\",\"cmd\":[\"true\"],\"hostconfig\":{\"memory\":67108864}}" | jq -r .Id)
    expect_eq "$(hull inspect -f '{{.HostConfig.Memory}} {{.Config.Cmd}}' t-lower)" '67108864 [true]' 'a container'
    expect_eq "$(api /containers/t-lower/update "${json[@]}" -d '{"memory":134217728,"memoryswap":268435456}' | jq -c .Warnings)" null 'an update'
    expect_eq "$(hull inspect -f '{{.HostConfig.Memory}}' t-lower)" 134217728 'what it changed'
    expect_eq "$(api /volumes/create "${json[@]}" -d '{"name":"t-data"}' | jq -r .Name)" t-data 'a volume'
    expect_eq "$(status_of /networks/create "${json[@]}" -d '{"name":"t-low"}')" 201 'a network'
    expect_eq "$(status_of /networks/t-low/connect "${json[@]}" -d '{"container":"t-lower"}')" 200 'a connect'
    hull rm t-lower >/dev/null
    hull network rm t-low >/dev/null
    hull volume rm t-data >/dev/null
    hull volume create prune >/dev/null
    expect_eq "$(api /volumes/prune | jq -r .Name)" prune 'a volume that is called so'
    expect_eq "$(status_of /volumes/prune -X DELETE)" 204 'its removal'
    hull network create create >/dev/null
    expect_eq "$(api /networks/create | jq -r .Name)" create 'a network that is called so'
    hull network rm create >/dev/null
    hull create --name json "$BUSYBOX" true >/dev/null
    hull rm json >/dev/null
    hull tag "$BUSYBOX" search
    hull rmi search >/dev/null
}

# Of many who make one network, one does.
case_one_of_many_makes_a_network() {
    local n
    for n in 1 2 3 4 5 6 7 8 9 10; do
        curl -s -o /dev/null -w '%{http_code}\n' --unix-socket "$SOCKET" -H 'content-type: application/json' -d '{"Name":"t-one"}' http://x/networks/create >"$T/made$n" &
    done
    wait $(jobs -p | grep -vx "$(cat "$HARNESS/hulld.pid")")
    expect_eq "$(cat "$T"/made* | sort | uniq -c | xargs)" '1 201 9 409' 'answers'
    hull network rm t-one >/dev/null
}

# Between two starts there is nothing to attach to, and the end is still to come.
case_a_container_between_two_starts_is_waited_for() {
    hull run -d --name t-loop --restart always "$BUSYBOX" sh -c 'sleep 1; exit 3' >/dev/null
    # The sixth pause is one of seconds.
    wait_for 200 sh -c '[ "$(hull inspect -f "{{.RestartCount}} {{.State.Status}}" t-loop)" = "6 restarting" ]' || fail 'it does not restart'
    capture timeout 2 hull wait t-loop
    expect_status 124
    local answer
    answer=$(status_of '/containers/t-loop/attach?stream=1&stdout=1' -X POST -m 5) || true
    [ "$answer" = 409 ] || [ "$(hull inspect -f '{{.State.Status}}' t-loop)" = running ] || fail "an attach: $answer"
    hull rm -f t-loop >/dev/null
}
