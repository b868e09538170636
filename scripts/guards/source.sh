#!/usr/bin/env bash
# Rules about the text of the sources that no compiler checks. Usage: scripts/guards/source.sh [FOLDER]
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "${1:-$HERE/../..}" && pwd)
# shellcheck source=scripts/guards/common.sh
source "$HERE/common.sh"

# code FOLDER...: "file:line:text" of all Rust code under the folders, without comments and without what stands in
# strings; a module under #[cfg(test)] is not library code and is left out.
# shellcheck disable=SC2016 # the dollars are awk's
code() {
  local folder
  for folder in "$@"; do
    [[ ! -d $ROOT/$folder ]] || find "$ROOT/$folder" -name '*.rs' -print0
  done | sort -z | xargs -0 -r awk -v root="$ROOT/" '
    FNR == 1 { tests = 0; marked = 0; name = FILENAME; sub("^" root, "", name) }
    /^#\[cfg\(test\)\]/ { marked = 1; next }
    marked && /^#!?\[/ { next }
    marked { marked = 0; if ($0 ~ /^(pub(\([a-z]+\))? )?mod [a-z_]+ *\{/) tests = 1 }
    tests { if ($0 ~ /^}/) tests = 0; next }
    {
      line = $0
      gsub(/\\"/, "", line)
      gsub(/"[^"]*"/, "\"\"", line)
      sub(/(^|[^:])\/\/.*/, "", line)
      if (line !~ /^[[:space:]]*$/) print name ":" FNR ": " line
    }'
}

libraries=(src crm-core/src crm-store/src crm-crawl/src crm-analytics/src crm-channels/src)
everything=("${libraries[@]}" tests examples benches crm-core/tests crm-store/tests crm-crawl/tests crm-analytics/tests crm-channels/tests)
light=(src crm-core/src crm-store/src crm-crawl/src crm-channels/src)

library_code=$(code "${libraries[@]}")
light_code=$(code "${light[@]}")
all_code=$(code "${everything[@]}")
[[ -n $library_code ]] || broke "no Rust code was found under $ROOT"

# refuse WHY CODE PATTERN [ALLOWED-FILES]
refuse() {
  local found
  found=$(grep -E "^[^:]+:[0-9]+:.*($3)" <<<"$2" | { if [[ -n ${4:-} ]]; then grep -vE "^($4):"; else cat; fi; } | head -n 5) || true
  [[ -z $found ]] || broke "$1"$'\n'"$found"
}

refuse "no unsafe code" "$all_code" '(^|[^_[:alnum:]])unsafe([[:space:]]+(impl|fn|extern|trait)|[[:space:]]*\{)'
refuse "nothing is left to do: todo!, unimplemented!" "$all_code" '(todo|unimplemented)!'
refuse "no test is switched off" "$all_code" '#\[ignore'
# One file builds SQL text; drivers hand its text on. Everything else binds values.
refuse "SQL text is made in crm-store/src/sql/{compile,ddl}.rs and handed on by drivers only" "$library_code" 'AssertSqlSafe' \
  'crm-store/src/sql/(compile|ddl|driver)\.rs|crm-store/src/sql/driver/[a-z_]+\.rs'
# Some files measure waits on tokio's clock, which a test can pause as it can the injected one.
refuse "time comes from crm_core::Clock" "$library_code" '(SystemTime|Instant|Utc|Local)::now' \
  'crm-core/src/clock\.rs|crm-core/src/http/client\.rs|crm-crawl/src/spider/engine/(end|run|start)\.rs|crm-store/src/(mongo/link|sql/lane|sql/driver/(mysql|postgres))\.rs'
refuse "TLS providers are passed, never installed" "$library_code" 'install_default[[:space:]]*\('
refuse "libraries do not print" "$library_code" '(^|[^_[:alnum:]])(println|eprintln|print|eprint|dbg)!'
refuse "Polars, linfa and ndarray live in crm-analytics" "$light_code" '(^|[^_[:alnum:]])(polars|polars_io|linfa|linfa_[a-z]+|ndarray)::'
# Whoever reads a public signature sees our types and those of std, serde, http, bytes, url. The private field of a
# newtype (`pub struct Selector(scraper::Selector);`) is no signature.
# The feature unstable-raw is there to show sqlx and rusqlite: one file.
refuse "foreign types stay inside" "$(grep -vE 'pub struct [A-Za-z]+(<.a>)?\([a-z]+::[A-Za-z]+(<.a>)?\);' <<<"$library_code")" \
  '[[:space:]]pub ((async |const )*fn|struct|enum|type|use) .*(polars|ndarray|linfa|sqlx|rusqlite|lettre|reqwest|scraper)::' 'crm-store/src/sql/raw\.rs'

# Built in one checkout and run from another, where builds are shared, such a path leads nowhere; tests run in their
# package's folder.
found=$(cd "$ROOT" && grep -rnE --include='*.rs' --exclude-dir=target 'env!\("(CARGO_MANIFEST_DIR|OUT_DIR)"' . | head -n 5) || true
[[ -z $found ]] || broke "the folder of a build is built in"$'\n'"$found"

# Paths of one machine, in any file we give out. Saved pages of others say what they say.
files=$(cd "$ROOT" && { git ls-files --cached --others --exclude-standard 2>/dev/null || find . -path ./target -prune -o -type f -print; } |
  grep -vE '(^|/)(Cargo\.lock|source\.sh|selftest\.sh)$|^crm-crawl/tests/data/real/[a-z-]+\.html$') || true
[[ -n $files ]] || broke "no file was found under $ROOT"
found=$(cd "$ROOT" && tr '\n' '\0' <<<"$files" |
  xargs -0 -r grep -nIE '(^|[^[:alnum:]_./-])/(work|root|home/[a-z]+)/|/tmp/target' 2>/dev/null | head -n 5) || true
[[ -z $found ]] || broke "paths of one machine"$'\n'"$found"

verdict source "$(wc -l <<<"$all_code") lines of code, $(wc -l <<<"$files") files"
