"""Says whether the tests marked ``upstream`` have to run: xfuser's own, ours on a patched xfuser, examples with many processes.

    python tests/upstream_digest.py            # exit code 0: what they depend on is as when they last passed; 1: it is not
    python tests/upstream_digest.py --write    # they passed (bash tests/run.sh -m upstream): remember it

Knows: the files that those tests depend on. Must not know: pytest.
"""

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGEST = ROOT / "tests" / "upstream.digest"
FILES = ("patches/*.patch", "patches/*.py", "xdualparal/compat/*.py", "tests/patches/*.py")


def main(argv):
    """Returns the exit code."""
    if argv == ["--write"]:
        DIGEST.write_text(digest() + "\n")
        return 0
    if argv:
        sys.stderr.write("upstream_digest.py: error: the only argument is --write\n")
        return 2
    return int(not DIGEST.exists() or DIGEST.read_text().strip() != digest())


def digest(root=ROOT):
    """Of the files' names and bytes, and of the release of xfuser that the tests install."""
    whole = hashlib.sha256()
    for file in sorted(file for pattern in FILES for file in root.glob(pattern)):
        whole.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    whole.update(re.search(r"^xfuser==.*$", (root / "tests" / "constraints.txt").read_text(), re.M)[0].encode())
    return whole.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
