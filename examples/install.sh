# Sourced by quickstart.sh and tests/run.sh: makes a virtual environment if none is active, and installs into it.
# Sets $root, the repository. Installs again only when what is to be installed has changed.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -z "${VIRTUAL_ENV:-}" ]; then
  [ -d "$root/.venv" ] || python3 -m venv "$root/.venv"
  . "$root/.venv/bin/activate"
fi

installed="$VIRTUAL_ENV/xdualparal-installed"
wanted="$root $(cat "$root/setup.cfg" "$root/tests/constraints.txt" | cksum)"
if [ "$(cat "$installed" 2>/dev/null)" != "$wanted" ]; then
  # torch first, as tested; one that is there already stays, whatever its version and build.
  if python -c "import torch" 2>/dev/null; then
    constraints="$(mktemp)"
    grep -v '^torch==' "$root/tests/constraints.txt" > "$constraints"
  else
    constraints="$root/tests/constraints.txt"
    pip install --quiet "$(grep '^torch==' "$constraints")"
  fi
  pip install --quiet --constraint "$constraints" --editable "$root[test]"
  echo "$wanted" > "$installed"
fi
