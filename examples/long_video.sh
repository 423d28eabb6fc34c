#!/usr/bin/env bash
# A 10,001-frame video with the demo model on two processes, far past the 4,093 frames of the model's table of positions, and
# whether its last blocks are as good as its first. It can be stopped and resumed. More flags can follow.
set -euo pipefail

out="${OUT:-results/long}"
prompt="a red circle on a dark background"
xdit-dualparal --model tiny-wan --dualparal_degree 2 --num_frames 10001 --prompt "$prompt" --output_directory "$out" \
  --dualparal_checkpoint "$out/checkpoint" "$@"
xdit-dualparal quality "$out"/*.mp4
