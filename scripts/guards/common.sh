# shellcheck shell=bash
# What the guards share: how they speak. Sourced by each guard and by the self-test.

broken=0

# broke MESSAGE...: one broken rule; the guard goes on and fails at its end.
broke() {
  printf 'guard: %s\n' "$*" >&2
  broken=$((broken + 1))
}

verdict() {
  if ((broken)); then
    printf 'guard %s: %d rules broken\n' "$1" "$broken" >&2
    return 1
  fi
  printf 'guard %s: ok (%s)\n' "$1" "$2" >&2
}
