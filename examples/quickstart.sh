#!/usr/bin/env bash
# Sets everything up on a fresh machine and makes a 257-frame video on two processes. No GPU is needed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/install.sh"

out="$root/results"
xdit-dualparal --model tiny-wan --dualparal_degree 2 --num_frames 257 \
  --prompt "${1:-a red circle on a dark background}" --output_directory "$out"
echo "The video is in $out"
