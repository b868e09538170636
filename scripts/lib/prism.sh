# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# Prism: a server that answers as an interface's own description says, and refuses what does not fit it. The description
# is Twilio's (Apache-2.0), out of the npm package of its command line tool; it is pinned by its hash, because it is what
# decides. Starting takes some 12 s: the description is 1.9 MB.

prism_commands="node npm curl"
prism_packages="nodejs npm curl"
prism_signal=TERM

prism_version=5.14.2
prism_twilio=8.3.2
prism_sha256=7f123267c8dd60bd5412ed723cc021f0e58d52b635e8fad41f72c4a3dda9e77e
prism_cache=${XDG_CACHE_HOME:-$HOME/.cache}/open-crm/prism-$prism_version-twilio-$prism_twilio

prism_verified() {
  printf '%s  %s\n' "$prism_sha256" "$prism_cache/twilio.json" | sha256sum --check --status &&
    [[ -e $prism_cache/node_modules/@stoplight/prism-cli/package.json ]]
}

prism_prepare() {
  if [[ -d $prism_cache ]]; then
    if prism_verified; then return 0; fi
    say "services: $prism_cache is damaged, fetching it again"
    rm -rf "$prism_cache"
  fi
  local fetch=$prism_cache.$$
  rm -rf "$fetch"
  mkdir -p "$fetch"
  say "services: fetching Prism $prism_version and Twilio's description (90 MB, once)"
  if ! (
    cd "$fetch"
    npm install --prefix . --no-audit --no-fund --ignore-scripts "@stoplight/prism-cli@$prism_version"
    npm pack --ignore-scripts "@twilio/cli-core@$prism_twilio"
    tar -xzf twilio-cli-core-*.tgz package/src/services/twilio-api/twilio_api_v2010.json
    mv package/src/services/twilio-api/twilio_api_v2010.json twilio.json
    rm -rf package ./*.tgz
  ) </dev/null >"$DIR/prism/fetch.log" 2>&1; then
    tail -n 20 "$DIR/prism/fetch.log" >&2
    rm -rf "$fetch"
    fail "Prism could not be fetched from npm"
    return 1
  fi
  mv "$fetch" "$prism_cache"
  if ! prism_verified; then
    fail "Twilio's description in @twilio/cli-core@$prism_twilio is not the one that the tests were written for"
    return 1
  fi
}

prism_start() {
  local home=$DIR/prism port
  port=$(pick_port 8)
  printf '%s\n' "$port" >"$home/port"
  launch prism "$(id -un)" "$(command -v node)" "$prism_cache/node_modules/.bin/prism" mock --multiprocess false \
    -h 127.0.0.1 -p "$port" "$prism_cache/twilio.json"
  await prism 120 prism_ready
  setting prism OPEN_CRM_TEST_TWILIO_URL "http://127.0.0.1:$port"
}

# Without credentials it must refuse; a server that answers everything proves nothing.
prism_ready() {
  local status
  status=$(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' \
    "http://127.0.0.1:$(<"$DIR/prism/port")/2010-04-01/Accounts.json")
  printf '%s\n' "$status"
  [[ $status == 401 ]]
}
