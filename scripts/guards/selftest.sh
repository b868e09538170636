#!/usr/bin/env bash
# A guard that cannot fail guards nothing: each one is fed what it must refuse, and what it must let through.
# Usage: scripts/guards/selftest.sh [--offline]   (--offline leaves out the check that needs cargo-audit)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
wrong=0
cases=0

expect() { # expect pass|fail NAME COMMAND...
  local wanted=$1 name=$2 got=pass
  shift 2
  cases=$((cases + 1))
  "$@" >"$room/log" 2>&1 || got=fail
  if [[ $got != "$wanted" ]]; then
    printf 'selftest: %s should %s, but did %s\n' "$name" "$wanted" "$got" >&2
    cat "$room/log" >&2
    wrong=$((wrong + 1))
  fi
}

# The functions of the dependency guard, each in a process of its own so that counts do not mix.
with() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  bash -euo pipefail -c 'source "$1/dependencies.sh"; shift; "$@"; ((broken == 0))' _ "$HERE" "$@"
}
licences() { with check_licences <<<"$1"; }
expect pass "a clean tree" with refuse tree 'openssl-sys|polars.*' $'serde\nring'
expect fail "openssl-sys in a tree" with refuse tree 'openssl-sys|polars.*' $'serde\nopenssl-sys\nring'
expect fail "polars-core in a light crate" with refuse tree 'openssl-sys|polars.*' $'polars-core'
expect fail "an empty tree" with refuse tree 'openssl-sys' ''
expect pass "MIT OR Apache-2.0" licences 'serde v1.0.0|MIT OR Apache-2.0'
expect pass "old spelling with a slash" licences 'serde v1.0.0|MIT/Apache-2.0'
expect pass "one good alternative" licences 'x v1.0.0|GPL-3.0 OR MIT'
expect pass "an exception" licences 'x v1.0.0|Apache-2.0 WITH LLVM-exception OR GPL-2.0'
expect pass "brackets" licences 'x v1.0.0|(MIT OR Apache-2.0) AND Unicode-3.0'
expect fail "GPL" licences 'x v1.0.0|GPL-3.0-only'
expect fail "one part is GPL" licences 'x v1.0.0|MIT AND GPL-3.0-only'
expect fail "brackets with GPL" licences 'x v1.0.0|(MIT OR Apache-2.0) AND GPL-2.0'
expect fail "no licence" licences 'x v1.0.0|'
expect fail "something that is no expression" licences 'x v1.0.0|see LICENSE!'
expect pass "MPL for a named crate" licences 'selectors v0.1.0|MPL-2.0'
expect fail "MPL for another crate" licences 'x v0.1.0|MPL-2.0'
if [[ ${1:-} != --offline ]]; then
  printf 'version = 4\n\n[[package]]\nname = "time"\nversion = "0.1.43"\nsource = "registry+https://github.com/rust-lang/crates.io-index"\n' >"$room/bad.lock"
  printf 'version = 4\n\n[[package]]\nname = "itoa"\nversion = "1.0.15"\nsource = "registry+https://github.com/rust-lang/crates.io-index"\n' >"$room/good.lock"
  : >"$room/none.txt"
  printf 'RUSTSEC-2099-0001 gone-crate@1.0.0 built reason\n' >"$room/stale.txt"
  expect pass "a lock file without advisories" with check_advisories "$room/good.lock" "$room/none.txt"
  expect fail "a lock file with a known hole" with check_advisories "$room/bad.lock" "$room/none.txt"
  printf 'RUSTSEC-2020-0071 time@0.1.43 built reason\n' >"$room/accepted.txt"
  expect pass "a known hole that is accepted" with check_advisories "$room/bad.lock" "$room/accepted.txt"
  printf 'RUSTSEC-2020-0071 time@0.1.43 built\n' >"$room/mute.txt"
  expect fail "a known hole that is accepted without a reason" with check_advisories "$room/bad.lock" "$room/mute.txt"
  expect fail "an accepted advisory of a crate that is gone" with check_advisories "$room/good.lock" "$room/stale.txt"
fi

