# The docker command line against hulld, beside what dockerd 28 with runc answers: tests/clients/docker.
# seconds: 1500

case_docker_compare_answers_as_dockerd() {
    command -v docker >/dev/null || skip 'the docker command line is not installed'
    local version
    export DOCKER_HOST=$HULL_HOST REGISTRY IMAGE=$BUSYBOX
    version=$(docker version -f '{{.Client.Version}}')
    # Others have other texts of their own.
    [[ $version == 28.* ]] || skip "the docker command line is $version, and not 28"
    tests/clients/docker/compare check "$T/hulld.txt" || fail 'answers that are neither dockerd'"'"'s nor explained'
}

# Raw requests, of which docker's clients send none: wrong types, names that nobody has, odd paths.
case_docker_compare_answers_raw_requests_as_dockerd() {
    DOCKER_HOST=$HULL_HOST tests/clients/api/compare check "$T/hulld.txt" || fail 'answers that are neither dockerd'"'"'s nor explained'
}
