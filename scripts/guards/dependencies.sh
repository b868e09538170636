#!/usr/bin/env bash
# Keeps the dependency tree what docs and design promise: one TLS stack, heavy crates in one place, known licences,
# no known holes. Usage: scripts/guards/dependencies.sh
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
# shellcheck source=scripts/guards/common.sh
source "$HERE/common.sh"

AUDIT_VERSION=0.22.2

# tree ARGS...: names of the crates in a tree, sorted, one a line.
tree() { (cd "$ROOT" && cargo tree --locked --prefix none --format '{p}' "$@") | awk 'NF {print $1}' | sort -u; }

# refuse WHERE PATTERN NAMES: no name may match the extended regular expression (whole name).
refuse() {
  local found
  [[ -n $3 ]] || broke "$1: the list of crates is empty"
  found=$(grep -Ex "$2" <<<"$3" | paste -sd ' ' -) || return 0
  broke "$1 must not contain: $found"
}

# licence_is_fine CRATE EXPRESSION < licences.txt
licence_is_fine() {
  local crate=$1 rest=${2//\// OR } logic="" word name only
  local -A allowed=()
  while IFS= read -r word; do
    [[ -n $word && $word != \#* ]] || continue
    name=$word only=""
    if [[ $word =~ ^([^ ]+)\ ([a-z][a-z0-9_-]*)$ ]]; then name=${BASH_REMATCH[1]} only=${BASH_REMATCH[2]}; fi
    if [[ -z $only || $only == "$crate" ]]; then allowed[$name]=1; fi
  done
  # The expression becomes arithmetic: names 1 or 0, AND and OR with the precedence SPDX gives them.
  while [[ -n $rest ]]; do
    if [[ $rest =~ ^[[:space:]]+ ]]; then
      :
    elif [[ $rest =~ ^[()] ]]; then
      logic+=${BASH_REMATCH[0]}
    elif [[ $rest =~ ^AND[[:space:]] ]]; then
      logic+="&&"
    elif [[ $rest =~ ^OR[[:space:]] ]]; then
      logic+="||"
    elif [[ $rest =~ ^[A-Za-z0-9.+-]+(\ WITH\ [A-Za-z0-9.+-]+)? ]]; then
      logic+=${allowed[${BASH_REMATCH[0]}]:-0}
    else
      return 1
    fi
    rest=${rest:${#BASH_REMATCH[0]}}
  done
  [[ -n $logic ]] && ((logic))
}

# check_licences < lines of `crate version|expression`
check_licences() {
  local line crate expression seen=0
  while IFS= read -r line; do
    [[ -n $line ]] || continue
    seen=$((seen + 1))
    crate=${line%% *} expression=${line#*|}
    licence_is_fine "$crate" "$expression" <"$HERE/licences.txt" ||
      broke "licence of ${line%%|*} is not on the list of scripts/guards/licences.txt: '${expression:-none}'"
  done
  ((seen)) || broke "the list of licences is empty"
}

check_tree() {
  local names crate sibling
  # Everything that may ever be compiled, on any platform, for tests too.
  names=$(tree --workspace --all-features --edges normal,build,dev --target all)
  refuse "the whole tree (one TLS stack: rustls with ring)" \
    'openssl|openssl-sys|openssl-src|native-tls|tokio-native-tls|hyper-tls|aws-lc-rs|aws-lc-sys|aws-lc-fips-sys' "$names"
  refuse "the whole tree (Polars without its streaming engine and cloud stack)" 'polars-stream|object_store' "$names"
  # What each crate of ours brings along. Heavy arithmetic belongs to crm-analytics alone.
  for crate in crm-core crm-store crm-crawl crm-channels; do
    names=$(tree -p "$crate" --all-features --edges normal,build --target all)
    refuse "$crate" 'polars.*|linfa.*|ndarray.*|ab_glyph.*' "$names"
  done
  names=$(tree -p crm-core --no-default-features --edges normal,build --target all)
  refuse "crm-core without features" 'reqwest|hyper.*|h2|rustls.*|sqlx.*|lettre|scraper|mongodb|tokio-rustls|axum.*' "$names"
  # Siblings meet in open-crm, never in each other.
  for crate in crm-store crm-crawl crm-analytics crm-channels; do
    names=$(tree -p "$crate" --all-features --edges normal,build,dev --target all)
    for sibling in crm-store crm-crawl crm-analytics crm-channels; do
      [[ $crate == "$sibling" ]] || refuse "$crate (siblings depend on crm-core only)" "$sibling" "$names"
    done
  done
}

# Our own copy of the program, kept with the build so that nothing of the machine changes.
audit_program() {
  local found target
  target=$(cd "$ROOT" && cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
  found=$target/tools/bin/cargo-audit
  if [[ ! -x $found ]]; then
    printf 'guard: installing cargo-audit %s under the target folder (once)\n' "$AUDIT_VERSION" >&2
    # Unoptimised: it reads one file, and an optimised build takes four times as long.
    CARGO_TARGET_DIR=$target/tools/build cargo install --quiet --locked --debug --no-default-features \
      cargo-audit --version "$AUDIT_VERSION" --root "$target/tools" </dev/null >&2 || return 1
    rm -rf "$target/tools/build"
  fi
  printf '%s\n' "$found"
}

# check_advisories LOCKFILE ACCEPTED: every advisory, unmaintained and unsound crates included, but for the accepted lines.
check_advisories() {
  local lock=$1 accepted=$2 program id crate where reason built name version said
  local -a options=(--file "$lock" --deny unmaintained --deny unsound)
  program=$(audit_program)
  # A copy of the database beside the checkout makes the check work without a network.
  if [[ -d $ROOT/../shared/advisory-db/crates ]]; then
    options+=(--no-fetch --stale --db "$ROOT/../shared/advisory-db")
  fi
  built=$(cd "$ROOT" && cargo tree --locked --workspace --all-features --edges normal,build,dev --target all --prefix none --format '{p}')
  while read -r id crate where reason; do
    [[ $id == RUSTSEC-* ]] || continue
    [[ -n $reason ]] || broke "$id in ${accepted##*/} gives no reason"
    name=${crate%@*} version=${crate#*@}
    grep -A1 -Fx "name = \"$name\"" "$lock" | grep -qFx "version = \"$version\"" ||
      broke "$crate is not in ${lock##*/} any more: remove $id from ${accepted##*/}"
    if [[ $where == locked ]] && grep -qE "^${name} v${version//./\\.}( |$)" <<<"$built"; then
      broke "$id says that $crate is only locked, but it is built"
    fi
    options+=(--ignore "$id")
  done <"$accepted"
  if ! said=$("$program" audit --quiet --color never "${options[@]}" </dev/null 2>&1); then
    printf '%s\n' "$said" >&2
    if [[ $said == *"couldn't fetch"* || $said == *"couldn't open"* ]]; then
      broke "the advisory database could not be read; connect to the network, or put a copy of it at ../shared/advisory-db"
    else
      broke "cargo audit found something in ${lock##*/}; update the crate, or accept it with a reason in scripts/guards/advisories.txt"
    fi
  fi
}

main() {
  check_tree
  check_licences < <(cd "$ROOT" && cargo tree --locked --workspace --all-features --edges normal,build,dev --target all --prefix none --format '{p}|{l}' |
    sed -E 's/ \(\*\)$//; s/ \((proc-macro|[^)]*\/[^)]*)\)//g' | sort -u)
  check_advisories "$ROOT/Cargo.lock" "$HERE/advisories.txt"
  verdict dependencies "tree, licences, advisories"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
