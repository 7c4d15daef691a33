# Processes of the stack: each is known by its pid and by when it started, so that no other one is ever ended.

# launch PART COMMAND...: in the background, in a session of its own.
launch() {
    local part=$1
    shift
    launched_s=$SECONDS
    setsid "$@" >>"$folder/logs/$part.log" 2>&1 </dev/null 9<&- &
    echo "$! $(started_at $!)" >"$folder/pids/$part"
}

# In ticks since the machine started; nothing where there is no such process.
started_at() {
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    read -r -a stat <<<"${stat##*) }"
    [[ ${stat[0]} == Z ]] || echo "${stat[19]}"
}

pid_of() { local pid; read -r pid _ <"$folder/pids/$1" && echo "$pid"; }

runs() {
    local pid start
    [[ -s $folder/pids/$1 ]] && read -r pid start <"$folder/pids/$1" && [[ -n $start && $(started_at "$pid") == "$start" ]]
}

parts_that_run() {
    local part
    for part in "$folder"/pids/*; do
        if runs "${part##*/}"; then echo "${part##*/}"; fi
    done
}

# wait_for PART LIMIT_S COMMAND...: until the command succeeds; counts from the launch.
wait_for() {
    local part=$1 limit_s=$2
    shift 2
    printf 'stack: %s ... ' "$part"
    until "$@" >/dev/null 2>&1; do
        if ! runs "$part" || ((SECONDS - launched_s > limit_s)); then
            printf 'failed after %s s\n' $((SECONDS - launched_s))
            tail -n 15 "$folder/logs/$part.log" >&2
            fail "$part does not answer at $(address_of "$part"). The whole log: $folder/logs/$part.log"
        fi
        sleep 0.3
    done
    printf '%s s\n' $((SECONDS - launched_s))
}

# All processes below one, as 'pid start' lines.
tree_of() {
    local list child children
    for list in /proc/"$1"/task/*/children; do
        children=()
        { read -r -a children <"$list"; } 2>/dev/null || true
        for child in "${children[@]}"; do
            echo "$child $(started_at "$child")"
            tree_of "$child"
        done
    done
}

# stop PART: asks it to end and waits; what is left of it after 30 s is killed.
stop() {
    local part=$1 pid start tree tries
    runs "$part" || { rm -f "$folder/pids/$part"; return 0; }
    read -r pid start <"$folder/pids/$part"
    tree="$pid $start"$'\n'$(tree_of "$pid")
    kill -s "$(end_signal_of "$part")" "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 150; tries++)); do
        [[ $(started_at "$pid") == "$start" ]] || break
        sleep 0.2
    done
    while read -r pid start; do
        if [[ -n $start && $(started_at "$pid") == "$start" ]]; then kill -KILL "$pid" 2>/dev/null || true; fi
    done <<<"$tree"
    rm -f "$folder/pids/$part"
}
