#!/usr/bin/env bash
# Each crate alone, and each feature of each crate alone, must compile. Only `cargo check` of the library, one shared target.
# Usage: scripts/guards/features.sh [MANIFEST]
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/guards/common.sh
source "$HERE/common.sh"
manifest=${1:-$HERE/../../Cargo.toml}
checked=0

# "crate feature" for every feature of the workspace's crates; the feature "-" means none.
list() {
  cargo metadata --format-version 1 --no-deps --manifest-path "$manifest" | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    print(package["name"], "-")
    for feature, brings in sorted(package["features"].items()):
        # An optional dependency makes a feature of its own name; those are not part of what we promise.
        if feature != "default" and brings != ["dep:" + feature]:
            print(package["name"], feature)'
}

while read -r crate feature; do
  options=(--no-default-features)
  [[ $feature == - ]] || options+=(--features "$feature")
  checked=$((checked + 1))
  if ! log=$(cargo check --quiet --lib --manifest-path "$manifest" -p "$crate" "${options[@]}" --color never 2>&1 </dev/null); then
    printf '%s\n' "$log" | tail -n 25 >&2
    broke "$crate does not compile with ${options[*]}"
  elif [[ -n $log ]]; then
    printf '%s\n' "$log" | tail -n 25 >&2
    broke "$crate has warnings with ${options[*]}"
  fi
done < <(list)

((checked)) || broke "no crate was found in $manifest"
verdict features "$checked combinations"
