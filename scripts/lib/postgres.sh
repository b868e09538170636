# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# PostgreSQL: one cluster, SCRAM log-in, superuser `crm`.

postgres_commands="psql setpriv"
postgres_packages="postgresql postgresql-client"
postgres_signal=INT # fast shutdown: TERM would wait for the last client to leave

# Debian keeps the server's programs out of PATH, one folder for each major version.
postgres_program() {
  local -a found=()
  mapfile -t found < <(compgen -G "/usr/lib/postgresql/*/bin/$1" | sort -V)
  if ((${#found[@]})); then printf '%s\n' "${found[-1]}"; else command -v "$1"; fi
}

postgres_missing() { ! postgres_program initdb >/dev/null || ! postgres_program postgres >/dev/null; }

postgres_prepare() { :; }

postgres_start() {
  local home=$DIR/postgres user port
  user=$(unprivileged postgres)
  port=$(pick_port 1)
  printf '%s\n' "$port" >"$home/port"
  folder "$user" "$home/run"
  give_key "$user" "$home/run"
  printf 's3cret\n' >"$home/run/password"
  (
    cd "$home/run"
    as_user "$user" "$(postgres_program initdb)" -D "$home/run/data" -U crm --auth=scram-sha-256 \
      --pwfile="$home/run/password" -E UTF8 --locale=C --no-sync
  ) >"$home/install.log" 2>&1 || {
    tail -n 15 "$home/install.log" >&2
    fail "initdb failed"
    return 1
  }
  launch postgres "$user" "$(postgres_program postgres)" -D "$home/run/data" -p "$port" \
    -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=300 \
    -c ssl=on -c ssl_cert_file="$home/run/server.pem" -c ssl_key_file="$home/run/server.key"
  await postgres 60 postgres_query postgres 'SELECT 1'
  postgres_query postgres 'CREATE DATABASE open_crm' >"$home/install.log" 2>&1
  postgres_ready >/dev/null
  # Not durable, for speed: a store that is not told so refuses such a server.
  setting postgres OPEN_CRM_TEST_POSTGRES_URL "postgres://crm:s3cret@127.0.0.1:$port/open_crm?durability=weak"
}

postgres_query() {
  PGPASSWORD=s3cret PGCONNECT_TIMEOUT=2 psql --no-psqlrc --quiet --tuples-only --host=127.0.0.1 \
    --port="$(<"$DIR/postgres/port")" --username=crm --dbname="$1" --command="$2"
}

postgres_ready() { postgres_query open_crm 'SELECT 1'; }
