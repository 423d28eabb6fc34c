"""Imported once by the server that the tests' processes are forked from: importing xfuser takes seconds."""

import os

import torch

from xdualparal import enable_host_platform

os.environ.setdefault("LOG_LEVEL", "INFO")  # xfuser reads it when it is imported; so does the command's launcher
torch.set_num_threads(1)
enable_host_platform()

import diffusers  # noqa: E402, F401
import xfuser  # noqa: E402, F401
import xfuser.model_executor.models.transformers.transformer_wan  # noqa: E402, F401

import xdualparal.engine.mesh  # noqa: E402, F401
import xdualparal.engine.session  # noqa: E402, F401
import xdualparal.pipeline  # noqa: E402, F401
import xdualparal.engine.stage  # noqa: E402, F401
import xdualparal.xdit.runner  # noqa: E402, F401
