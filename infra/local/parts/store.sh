# Object storage: JuiceFS's S3 gateway over a folder.

start_store() {
    if runs store; then return; fi
    must_be_free store
    local meta=sqlite3://$folder/store/meta.db
    mkdir -p "$folder/store"
    if [[ ! -f $folder/store/formatted ]]; then
        "$bin/juicefs" format "$meta" store --storage file --bucket "$folder/store/blocks/" --trash-days 0 \
            >>"$folder/logs/store.log" 2>&1 || fail "juicefs format failed; see $folder/logs/store.log"
        touch "$folder/store/formatted"
    fi
    HOME=$folder/store MINIO_ROOT_USER=$(aws_key) MINIO_ROOT_PASSWORD=$(aws_secret) launch store \
        "$bin/juicefs" gateway "$meta" "$host:$s3_port" --multi-buckets --keep-etag --no-banner --no-usage-report --metrics "$host:0" \
        --log "$folder/logs/store.log" --cache-dir memory --cache-size 64
    wait_for store 300 curl -fsS -m 5 "$s3_url/minio/health/live"
    make_bucket "$bucket"
    make_bucket "$artifact_bucket"
}

aws_key() { sed -n 's/^aws_access_key_id = //p' "$folder/secrets/aws"; }
aws_secret() { sed -n 's/^aws_secret_access_key = //p' "$folder/secrets/aws"; }

# Keys go to curl by its standard input: arguments can be read by every user of the machine.
make_bucket() {
    local code
    code=$(curl -sS -m 60 -o /dev/null -w '%{http_code}' -X PUT -K - "$s3_url/$1" <<TEXT
user = "$(aws_key):$(aws_secret)"
aws-sigv4 = "aws:amz:$region:s3"
header = "x-amz-content-sha256: UNSIGNED-PAYLOAD"
TEXT
    )
    [[ $code == 200 || $code == 409 ]] || fail "bucket $1: $s3_url answers $code; see $folder/logs/store.log"
}
