#!/usr/bin/env bash
# Each crate alone, and each feature of each crate alone, must compile without warnings. Only `cargo check` of the library,
# one shared target.
# Usage: scripts/guards/features.sh [MANIFEST]
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/guards/common.sh
source "$HERE/common.sh"
manifest=${1:-$HERE/../../Cargo.toml}
checked=0

# "crate feature" for every feature of the workspace's crates; the feature "-" means none. Left out are those that prove
# nothing new: a feature that only switches on other features, and that no source of its crate asks for, compiles the
# crate as those others do, each of which has a line of its own (with all of them together the lints compile everything).
list() {
  cargo metadata --format-version 1 --no-deps --manifest-path "$manifest" | python3 -c '
import json, pathlib, re, sys
for package in json.load(sys.stdin)["packages"]:
    print(package["name"], "-")
    text = "\n".join(
        line
        for file in (pathlib.Path(package["manifest_path"]).parent / "src").rglob("*.rs")
        for line in file.read_text().splitlines()
        if not re.match(r"\s*//", line) and "doctest" not in line)
    asked = set(re.findall(r"feature\s*=\s*\"([^\"]+)\"", text))
    for feature, brings in sorted(package["features"].items()):
        # An optional dependency makes a feature of its own name; those are not part of what we promise.
        if feature == "default" or brings == ["dep:" + feature]:
            continue
        passes_on = brings and not any(what.startswith("dep:") for what in brings)
        if feature in asked or not passes_on:
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
