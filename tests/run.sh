#!/usr/bin/env bash
# Sets everything up on a fresh machine and runs the tests; arguments go to pytest. The tests marked upstream run where what
# they depend on has changed; `bash tests/run.sh -m upstream` runs them in any case.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../examples/install.sh"

cd "$root"
marked=""
if python tests/upstream_digest.py; then marked="not upstream"; fi
# All tests run two files at a time: much of a test is one process that starts others, or waits for them.
if [ $# -eq 0 ]; then set -- --numprocesses 2 --dist loadfile --no-loadscope-reorder; fi
python -m pytest --quiet --durations=10 -m "$marked" "$@"
