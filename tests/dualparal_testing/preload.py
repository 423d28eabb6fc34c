"""Imported once by the server that the tests' processes are forked from: importing xfuser takes seconds."""

import torch

from xdualparal import enable_host_platform

torch.set_num_threads(1)
enable_host_platform()

import diffusers  # noqa: E402, F401
import xfuser  # noqa: E402, F401
import xfuser.model_executor.models.transformers.transformer_wan  # noqa: E402, F401

import xdualparal.engine.mesh  # noqa: E402, F401
import xdualparal.engine.session  # noqa: E402, F401
import xdualparal.pipeline  # noqa: E402, F401
import xdualparal.engine.stage  # noqa: E402, F401
