# A Ray cluster: a head that does no work itself, with dashboard and Jobs API, and nodes beside it.

all_parts() {
    local number
    printf '%s\n' store database tracking head
    for ((number = 1; number <= workers; number++)); do echo "worker-$number"; done
}

address_of() {
    case $1 in
        store) echo "$s3_url" ;;
        database) echo "$host:$postgres_port" ;;
        tracking) echo "$mlflow_url" ;;
        head) echo "$dashboard_url" ;;
        *) echo "$host:$ray_port" ;;
    esac
}

# INT: PostgreSQL ends at once and in order; on TERM it waits for its clients.
end_signal_of() { if [[ $1 == database ]]; then echo INT; else echo TERM; fi; }

start_cluster() {
    local number
    # in this shell alone: `up` ends with it
    eval "$(print_env)"
    export PATH=$bin:$PATH
    # a lost machine is known within seconds; a job that is stopped has time for its checkpoint
    export RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000
    export RAY_health_check_failure_threshold=4 RAY_JOB_STOP_SIGNAL=SIGINT RAY_JOB_STOP_WAIT_TIME_S=60
    unset RAY_ADDRESS PYTHONDONTWRITEBYTECODE # a node is a dozen of processes, each would compile Ray anew
    if ! runs head; then
        must_be_free head
        start_node head 0 --head --port="$ray_port" --include-dashboard=true \
            --dashboard-host="$host" --dashboard-port="$dashboard_port" --ray-client-server-port="$client_port" --disable-usage-stats
    fi
    for ((number = 1; number <= workers; number++)); do
        if ! runs "worker-$number"; then start_node "worker-$number" "$cpus" --address="$host:$ray_port"; fi
    done
}

# A head is up when the last of its servers is: one that gives up takes the others with it.
is_up() { has_joined "$1" && { [[ $1 != head ]] || { dashboard_answers && answers "$host" "$client_port"; }; }; }
has_joined() { grep -q 'runtime started' "$folder/logs/$1.log"; }

# start_node PART CPUS OPTIONS...: small stores for objects, for a run puts none there. Each node has a folder of its own,
# as on a machine of its own: submitted code is unpacked there, and another node would read it half written. Ray gives
# the agent of a node 15 s to come up, which a busy machine may not have: a node that gave up is started anew.
start_node() {
    local part=$1 num_cpus=$2 start=$SECONDS tries
    shift 2
    for tries in 1 2 3 4 5; do
        : >"$folder/logs/$part.log"
        launch "$part" "$bin/ray" start --block --node-ip-address="$host" --num-cpus="$num_cpus" \
            --temp-dir="$ray_folder/$part" --object-store-memory=$((128 << 20)) --dashboard-agent-listen-port="$(free_port)" "$@"
        until is_up "$part" || ! runs "$part" || ! runs head || ((SECONDS - start > tries * 100)); do sleep 0.3; done
        if is_up "$part" || { [[ $part != head ]] && ! runs head; }; then break; fi
        stop "$part"
    done
    runs head || fail "head has ended while $part came up; the whole log: $folder/logs/head.log. Once more: infra/local/stack up"
    wait_for "$part" 60 is_up "$part"
}

dashboard_answers() {
    curl -fsS -m 5 -K - "$dashboard_url/api/version" <<<"header = \"Authorization: Bearer $(secret ray_token)\"" >/dev/null 2>&1
}
