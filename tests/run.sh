#!/usr/bin/env bash
# Sets everything up on a fresh machine and runs the tests; arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../examples/install.sh"

cd "$root"
python -m pytest --quiet --durations=10 "$@"
