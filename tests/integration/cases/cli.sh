# Docker's flags and verbs at Hull's own command line.

case_flags_of_run_mean_what_they_mean_to_docker() {
    hull network create t-cli >/dev/null
    printf '# labels\nfrom=file\nboth=file\n' >"$T/labels"
    capture hull run --name t-one --network name=t-cli,alias=first,gw-priority=5 --label-file "$T/labels" -l both=flag \
        --device /dev/fuse:/dev/inside:rw --domainname example.test -v t-cli:/data -a stdout "$BUSYBOX" \
        sh -c 'echo out; echo err >&2; ls /dev/inside; dd if=/dev/zero of=/big bs=1024 count=2000 2>/dev/null'
    expect_status 0
    expect_out $'out\n/dev/inside\n'
    expect_eq "$err" '' 'what was not attached to'
    expect_eq "$(hull inspect -f '{{.Config.Domainname}} {{index .Config.Labels "from"}} {{index .Config.Labels "both"}} {{.HostConfig.NetworkMode}}' t-one)" 'example.test file flag t-cli'
    expect_eq "$(hull inspect -f '{{range .NetworkSettings.Networks}}{{.Aliases}} {{.GwPriority}}{{end}}' t-one)" '[first] 5'
    # What is written is counted where it is asked for.
    expect_eq "$(hull ps -a -s --filter name=t-one --format '{{.Mounts}} {{.LocalVolumes}}')" 't-cli 1'
    [[ $(hull ps -a --filter name=t-one --format '{{.Size}}') =~ ^[2-9]\.[0-9]*MB\ \(virtual\  ]] || fail "size: $(hull ps -a --filter name=t-one --format '{{.Size}}')"
    [ "$(hull inspect -s -f '{{.SizeRw}}' t-one)" -gt 2000000 ] || fail 'SizeRw'
    # Contradictions and what a VM can't have are named, before anything is made.
    for words in '-d -a stdout' '--network name=t-cli,ip=10.0.0.1 --ip 10.0.0.2' '--network host --network t-cli' '--cgroupns shared'; do
        # shellcheck disable=SC2086
        capture hull run --name t-two $words "$BUSYBOX" true
        expect_status 125
    done
    capture hull run --name t-two --gpus all "$BUSYBOX" true
    expect_status 125
    expect_err_has GPU
    capture hull run --name t-two --device-read-bps /dev/sda:1mb "$BUSYBOX" true
    expect_status 125
    expect_err_has BlkioDeviceReadBps
    hull rm t-one >/dev/null
    hull network rm t-cli >/dev/null
    hull volume rm t-cli >/dev/null
}

case_images_are_asked_for_by_platform_and_by_all_their_tags() {
    local name=$REGISTRY/t-tags
    for tag in one two; do registry_push "$IMAGES/busybox" "$name:$tag"; done
    capture hull pull -a "$name"
    expect_status 0
    expect_eq "$(hull images --format '{{.Tag}}' "$name" | sort | tr '\n' ' ')" 'one two ' tags
    capture hull pull -a "$name:one"
    expect_status 1
    hull image inspect --platform linux/amd64 "$name:one" >/dev/null
    for command in 'image inspect' 'history' 'push' 'save -o /dev/null' 'rmi'; do
        # shellcheck disable=SC2086
        capture hull $command --platform linux/arm64 "$name:one"
        expect_status 1
        expect_err_has linux/arm64
    done
    hull rmi "$name:one" "$name:two" >/dev/null
}

case_a_prune_asks_first() {
    hull create --name t-old "$BUSYBOX" true >/dev/null
    hull network create t-unused >/dev/null
    for command in 'container prune' 'network prune' 'volume prune' 'image prune' 'system prune'; do
        # shellcheck disable=SC2086
        capture hull $command <<<n
        expect_status 1
        expect_err_has 'Are you sure'
    done
    hull inspect t-old >/dev/null
    capture hull network prune --filter label!=keep <<<y
    expect_status 0
    expect_out_has t-unused
    expect_eq "$(hull network rm -f t-unused; echo $?)" 0 'removal of what is gone, with force'
    capture hull system df -v
    expect_out_has 'Local Volumes space usage'
    expect_out_has t-old
    expect_eq "$(hull system df --format '{{.Type}}' | tr '\n' ',')" 'Images,Containers,Local Volumes,Build Cache,'
    hull rm t-old >/dev/null
}

case_environment_files_and_names_alone() {
    printf '\xef\xbb\xbfA=1\r\n# no\n  B=a b  c\nC="q"\nNOWHERE\nHERE\n' >"$T/env"
    HERE=there hull create --name t-env --network none --env-file "$T/env" -e PATH= -e GONE "$BUSYBOX" true >/dev/null
    expect_eq "$(hull inspect -f '{{range .Config.Env}}[{{.}}]{{end}}' t-env)" '[A=1][B=a b  c][C="q"][HERE=there][PATH=][GONE]' 'what a file and flags say'
    # A name alone unsets what the image or the container has.
    hull run -d --name t-exec --network none -e A=1 -e B=2 "$BUSYBOX" sleep 600 >/dev/null
    expect_eq "$(hull exec -e A t-exec sh -c 'echo ${A-unset} $B')" 'unset 2' 'of an exec'
    for words in '--expose x' '--expose 9-8' '--sysctl x' '--add-host x' '--add-host x:y' '--ulimit odd=1'; do
        # shellcheck disable=SC2086
        capture hull create --name t-bad $words "$BUSYBOX" true
        [ "$status" != 0 ] || fail "$words was taken"
        words=${words#* }
        expect_err_has "${words%%=*}"
    done
    hull create --name t-range --expose 80-82/udp --add-host 'six=[::1]' --kernel-memory 10m "$BUSYBOX" true >/dev/null
    expect_eq "$(hull inspect -f '{{len .Config.ExposedPorts}}' t-range)" 3 'exposed ports'
}

# Docker's command line where a script depends on it.
case_removals_stops_and_id_files_are_those_of_docker() {
    local verb count file=$T/id
    for verb in rm rmi 'network rm' 'volume rm'; do
        capture hull $verb -f nosuch
        expect_status 0
    done
    for verb in rm rmi; do
        capture hull $verb nosuch
        expect_status 1
    done
    hull create --name t-there "$BUSYBOX" true >/dev/null
    capture hull rm -f nosuch t-there
    expect_status 0
    expect_out $'t-there\n'
    # A container is made only where its id can be written down.
    echo other >"$file"
    count=$(hull ps -aq | wc -l)
    capture hull run --rm --cidfile "$file" "$BUSYBOX" true
    expect_status 125
    expect_err_has 'container ID file found'
    capture hull create --cidfile "$T/none/id" "$BUSYBOX" true
    expect_status 1
    expect_eq "$(hull ps -aq | wc -l)" "$count" 'containers'
    rm "$file"
    capture hull create --cidfile "$file" --memory 1m "$BUSYBOX" true
    [ ! -e "$file" ] || fail 'a file for no container'
    hull create --name t-id --cidfile "$file" "$BUSYBOX" true >"$T/printed"
    expect_eq "$(cat "$file")" "$(cat "$T/printed")" 'the id'
    # What can be no image's name.
    hull network create t-Net >/dev/null
    expect_eq "$(hull inspect -f '{{.Name}}' t-Net)" t-Net 'a network'
    hull network rm t-Net >/dev/null
    capture hull inspect My_Gone
    expect_err_has 'No such object: My_Gone'
    # Nothing but what is printed.
    hull run -d --name t-one "$BUSYBOX" sh -c 'trap "" TERM; while :; do sleep 1; done' >/dev/null
    hull stats | head -n 2 >"$T/stats"
    if grep -q "$(printf '\033')" "$T/stats"; then fail 'escape codes in a pipe'; fi
    # Side by side.
    for count in two three; do
        hull run -d --name t-$count "$BUSYBOX" sh -c 'trap "" TERM; while :; do sleep 1; done' >/dev/null
    done
    SECONDS=0
    expect_eq "$(hull stop -t 15 t-one t-two t-three | tr '\n' ' ')" 't-one t-two t-three ' 'the order'
    [ $SECONDS -lt 35 ] || fail "three stops took $SECONDS s"
    hull rm t-one t-two t-three t-id >/dev/null
}

# Scripts ask for what a container may not have: it is empty, as with docker.
case_what_a_container_has_not_is_empty() {
    hull create --name t-bare --network none --label 'c=a,b=2' "$BUSYBOX" true >/dev/null
    expect_eq "$(hull inspect -f '{{.State.Health}} {{with .State.Health}}{{.Status}}{{else}}none{{end}} {{json .State.Health}}' t-bare)" '<nil> none null' 'health'
    expect_eq "$(hull inspect -f '{{if and .State.Health (eq .State.Health.Status "healthy")}}yes{{else}}no{{end}}' t-bare)" no 'a look that stops'
    expect_eq "$(hull inspect -f '{{.Config.ExposedPorts}} {{.Config.Healthcheck}} {{.Config.StopTimeout}} {{.HostConfig.Init}} {{.SizeRw}}|{{.Config.StopSignal}}|' t-bare)" 'map[] <nil> <nil> <nil> <nil>||' 'options'
    expect_eq "$(hull inspect -f '{{range .NetworkSettings.Networks}}{{.MacAddress}}{{.IPAMConfig}}{{.Aliases}}{{end}}' t-bare)" '<nil>[]' 'an end'
    expect_eq "$(hull ps -a --filter name=t-bare --format '{{.Label "c"}}|{{.Label "d"}}')" 'a,b=2|' 'a label'
    hull rm t-bare >/dev/null
}

case_top_and_security_options_are_those_of_docker() {
    echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}' >"$T/profile.json"
    capture hull run --rm --security-opt "seccomp=$T/none.json" "$BUSYBOX" true
    expect_status 125
    expect_err_has "opening seccomp profile ($T/none.json) failed"
    hull run -d --name t-top --network none --security-opt "seccomp=$T/profile.json" --security-opt systempaths=unconfined "$BUSYBOX" \
        sh -c 'mkdir /made || echo denied; grep -c " /proc/" /proc/mounts; sleep 600; true' >/dev/null
    wait_for 20 sh -c 'hull top t-top | grep -q "sleep 600"' || fail "$(hull top t-top)"
    expect_eq "$(hull logs t-top 2>/dev/null | tr '\n' ' ')" 'denied 0 ' 'what is forbidden, and what is masked'
    expect_eq "$(hull top t-top aux | head -n 1 | tr -s ' ')" 'USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND' 'aux'
    hull top t-top -eo pid,rss,args | awk '$2 > 0 && /sleep 600$/ { found = 1 } END { exit !found }' || fail "$(hull top t-top -eo pid,rss,args)"
    local options text
    while IFS='|' read -r options text; do
        capture hull top t-top $options
        expect_status 1
        expect_err_has "$text"
    done <<'CASES'
-o cmd|Couldn't find PID field in ps output
-o pid,nonsense|ps: error: unknown user-defined format specifier "nonsense"
-o pid,psr|ps: the column "psr" is not known
--forest|ps: the option "--forest" means nothing
CASES
    hull rm -f t-top >/dev/null
}
