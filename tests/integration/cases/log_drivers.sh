# Logs that a server gets: syslog, the journal, and others.

# log_server KIND WHERE: one that writes to $T/got; its process is in $SERVER.
log_server() {
    python3 tests/lib/log_server.py "$1" "$2" "$T/got" "${@:3}" >"$T/server.log" 2>&1 &
    SERVER=$!
    disown $SERVER
    # It is killed with the case however that ends.
    trap 'kill $SERVER 2>/dev/null || true; [ -z "${JOURNAL:-}" ] || rm -f $JOURNAL; hull ps -aq --filter "name=^t-" 2>/dev/null | xargs -r hull rm -f >/dev/null 2>&1; rm -rf "$T"' EXIT
    case $1 in
        udp) wait_for 20 grep -q "$(printf ':%04X ' "$2")" /proc/net/udp ;;
        tcp | tls | deaf) wait_for 20 grep -q "$(printf ':%04X .* 0A ' "$2")" /proc/net/tcp ;;
        *) wait_for 20 test -S "$2" ;;
    esac || fail "no server: $(cat "$T/server.log")"
}

got() { grep -aq -- "$1" "$T/got"; }
expect_got() { wait_for 20 got "$1" || fail "the server got no $1: $(cat "$T/got" "$HARNESS/hulld.log" | tail -20)"; }

# Core.
case_syslog_by_datagrams_and_kept_here() {
    log_server udp 5514
    hull run --name t-udp --log-driver syslog --log-opt syslog-address=udp://127.0.0.1:5514 --log-opt syslog-facility=local1 \
        --log-opt 'tag={{.Name}}/{{.ImageName}}' --log-opt syslog-format=rfc5424 "$BUSYBOX" sh -c 'echo hello world; echo oops >&2' >/dev/null 2>&1
    expect_got "^<142>1 20..-..-..T[^ ]* $(uname -n) t-udp/$BUSYBOX [0-9]* t-udp/$BUSYBOX - hello world$"
    expect_got '^<139>1 .* - oops$'
    expect_eq "$(hull logs t-udp 2>&1 | sort | tr '\n' ' ')" 'hello world oops ' 'what is kept here'
    expect_eq "$(hull inspect -f '{{.HostConfig.LogConfig.Type}} {{.LogPath}}.' t-udp)" 'syslog .' inspect
}

case_syslog_by_streams_survives_the_server_and_the_engine() {
    log_server tcp 5515
    hull run -d --name t-tcp --log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:5515 "$BUSYBOX" \
        sh -c 'i=0; while :; do echo "line $i."; i=$((i+1)); sleep 0.3; done' >/dev/null
    expect_got 'line 2\.$'
    # Another one at the same place: what came in between has waited.
    kill $SERVER
    local last
    last=$(hull logs -n 1 t-tcp | tr -dc 0-9)
    wait_for 20 sh -c "[ \$(hull logs -n 1 t-tcp | tr -dc 0-9) -gt $((last + 5)) ]"
    log_server tcp 5515
    expect_got "line $((last + 4))\\.\$"
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    sleep 1
    hulld_start
    last=$(hull logs -n 1 t-tcp | tr -dc 0-9)
    expect_got "line $((last + 3))\\.\$"
    hull rm -f t-tcp >/dev/null
}

case_a_server_that_stops_reading_stops_no_container() {
    log_server deaf 5516
    local begun=$SECONDS
    hull run --name t-deaf --log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:5516 --log-opt mode=blocking "$BUSYBOX" \
        sh -c 'yes "a line of some length, again and again" | head -n 60000' >/dev/null
    [ $((SECONDS - begun)) -lt 90 ] || fail "the container took $((SECONDS - begun)) s"
    expect_eq "$(hull logs -n 1 t-deaf)" 'a line of some length, again and again' 'what is kept here'
    wait_for 20 grep -q 'log messages were lost' "$HARNESS/hulld.log" || fail 'nobody tells of the loss'
    # Nobody listens there at all: a start does not need it.
    hull run --name t-gone --log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:5599 --log-opt cache-disabled=true "$BUSYBOX" echo x >"$T/out"
    expect_eq "$(cat "$T/out")" x output
    capture hull logs t-gone
    expect_err_has 'does not support reading'
}

