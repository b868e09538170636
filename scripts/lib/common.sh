# shellcheck shell=bash
# What every test server shares: where it lives, how it is started, found again and stopped.
# Sourced by scripts/services; expects DIR (data folder) and BASE (first port) to be set.

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "services: $*"
  return 1
}
now_ms() { date +%s%3N; }

# Kernel start time of a process: with the pid it names a process even after the pid was used again.
process_birth() {
  local stat
  { read -r stat </proc/"$1"/stat; } 2>/dev/null || return 1
  stat=${stat##*) }
  local -a field
  read -ra field <<<"$stat"
  # A dead process that its parent has not fetched yet is gone for us.
  [[ ${field[0]} != [ZX] ]] || return 1
  # Field 22 of the file; two were cut off with the name, arrays count from zero.
  printf '%s\n' "${field[19]}"
}

# pid_of NAME: prints the pid when the process that we started is still the one alive.
pid_of() {
  local pid birth
  { read -r pid birth <"$DIR/$1/pid"; } 2>/dev/null || return 1
  [[ $(process_birth "$pid" || true) == "$birth" ]] || return 1
  printf '%s\n' "$pid"
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# pick_port OFFSET: the service's own port, or the next of its row when somebody holds it.
pick_port() {
  local port=$((BASE + $1)) try
  for ((try = 0; try < 20; try++, port += 50)); do
    if port_is_free "$port"; then
      printf '%s\n' "$port"
      return 0
    fi
  done
  fail "no free port from $((BASE + $1)) in steps of 50; set OPEN_CRM_SERVICES_PORT to another start"
}

# unprivileged USER: the user a server runs as. Only root can choose.
unprivileged() { if ((EUID == 0)); then printf '%s\n' "$1"; else id -un; fi; }

# as_user USER COMMAND...: in the foreground.
as_user() {
  local user=$1
  shift
  if ((EUID == 0)) && [[ $user != root ]]; then
    setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"
  else
    "$@"
  fi
}

# folder USER PATH...: makes folders that belong to USER.
folder() {
  local user=$1
  shift
  mkdir -p "$@"
  if ((EUID == 0)); then chown "$user:$(id -gn "$user")" "$@"; fi
}

# launch NAME USER COMMAND...: in a session of its own, so that it outlives this script and the terminal.
launch() {
  local name=$1 user=$2
  shift 2
  local -a as=()
  if ((EUID == 0)) && [[ $user != root ]]; then
    as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups)
  fi
  # Descriptor 9 is the lock of this script; a server must not keep it.
  setsid "${as[@]}" "$@" </dev/null >"$DIR/$name/server.log" 2>&1 9>&- &
  local pid=$!
  disown "$pid"
  printf '%s %s\n' "$pid" "$(process_birth "$pid")" >"$DIR/$name/pid"
}

# await NAME SECONDS COMMAND...: repeats a real query until it is answered or the server died.
await() {
  local name=$1 deadline=$(($(now_ms) + $2 * 1000))
  shift 2
  until "$@" >"$DIR/$name/probe.log" 2>&1; do
    if ! pid_of "$name" >/dev/null; then
      tail -n 15 "$DIR/$name/server.log" >&2 || true
      fail "$name died while starting"
      return 1
    fi
    if (($(now_ms) > deadline)); then
      tail -n 5 "$DIR/$name/probe.log" "$DIR/$name/server.log" >&2 || true
      fail "$name did not answer in time"
      return 1
    fi
    sleep 0.1
  done
}

# stop NAME SIGNAL: by process id, and waits until it is gone.
stop() {
  local name=$1 signal=$2 pid waited
  if ! pid=$(pid_of "$name"); then return 0; fi
  kill -s "$signal" "$pid" 2>/dev/null || true
  for ((waited = 0; waited < 200; waited++)); do
    pid_of "$name" >/dev/null || return 0
    sleep 0.1
  done
  say "services: $name ignored SIG$signal for 20 s, killing process $pid"
  kill -s KILL "$pid" 2>/dev/null || true
  sleep 0.2
}

# setting NAME KEY VALUE: one line of the environment a test reads.
setting() { printf "export %s='%s'\n" "$2" "$3" >>"$DIR/$1/env"; }

# A private authority and one server key for localhost, made once for a data folder.
make_certificates() {
  local tls=$DIR/tls
  [[ -s $tls/server.pem ]] && return 0
  mkdir -p "$tls"
  (
    umask 077
    cd "$tls"
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=open-crm test authority" \
      -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE \
      -addext keyUsage=critical,keyCertSign,cRLSign
    openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
    printf '%s\n' 'subjectAltName=DNS:localhost,DNS:mail.test.example,IP:127.0.0.1' \
      'extendedKeyUsage=serverAuth,clientAuth' >extensions
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
      -extfile extensions -out unfinished.pem
    cat unfinished.pem server.key >both.pem
    mv unfinished.pem server.pem
  ) >"$tls/log" 2>&1 || {
    tail -n 5 "$tls/log" >&2
    fail "could not make the test certificates"
    return 1
  }
  chmod 755 "$tls"
  chmod 644 "$tls/ca.pem" "$tls/server.pem"
}

# give_key USER FOLDER: each server gets a copy of the key that only it may read.
give_key() {
  cp "$DIR/tls/ca.pem" "$DIR/tls/server.pem" "$DIR/tls/server.key" "$DIR/tls/both.pem" "$2/"
  if ((EUID == 0)); then chown "$1:$(id -gn "$1")" "$2"/{ca.pem,server.pem,server.key,both.pem}; fi
  chmod 600 "$2/server.key" "$2/both.pem"
}
