#!/usr/bin/env bash
# The main job, from nothing: start everything, run agents on every manager, show a trace, stop everything.
set -euo pipefail
cd "$(dirname "$0")/.."
export AIOS_DATA=${AIOS_DATA:-$PWD/.aios}
# One call at a time on the engine's one core: then the order is the scheduler's, for everyone to see.
export AIOS_LLM_IN_FLIGHT=1

aios up
trap 'kill %1 2>/dev/null || true; aios down' EXIT
printed=$(mktemp)
aios run examples/read_a_document.py | tee "$printed"
aios trace "$(sed -nE 's/^the trace of the first question, call (.*):$/\1/p' "$printed")"
rm -f "$printed"

token() { aios agent create "$1" 2>/dev/null || aios agent rotate "$1"; }
# The human of this demo agrees to whatever waits; look first when it is your own.
human() {
  local id=""
  until [ -n "$id" ]; do
    sleep 0.3
    id=$(aios approvals list | awk '$3 == "pending" { print $1; exit }')
  done
  aios approvals approve "$id" --reason "part of the demo"
}
echo
human &
WRITER_TOKEN=$(token writer) STRANGER_TOKEN=$(token stranger) aios run examples/two_agents.py
wait
