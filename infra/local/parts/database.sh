# PostgreSQL from Debian, for MLflow. Only its own role may come in, with its password; there is no socket file.

find_postgres() {
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb | sort -V | while read -r one; do
        if [[ -x $one ]]; then echo "$one"; fi
    done | tail -n 1)
    found=${found:-$(command -v initdb || true)}
    [[ -n $found ]] || fail "PostgreSQL: no initdb in /usr/lib/postgresql/*/bin or PATH; apt-get install postgresql"
    postgres_bin=$(dirname "$found")
}

# PostgreSQL refuses to run as root.
as_postgres() {
    if ((EUID)); then "$@"; else setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; fi
}

start_database() {
    if runs database; then return; fi
    must_be_free database
    local data=$folder/postgres
    if ((EUID == 0)); then
        id postgres >/dev/null 2>&1 || fail "root starts PostgreSQL as the user postgres, who is missing; apt-get install postgresql"
        as_postgres test -x "$folder" ||
            fail "$folder: the user postgres cannot enter it, as whom root starts PostgreSQL; choose a folder that all may pass: --folder /srv/gen-dist"
    fi
    if [[ ! -f $data/made ]]; then
        rm -rf "$data"
        mkdir "$data"
        if ((EUID == 0)); then chown postgres: "$data"; fi
        make_database "$data" >>"$folder/logs/database.log" 2>&1 || fail "PostgreSQL's initdb failed; see $folder/logs/database.log"
    fi
    cd "$data" # whoever it runs as may not stand where we stand
    if ((EUID)); then
        launch database "$postgres_bin/postgres" -D "$data" -h "$host" -p "$postgres_port" -k ''
    else
        launch database setpriv --reuid=postgres --regid=postgres --init-groups -- \
            "$postgres_bin/postgres" -D "$data" -h "$host" -p "$postgres_port" -k ''
    fi
    cd "$root"
    wait_for database 300 "$postgres_bin/pg_isready" -q -U mlflow -d mlflow -h "$host" -p "$postgres_port"
}

# Statements come on standard input, before anybody can connect; an error does not repeat one, with its password, in the log.
make_database() {
    cd "$1" &&
        as_postgres "$postgres_bin/initdb" -D "$1" -U postgres --auth=reject --encoding=UTF8 --locale=C.UTF-8 --no-sync &&
        as_postgres tee "$1/pg_hba.conf" <<<'host mlflow,mlflow_auth mlflow all scram-sha-256' &&
        as_postgres "$postgres_bin/postgres" --single -D "$1" -c password_encryption=scram-sha-256 \
            -c log_min_error_statement=panic -c exit_on_error=on postgres <<TEXT &&
CREATE ROLE mlflow LOGIN PASSWORD '$(cut -d: -f5 "$folder/secrets/pgpass")'
CREATE DATABASE mlflow OWNER mlflow
CREATE DATABASE mlflow_auth OWNER mlflow
TEXT
        as_postgres touch "$1/made"
}
