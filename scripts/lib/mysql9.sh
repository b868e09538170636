# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# MySQL 9: the same protocol, log-in and SQL as 8, which no package carries. Optional: it comes out of Debian's unstable
# suite, which moves, and runs under its own loader and libraries, so that nothing of it is installed.

mysql9_commands="apt-get apt-cache dpkg mariadb"
mysql9_packages="mariadb-client"
mysql9_signal=TERM
mysql9_cache=${XDG_CACHE_HOME:-$HOME/.cache}/open-crm/mysql-9

mysql9_prepare() {
  [[ -x $mysql9_cache/usr/sbin/mysqld ]] && return 0
  local fetch=$mysql9_cache.$$ key=/usr/share/keyrings/debian-archive-keyring.gpg
  if [[ $(uname -sm) != "Linux x86_64" || ! -s $key ]]; then
    fail "MySQL 9 is fetched on Debian on x86_64 only; start one yourself and set OPEN_CRM_TEST_MYSQL9_URL"
    return 1
  fi
  rm -rf "$fetch"
  mkdir -p "$fetch/apt/lists/partial" "$fetch/apt/cache/archives/partial" "$fetch/packages" "$fetch/tree"
  say "services: fetching MySQL 9 (50 MB, once)"
  if ! (
    cd "$fetch/packages"
    touch ../apt/status
    printf 'deb [signed-by=%s] http://deb.debian.org/debian sid main\n' "$key" >../apt/sources.list
    # Lists of their own: the machine's apt state is untouched.
    apt=(apt-get -o Dir::Etc::sourcelist="$fetch/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
      -o Dir::State::lists="$fetch/apt/lists" -o Dir::State::status="$fetch/apt/status"
      -o Dir::Cache="$fetch/apt/cache" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    "${apt[@]}" install --simulate --no-install-recommends mysql-server-core |
      awk '/^Inst/ && $2 !~ /perl|gdbm|libdb5/ {print $2}' | xargs "${apt[@]}" download
    for package in *.deb; do dpkg --extract "$package" "$fetch/tree"; done
    rm -rf "$fetch"/tree/usr/share/{doc,man,locale}
    [[ -x $fetch/tree/usr/sbin/mysqld ]]
  ) </dev/null >"$fetch/log" 2>&1; then
    tail -n 20 "$fetch/log" >&2
    rm -rf "$fetch"
    fail "MySQL 9 could not be fetched (mysql-server-core of Debian's unstable suite)"
    return 1
  fi
  mv "$fetch/tree" "$mysql9_cache"
  rm -rf "$fetch"
}

mysql9_start() {
  local home=$DIR/mysql9 user port tree loader
  user=$(unprivileged nobody)
  port=$(pick_port 7)
  printf '%s\n' "$port" >"$home/port"
  folder "$user" "$home/run" "$home/data"
  give_key "$user" "$home/run"
  # The cache may lie where the server's user cannot look.
  tree=$home/tree
  cp -r "$mysql9_cache" "$tree"
  loader=("$tree/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu"
    "$tree/usr/sbin/mysqld" --no-defaults --basedir="$tree/usr" --datadir="$home/data/mysql"
    --lc-messages-dir="$tree/usr/share/mysql")
  as_user "$user" "${loader[@]}" --initialize-insecure >"$home/install.log" 2>&1 || {
    tail -n 15 "$home/install.log" >&2
    fail "mysqld --initialize-insecure failed"
    return 1
  }
  cat >"$home/run/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS open_crm;
CREATE USER IF NOT EXISTS 'crm'@'%' IDENTIFIED BY 's3cret';
GRANT ALL PRIVILEGES ON *.* TO 'crm'@'%' WITH GRANT OPTION;
SQL
  # The log-in is the server's own, caching_sha2_password.
  launch mysql9 "$user" "${loader[@]}" --plugin-dir="$tree/usr/lib/mysql/plugin" --bind-address=127.0.0.1 --port="$port" \
    --mysqlx=0 --secure-file-priv=NULL --socket="$home/run/server.sock" --pid-file="$home/run/server.pid" --max-connections=300 \
    --innodb-buffer-pool-size=128M --innodb-flush-log-at-trx-commit=2 --skip-log-bin --performance-schema=0 \
    --ssl-ca="$home/run/ca.pem" --ssl-cert="$home/run/server.pem" --ssl-key="$home/run/server.key" \
    --init-file="$home/run/init.sql"
  await mysql9 60 mysql9_ready
  setting mysql9 OPEN_CRM_TEST_MYSQL9_URL "mysql://crm:s3cret@127.0.0.1:$port/open_crm?durability=weak"
}

mysql9_ready() {
  MYSQL_PWD=s3cret mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --port="$(<"$DIR/mysql9/port")" \
    --ssl-ca="$DIR/tls/ca.pem" --user=crm --connect-timeout=2 --skip-column-names --execute='SELECT 1' open_crm
}
