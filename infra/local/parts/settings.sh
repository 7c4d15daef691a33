# What the stack was started with (no secret), and its secrets: a file each, for its owner alone.

readonly names=(host workers cpus s3_port postgres_port mlflow_port ray_port dashboard_port client_port ray_folder)
readonly bucket=gen-dist artifact_bucket=mlflow region=us-east-1 mlflow_user=gen-dist

# Takes what `up` is told, then what the folder remembers, then the default; and remembers it.
load_settings() {
    local name value
    local -A kept=([host]=127.0.0.1 [workers]=2 [cpus]=1)
    if [[ -f $folder/settings ]]; then
        while IFS='=' read -r name value; do kept[$name]=$value; done <"$folder/settings"
    fi
    for name in "${names[@]}"; do
        value=${wanted[$name]:-${kept[$name]:-}}
        case $name in
            *_port) value=${value:-$(free_port)} ;;
            # sockets in it have paths of at most 107 bytes, so not in the folder of the stack
            ray_folder) value=${value:-$(mktemp -d /tmp/gen-dist-XXXXXX)} ;;
        esac
        [[ $name == host || $name == ray_folder || $value =~ ^[0-9]+$ ]] || fail "--${name//_/-} $value: write a whole number"
        printf -v "$name" %s "$value"
    done
    if [[ $verb == up ]]; then
        for name in "${names[@]}"; do printf '%s=%s\n' "$name" "${!name}"; done >"$folder/settings"
    fi
    s3_url=http://$host:$s3_port mlflow_url=http://$host:$mlflow_port dashboard_url=http://$host:$dashboard_port
}

answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# Below the ports that the system gives to outgoing connections.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        answers "${host:-127.0.0.1}" "$port" || break
    done
    echo "$port"
}

# must_be_free PART: a remembered port may have been taken meanwhile.
must_be_free() {
    local address
    address=$(address_of "$1")
    address=${address#*://}
    ! answers "${address%:*}" "${address##*:}" || fail "$1: something else listens at $address; give another port to 'stack up'"
}

random_hex() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }

secret() { cat "$folder/secrets/$1"; }

# keep NAME VALUE: a secret, unless there is one. A function's arguments, unlike a program's, are seen by nobody.
keep() { [[ -s $folder/secrets/$1 ]] || printf '%s\n' "$2" >"$folder/secrets/$1"; }

make_secrets() {
    keep aws "[default]
aws_access_key_id = $(random_hex 10)
aws_secret_access_key = $(random_hex 20)"
    keep pgpass "*:*:*:mlflow:$(random_hex 20)"
    keep ray_token "$(random_hex 32)"
    keep mlflow_admin "$(random_hex 20)"
    keep mlflow_password "$(random_hex 20)"
    keep mlflow_session_key "$(random_hex 20)"
}

# Clients of the stack: a shell, and the nodes of its cluster.
print_env() {
    [[ -f $folder/settings ]] || fail "$folder: no stack was started there; infra/local/stack up --folder '$folder'"
    load_settings
    cat <<TEXT
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE RAY_AUTH_TOKEN MLFLOW_TRACKING_TOKEN
export AWS_SHARED_CREDENTIALS_FILE=$(quoted "$folder/secrets/aws") AWS_DEFAULT_REGION=$region AWS_ENDPOINT_URL_S3=$s3_url
export MLFLOW_TRACKING_URI=$mlflow_url MLFLOW_TRACKING_USERNAME=$mlflow_user
export MLFLOW_TRACKING_PASSWORD="\$(cat $(quoted "$folder/secrets/mlflow_password"))"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$(quoted "$folder/secrets/ray_token")
export RAY_API_SERVER_ADDRESS=$dashboard_url GENDIST_CLUSTER=$dashboard_url
TEXT
}

quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }
