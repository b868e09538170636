# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# MariaDB: one server, user `crm` with all rights, so that a test can make databases of its own.

mariadb_commands="mariadbd mariadb mariadb-install-db"
mariadb_packages="mariadb-server mariadb-client"
mariadb_signal=TERM

mariadb_prepare() { :; }

mariadb_start() {
  local home=$DIR/mariadb user port
  user=$(unprivileged mysql)
  port=$(pick_port 0)
  printf '%s\n' "$port" >"$home/port"
  folder "$user" "$home/data" "$home/run"
  give_key "$user" "$home/run"
  local -a owner=()
  if ((EUID == 0)); then owner=(--user="$user"); fi
  mariadb-install-db --no-defaults "${owner[@]}" --datadir="$home/data" --skip-test-db \
    --auth-root-authentication-method=normal >"$home/install.log" 2>&1 || {
    tail -n 15 "$home/install.log" >&2
    fail "mariadb-install-db failed"
    return 1
  }
  cat >"$home/run/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS open_crm;
CREATE USER IF NOT EXISTS 'crm'@'%' IDENTIFIED BY 's3cret';
GRANT ALL PRIVILEGES ON *.* TO 'crm'@'%' WITH GRANT OPTION;
SQL
  # The default collation stays MariaDB's own: a test that needs another must see that it says so.
  launch mariadb "$user" "$(command -v mariadbd)" --no-defaults --datadir="$home/data" \
    --bind-address=127.0.0.1 --port="$port" --socket="$home/run/server.sock" --pid-file="$home/run/server.pid" \
    --skip-name-resolve --max-connections=300 --character-set-server=utf8mb4 \
    --innodb-buffer-pool-size=128M --innodb-flush-log-at-trx-commit=2 \
    --ssl-ca="$home/run/ca.pem" --ssl-cert="$home/run/server.pem" --ssl-key="$home/run/server.key" \
    --init-file="$home/run/init.sql"
  await mariadb 60 mariadb_ready
  # Not durable, for speed: a store that is not told so refuses such a server.
  setting mariadb OPEN_CRM_TEST_MYSQL_URL "mysql://crm:s3cret@127.0.0.1:$port/open_crm?durability=weak"
}

mariadb_ready() {
  MYSQL_PWD=s3cret mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --port="$(<"$DIR/mariadb/port")" \
    --user=crm --connect-timeout=2 --skip-column-names --execute='SELECT 1' open_crm
}
