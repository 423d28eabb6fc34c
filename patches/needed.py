"""Which of patches/ the xfuser on the path still lacks: ``python patches/needed.py`` prints it as JSON.

Knows: what each patch brings, and how this package notices that it is missing. Must not know: patches as files.
"""

import importlib.util
import json
import sys

import torch

from xdualparal.compat import backports, host

ADAPTER = "xfuser.model_executor.models.runner_models.dualparal"


def lacking():
    """{number of a patch: what of it the xfuser on the path lacks, or None where this machine cannot tell}.

    0007, documentation, is not in it. Changes this process's xfuser, as any run does: call it once, before xfuser is
    imported.
    """
    host.enable_host_platform()
    import xfuser.runner  # noqa: F401  (what it imports is what host.py looks at)
    import xfuser.model_executor.layers.usp  # noqa: F401
    from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

    from xdualparal.xdit.flags import make_parser

    backports.complete_xfuser()
    make_parser()
    found = {
        "0001": [host.HOST_PLATFORM, host.SEQUENCE_PARALLEL, host.FLASH_ATTENTION, host.RUNNER],
        "0003": [backports.CACHE_TYPES], "0004": [backports.EDGE_GROUPS], "0005": [backports.MODEL_PATH],
    }
    lacks = {number: [what for what in parts if what in backports.worked_around] for number, parts in found.items()}
    if torch.accelerator.is_available():
        lacks["0001"] = None  # host.py looks only where there is none
    small = "Wan2.1-T2V-1.3B"
    lacks["0002"] = [] if importlib.util.find_spec("xfuser.plugins") else ["plugins"]
    lacks["0006"] = [] if small in MODEL_REGISTRY else [small]
    lacks["0008"] = lacks["0002"] and ([] if importlib.util.find_spec(ADAPTER) else [ADAPTER])  # plugins do its work, too
    return lacks


if __name__ == "__main__":
    sys.stdout.write(json.dumps(lacking()) + "\n")
