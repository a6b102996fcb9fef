"""Settings that must be made before anything imports triton."""

import importlib.util
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
    from tests.support.triton_interpreter import index_by_one_element, patch_once_a_launch

    index_by_one_element()
    patch_once_a_launch()
