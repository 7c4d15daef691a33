# MLflow's server with users and passwords: tables in PostgreSQL, artifacts in the object store, through the server.

start_tracking() {
    if runs tracking; then return; fi
    must_be_free tracking
    mkdir -p "$folder/mlflow"
    cd "$folder/mlflow"
    launched_s=$SECONDS
    (
        export PGHOST=$host PGPORT=$postgres_port PGUSER=mlflow PGPASSFILE=$folder/secrets/pgpass
        export AWS_SHARED_CREDENTIALS_FILE=$folder/secrets/aws AWS_DEFAULT_REGION=$region MLFLOW_S3_ENDPOINT_URL=$s3_url
        unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE
        export MLFLOW_AUTH_CONFIG_PATH=$root/infra/mlflow/basic_auth.ini
        MLFLOW_AUTH_ADMIN_PASSWORD=$(secret mlflow_admin) MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_session_key)
        export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
        export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # for GenAI evaluation: several processes more
        launch tracking "$bin/mlflow" server --app-name basic-auth --host "$host" --port "$mlflow_port" --workers 1 \
            --backend-store-uri postgresql+psycopg2:///mlflow --artifacts-destination "s3://$artifact_bucket" \
            --allowed-hosts "$host:$mlflow_port,localhost:$mlflow_port"
    )
    cd "$root"
    wait_for tracking 400 curl -fsS -m 5 "$mlflow_url/health"
    make_user
}

# Runs are not the administrator: a user of their own, who owns what they make.
make_user() {
    local code
    code=$(curl -sS -m 60 -o /dev/null -w '%{http_code}' -K - "$mlflow_url/api/2.0/mlflow/users/create" <<TEXT
user = "admin:$(secret mlflow_admin)"
header = "Content-Type: application/json"
data = "{\"username\": \"$mlflow_user\", \"password\": \"$(secret mlflow_password)\"}"
TEXT
    )
    [[ $code == 200 || $code == 400 ]] || fail "MLflow's user $mlflow_user: $mlflow_url answers $code; see $folder/logs/tracking.log"
}
