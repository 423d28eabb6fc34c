#!/usr/bin/env bash
# What the first hours on GPUs should record, as one markdown table: bash examples/gpu_report.sh [--output FILE] [--device cpu]
# At most 25 minutes on one card. --device cpu tries the program itself, with tiny sizes.
set -euo pipefail

exec python "$(dirname "${BASH_SOURCE[0]}")/gpu_report.py" "$@"
