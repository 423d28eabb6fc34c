"""Exit codes of a run, and its error in one line.

Knows: what a user sees when a run ends. Must not know: why a run ends.
"""

import sys

FAILED, REFUSED = 1, 2
STOPPED = 130  # what shells give a program that Ctrl-C ended


class Refused(ValueError):
    """The command cannot work, which shows only when its run has begun, maybe on one rank. Its message is what is printed."""


def print_error(message):
    """Writes ``message`` to stderr as one line."""
    sys.stderr.write("xdit-dualparal: error: " + " ".join(str(message).split()) + "\n")


def refuse(message):
    """Prints why a command cannot run and ends the program with exit code 2."""
    print_error(message)
    sys.exit(REFUSED)
