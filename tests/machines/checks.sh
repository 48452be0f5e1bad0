# What steps look with; for `.` in tests/runtimes. A check prints one line, and what was said where it does not hold.
# shellcheck shell=bash

passed=0 failed=()

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# check WHAT COMMAND...: the command succeeds.
check() {
  local what=$1 start said
  start=$(now_ms)
  shift
  if said=$("$@" 2>&1); then
    printf 'ok      %s (%d ms)\n' "$what" $(($(now_ms) - start))
    passed=$((passed + 1))
  else
    printf 'FAILED  %s: %s\n' "$what" "$*"
    printf '%s\n' "${said:-it said nothing}" | tail -n 15 | sed 's/^/        /'
    failed+=("$what")
  fi
}

# The step cannot go on; the others are played all the same.
gave_up() {
  printf 'FAILED  step %s was given up\n' "$1"
  failed+=("step $1")
}

# refused TEXT COMMAND...: the command fails, and says this.
refused() {
  local text=$1 said
  shift
  if said=$("$@" 2>&1); then echo "it was not refused: $said"; return 1; fi
  [[ $said == *"$text"* ]] || { echo "expected \`$text\`, it said: $said"; return 1; }
}

# says TEXT COMMAND...: the command succeeds, and says this.
says() {
  local text=$1 said
  shift
  said=$("$@" 2>&1) || { echo "$said"; return 1; }
  [[ $said == *"$text"* ]] || { echo "expected \`$text\`, it said: $said"; return 1; }
}

# eventually SECONDS COMMAND...: the command succeeds within that time.
eventually() {
  local until=$((SECONDS + $1)) limit=$1 said
  shift
  while ! said=$("$@" 2>&1); do
    [ "$SECONDS" -lt "$until" ] || { echo "$said"; return 1; }
    sleep 0.2
  done
  [ "$SECONDS" -le "$until" ] || { echo "it took $((SECONDS - until + limit)) s, not $limit"; return 1; }
}

same() { [ -n "$1" ] && [ "$1" = "$2" ] || { echo "expected $1, found $2"; return 1; }; }
differ() { [ -n "$1" ] && [ "$1" != "$2" ] || { echo "both are $1"; return 1; }; }

# within MS COMMAND...: the command succeeds, and within that time.
within() {
  local start limit=$1
  start=$(now_ms)
  shift
  "$@" || return 1
  [ $(($(now_ms) - start)) -le "$limit" ] || { echo "it took $(($(now_ms) - start)) ms, not $limit"; return 1; }
}

verdict() {
  printf '\n%d checks passed, %d failed, in %d s\n' "$passed" ${#failed[@]} "$SECONDS"
  [ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}"; return 1; }
}
