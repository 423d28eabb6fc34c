#!/usr/bin/env bash
# Sets everything up on a fresh machine and runs the tests; arguments go to pytest. The tests marked upstream run where what
# they depend on has changed; `bash tests/run.sh -m upstream` runs them in any case.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../examples/install.sh"

cd "$root"
unmarked=""
if python tests/upstream_digest.py; then unmarked="not upstream"; fi
if [ $# -gt 0 ]; then
  python -m pytest --quiet --durations=10 -m "$unmarked" "$@"
else
  # Two files at a time: much of a test is one process that starts others, or waits for them. Those that measure time come after them.
  python -m pytest --quiet --durations=10 -m "not alone${unmarked:+ and $unmarked}" --numprocesses 2 --dist loadfile --no-loadscope-reorder
  python -m pytest --quiet -m alone
fi
