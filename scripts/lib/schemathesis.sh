# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# Schemathesis: asks a REST interface everything that its own OpenAPI description allows and forbids, and looks whether the answers
# are as described. No server: it is only fetched, from PyPI, each package pinned by version and hash.

schemathesis_commands="python3"
schemathesis_packages="python3 python3-pip"
schemathesis_signal=TERM
schemathesis_client=yes

schemathesis_pins=$ROOT/scripts/lib/schemathesis.requirements.txt
schemathesis_version=$(sed -n 's/^schemathesis==\([0-9.]*\).*/\1/p' "$schemathesis_pins")
schemathesis_cache=${XDG_CACHE_HOME:-$HOME/.cache}/open-crm/schemathesis-$schemathesis_version

schemathesis_verified() { [[ -e $schemathesis_cache/schemathesis/cli/__main__.py ]]; }

schemathesis_ready() { schemathesis_verified; }

schemathesis_prepare() {
  if [[ -d $schemathesis_cache ]]; then
    if schemathesis_verified; then return 0; fi
    say "services: $schemathesis_cache is damaged, fetching it again"
    rm -rf "$schemathesis_cache"
  fi
  local fetch=$schemathesis_cache.$$
  rm -rf "$fetch"
  mkdir -p "$fetch"
  say "services: fetching Schemathesis $schemathesis_version (15 MB, once)"
  if ! python3 -m pip install --quiet --no-deps --only-binary=:all: --require-hashes --target "$fetch" -r "$schemathesis_pins" \
    </dev/null >"$DIR/schemathesis/fetch.log" 2>&1; then
    tail -n 20 "$DIR/schemathesis/fetch.log" >&2
    rm -rf "$fetch"
    fail "Schemathesis could not be fetched from PyPI"
    return 1
  fi
  mv "$fetch" "$schemathesis_cache"
  schemathesis_verified
}

schemathesis_start() {
  setting schemathesis OPEN_CRM_TEST_SCHEMATHESIS "$schemathesis_cache"
}