# A small tree of sources for each broken rule; the names are put together so that this file breaks none.
sample() { # sample pass|fail NAME PATH TEXT
  local tree=$room/tree
  rm -rf "$tree"
  mkdir -p "$tree/crm-core/src" "$tree/$(dirname "$3")"
  printf '//! A comment may say unsafe { } and todo!().\npub fn fine() -> &'"'"'static str { "todo!() AssertSqlSafe" }\n' >"$tree/crm-core/src/lib.rs"
  printf '%b\n' "$4" >"$tree/$3"
  expect "$1" "$2" "$HERE/source.sh" "$tree"
}
sample pass "a clean source" crm-core/src/a.rs 'pub fn a() {}'
sample fail "unsafe block" crm-core/src/a.rs 'pub fn a() { unsafe { b() } }'
sample fail "todo" crm-store/src/a.rs 'pub fn a() { todo!() }'
sample fail "todo after a test module" crm-store/src/a.rs '#[cfg(test)]\nmod tests {\n    fn a() {}\n}\npub fn a() { todo!() }'
sample fail "todo after a marked import" crm-store/src/a.rs '#[cfg(test)]\nuse a::b;\npub fn a() { todo!() }'
sample fail "an ignored test" crm-store/tests/it/main.rs '#[test]\n#[ignore]\nfn a() {}'
sample fail "SQL text outside the compiler" crm-store/src/customers.rs 'fn a() { query(AssertSqlSafe(text)) }'
sample pass "SQL text in the compiler" crm-store/src/sql/compile.rs 'fn a() { query(AssertSqlSafe(text)) }'
sample fail "the clock of the machine" crm-channels/src/a.rs 'fn a() { let _ = std::time::Instant::now(); }'
sample pass "the clock of the machine in clock.rs" crm-core/src/clock.rs 'fn a() { let _ = std::time::SystemTime::now(); }'
sample pass "the clock of the machine in a unit test" crm-channels/src/a.rs '#[cfg(test)]\nmod tests {\n    fn a() { let _ = Instant::now(); }\n}'
sample fail "a TLS provider for the whole process" crm-channels/src/a.rs 'fn a() { provider().install_default(); }'
sample fail "the folder of a build" crm-store/tests/it/a.rs 'fn a() { let _ = env!("CARGO_MANIFEST_DIR"); }'
sample fail "printing" crm-channels/src/a.rs 'fn a() { println!("x"); }'
sample fail "Polars outside crm-analytics" crm-store/src/a.rs 'use polars::prelude::DataFrame;'
sample pass "Polars in crm-analytics" crm-analytics/src/a.rs 'use polars::prelude::DataFrame;'
sample fail "Polars in a public signature" crm-analytics/src/a.rs 'pub fn a() -> polars::prelude::DataFrame { b() }'
sample fail "a path of one machine" docs/a.md 'see /'"home/someone/file"

# A crate whose feature does not compile.
mkdir -p "$room/crate/src"
printf '[package]\nname = "sample"\nversion = "0.1.0"\nedition = "2024"\n[features]\nextra = []\npasses = ["extra"]\n[workspace]\n' >"$room/crate/Cargo.toml"
printf 'pub fn a() {}\n' >"$room/crate/src/lib.rs"
features() { CARGO_TARGET_DIR=$room/target "$HERE/features.sh" "$room/crate/Cargo.toml"; }
expect pass "a feature that compiles" features
printf '#[cfg(feature = "extra")]\npub fn a() -> u8 { "no" }\n' >"$room/crate/src/lib.rs"
expect fail "a feature that does not compile" features
printf '#[cfg(not(feature = "extra"))]\nuse std::fmt::Debug;\n' >"$room/crate/src/lib.rs"
expect fail "a warning without the feature" features
printf '#[cfg(feature = "passes")]\npub fn a() -> u8 { "no" }\n' >"$room/crate/src/lib.rs"
expect fail "a feature that only switches on another, and is asked for" features

printf 'guard selftest: %d cases, %d wrong\n' "$cases" "$wrong" >&2
((wrong == 0))
