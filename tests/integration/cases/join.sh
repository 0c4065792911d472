# Containers in another one's VM: --network container:OTHER.

case_containers_of_one_vm_share_its_network() {
    hull run -d --name t-own --hostname owner -p 18084:8080 "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-in --network container:t-own "$BUSYBOX" sh -c 'mkdir /w; echo joined >/w/index.html; exec httpd -f -p 127.0.0.1:80 -h /w' >/dev/null
    wait_for 20 hull exec t-own sh -c 'wget -qO- http://127.0.0.1/ | grep -q joined' || fail 'localhost is not shared'
    local own in
    own=$(hull inspect --vm t-own | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p')
    in=$(hull inspect --vm t-in | sed -n 's/.*"vmm_pid": *\([0-9]*\).*/\1/p')
    expect_eq "$in" "$own" 'the VM'
    expect_eq "$(hull inspect -f '{{.HostConfig.NetworkMode}}' t-in)" "container:$(hull inspect -f '{{.Id}}' t-own)" 'the mode'
    expect_eq "$(hull inspect -f '{{len .NetworkSettings.Networks}}' t-in)" 0 'networks of its own'
    # What is published is the first one's, whoever listens.
    hull exec -d t-in httpd -f -p 8080 -h /w
    wait_for 20 sh -c 'curl -s --max-time 3 http://127.0.0.1:18084/ | grep -q joined'
    # Names go with the network; processes and files do not.
    expect_eq "$(hull exec t-in cat /etc/hosts)" "$(hull exec t-own cat /etc/hosts)" '/etc/hosts'
    expect_eq "$(hull exec t-in hostname)" owner 'the host name'
    expect_eq "$(hull exec t-own sh -c 'ls -d /w 2>/dev/null; ps | grep -c "[h]ttpd"')" 0 'files and processes'
    hull rm -f t-in >/dev/null
    hull exec t-own true
    # Its disks can be had again.
    hull run --rm --network container:t-own --pid container:t-own "$BUSYBOX" ps >"$T/ps"
    grep -q 'sleep 600' "$T/ps" || fail "processes are not seen: $(cat "$T/ps")"
    hull rm -f t-own >/dev/null
    expect_clean_host
}

case_a_joined_container_keeps_its_files_and_ends_with_the_vm() {
    hull run -d --name t-own "$BUSYBOX" sleep 600 >/dev/null
    hull run --name t-in --network container:t-own "$BUSYBOX" sh -c 'echo kept >/f; exit 4' || [ $? = 4 ] || fail 'exit status'
    hull start t-in >/dev/null
    hull wait t-in >/dev/null
    expect_eq "$(hull cp t-in:/f - | tar -xO)" kept 'a file'
    # Two at a time: that is as many disks as a VM has places for.
    hull run -d --name t-1 --network container:t-own "$BUSYBOX" sleep 600 >/dev/null
    hull run -d --name t-2 --network container:t-own "$BUSYBOX" sleep 600 >/dev/null
    capture hull run --rm --network container:t-own "$BUSYBOX" true
    expect_status 125
    expect_err_has 'no room in the VM'
    hull rm -f t-1 >/dev/null
    hull run --rm --network container:t-own "$BUSYBOX" true
    # kill -9 of the engine: both go on.
    kill -9 "$(cat "$HARNESS/hulld.pid")"
    hulld_start
    expect_eq "$(hull inspect -f '{{.State.Status}}' t-2)" running 'after the engine'
    hull exec t-2 true
    hull stop -t 1 t-own >/dev/null
    wait_for 20 sh -c '[ "$(hull inspect -f "{{.State.Status}} {{.State.ExitCode}}" t-2)" = "exited 137" ]' || fail "$(hull inspect -f '{{json .State}}' t-2)"
    capture hull start t-2
    expect_status 1
    expect_err_has 'non running container'
    hull start t-own >/dev/null
    hull start t-2 >/dev/null
    hull rm -f t-own t-2 t-in >/dev/null
    expect_clean_host
}

case_what_a_joined_container_cannot_have_is_said() {
    hull run -d --name t-own "$BUSYBOX" sleep 600 >/dev/null
    local option
    for option in '-p 80:80' '--hostname x' '--dns 1.1.1.1' '--add-host a:1.2.3.4' '--expose 90' '--mac-address 02:00:00:00:00:01'; do
        # shellcheck disable=SC2086
        capture hull create --network container:t-own $option "$BUSYBOX" true
        [ "$status" != 0 ] || fail "$option is taken"
        expect_err_has 'conflicting options'
    done
    capture hull create --network container:nobody "$BUSYBOX" true
    expect_status 1
    expect_err_has nobody
    capture hull create --pid container:t-own "$BUSYBOX" true
    expect_status 1
    expect_err_has '--network container:OTHER'
    capture hull create --ipc container:t-own "$BUSYBOX" true
    expect_status 1
    expect_err_has IpcMode
    hull create --name t-in --network container:t-own "$BUSYBOX" true >/dev/null
    capture hull network connect bridge t-in
    expect_status 1
    expect_err_has 'cannot be connected to any other network'
    hull rm -f t-own t-in >/dev/null
}