case_syslog_by_sockets_and_tls() {
    log_server unix "$T/stream.sock"
    hull run --rm --log-driver syslog --log-opt "syslog-address=unix://$T/stream.sock" "$BUSYBOX" echo by-stream >/dev/null
    expect_got ': by-stream$'
    kill $SERVER
    log_server unixgram "$T/datagram.sock"
    hull run --rm --log-driver syslog --log-opt "syslog-address=unixgram://$T/datagram.sock" --log-opt syslog-format=rfc3164 "$BUSYBOX" echo by-datagram >/dev/null
    expect_got "$(uname -n) [0-9a-f]\{12\}\[[0-9]*\]: by-datagram$"
    kill $SERVER
    command -v openssl >/dev/null || skip 'openssl is not installed'
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout "$T/key.pem" -out "$T/cert.pem" \
        -subj /CN=logs -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2>/dev/null
    log_server tls 5517 "$T/cert.pem" "$T/key.pem"
    local to=(--log-driver syslog --log-opt syslog-address=tcp+tls://127.0.0.1:5517 --log-opt syslog-format=rfc5424micro)
    hull run --rm "${to[@]}" --log-opt "syslog-tls-ca-cert=$T/cert.pem" "$BUSYBOX" echo by-tls >/dev/null
    # The length comes first.
    expect_got '^[0-9]* <30>1 .*by-tls$'
    hull run --rm "${to[@]}" "$BUSYBOX" echo to-a-stranger >/dev/null
    hull run --rm "${to[@]}" --log-opt syslog-tls-skip-verify=true "$BUSYBOX" echo unverified >/dev/null
    expect_got 'unverified$'
    ! got to-a-stranger || fail 'a server was trusted that nobody vouches for'
}

case_journald_with_dockers_fields() {
    JOURNAL=/run/systemd/journal/socket
    # A journal that runs is not to be replaced.
    [ ! -S $JOURNAL ] || skip 'this host has a journal'
    hull create --name t-early --log-driver journald "$BUSYBOX" echo x >/dev/null
    capture hull start t-early
    expect_err_has 'journald is not enabled on this host'
    log_server journal $JOURNAL
    hull run --name t-j --label com.x=1 --log-driver journald --log-opt labels=com.x --log-opt 'tag=the {{.Name}}' "$BUSYBOX" \
        sh -c 'echo hello; echo oops >&2; head -c 20000 /dev/zero | tr "\0" x; echo' >/dev/null 2>&1
    expect_got CONTAINER_PARTIAL_MESSAGE
    wait_for 20 grep -q '"CONTAINER_PARTIAL_LAST": "true"' "$T/got"
    python3 - "$T/got" "$(hull inspect -f '{{.Id}}' t-j)" "$BUSYBOX" <<'END' || fail "$(cut -c1-600 "$T/got")"
import json, sys
messages = [json.loads(line) for line in open(sys.argv[1])]
by_text = {message["MESSAGE"][:5]: message for message in messages}
hello, oops = by_text["hello"], by_text["oops"]
for message in messages:
    assert message["CONTAINER_ID_FULL"] == sys.argv[2] and message["CONTAINER_ID"] == sys.argv[2][:12]
    assert message["CONTAINER_NAME"] == "t-j" and message["IMAGE_NAME"] == sys.argv[3] and message["COM_X"] == "1"
    assert message["CONTAINER_TAG"] == message["SYSLOG_IDENTIFIER"] == "the t-j"
assert (hello["PRIORITY"], oops["PRIORITY"]) == ("6", "3")
parts = [message for message in messages if "CONTAINER_PARTIAL_ID" in message]
assert [part["CONTAINER_PARTIAL_ORDINAL"] for part in parts] == ["1", "2"]
assert [part.get("CONTAINER_PARTIAL_MESSAGE") for part in parts] == ["true", None]
assert sum(len(part["MESSAGE"]) for part in parts) == 20000
END
    expect_eq "$(hull logs t-j 2>/dev/null | head -n 1)" hello 'what is kept here'
    expect_eq "$(hull logs t-j 2>/dev/null | tail -n 1 | wc -c)" 20001 'the long line'
}

case_gelf_and_fluentd() {
    log_server udp 5518
    hull run --rm --name t-gelf --log-driver gelf --log-opt gelf-address=udp://127.0.0.1:5518 --log-opt gelf-compression-type=none "$BUSYBOX" echo by-gelf >/dev/null
    expect_got '"short_message":"by-gelf"'
    got '"_container_name":"t-gelf"' || fail "$(cat "$T/got")"
    kill $SERVER
    log_server tcp 5519
    hull run --rm --name t-fluent --log-driver fluentd --log-opt fluentd-address=127.0.0.1:5519 --log-opt tag=the-tag "$BUSYBOX" echo by-fluentd >/dev/null
    expect_got by-fluentd
    grep -aq 'the-tag.*/t-fluent' "$T/got" || fail "$(od -c "$T/got")"
}

case_wrong_log_options_are_refused() {
    refused() {
        local text=$1
        shift
        capture hull create --name t-bad "$@" "$BUSYBOX" true
        [ "$status" != 0 ] || fail "accepted: $*"
        expect_err_has "$text"
    }
    refused "unknown log opt 'max-size' for syslog log driver" --log-driver syslog --log-opt max-size=1m
    refused "unknown log opt 'tag' for local log driver" --log-driver local --log-opt tag=x
    refused 'syslog-address should be in form proto://address' --log-driver syslog --log-opt syslog-address=127.0.0.1
    refused 'stat /nowhere/log' --log-driver syslog --log-opt syslog-address=unix:///nowhere/log
    refused 'invalid syslog facility' --log-driver syslog --log-opt syslog-facility=moon
    refused 'Invalid syslog format' --log-driver syslog --log-opt syslog-format=moon
    refused '/nowhere/ca.pem' --log-driver syslog --log-opt syslog-address=tcp+tls://x --log-opt syslog-tls-ca-cert=/nowhere/ca.pem
    refused "only supported with 'mode=non-blocking'" --log-opt max-buffer-size=1m
    refused 'logging mode not supported: odd' --log-opt mode=odd
    refused 'log driver splunk' --log-driver splunk
    refused 'gelf-address is a required parameter' --log-driver gelf
    refused 'fluentd-request-ack' --log-driver fluentd --log-opt fluentd-request-ack=true
}

case_the_engine_has_a_log_driver_for_all() {
    capture hulld --validate --log-driver syslog --log-opt syslog-facility=moon
    expect_status 1
    expect_err_has 'failed to set log opts'
    local O=$T/own
    mkdir "$O"
    hulld --root "$T/root" --exec-root "$O" -H "unix://$O/h.sock" --log-driver syslog --log-opt tag=own --log-opt cache-max-file=2 >"$T/hulld.log" 2>&1 &
    OWN=$!
    trap 'kill $OWN 2>/dev/null; wait $OWN 2>/dev/null || true; rm -rf "$T"' EXIT
    wait_for 30 hull -H "unix://$O/h.sock" version >/dev/null 2>&1 || fail "$(cat "$T/hulld.log")"
    expect_eq "$(hull -H "unix://$O/h.sock" info -f '{{.LoggingDriver}}')" syslog info
    hull -H "unix://$O/h.sock" pull -q "$BUSYBOX" >/dev/null
    config() { hull -H "unix://$O/h.sock" inspect -f '{{.HostConfig.LogConfig.Type}} {{json .HostConfig.LogConfig.Config}}' "$1"; }
    hull -H "unix://$O/h.sock" create --name one "$BUSYBOX" >/dev/null
    hull -H "unix://$O/h.sock" create --name two --log-driver local "$BUSYBOX" >/dev/null
    expect_eq "$(config one)" 'syslog {"cache-max-file":"2","tag":"own"}' 'who says nothing'
    expect_eq "$(config two)" 'local {"cache-max-file":"2"}' 'who names a driver'
}
