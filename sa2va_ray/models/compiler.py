"""How torch.compile is set up for the model's layers, in training and where answers are given."""

import torch


def set_up_compiler() -> None:
    """For this process."""
    # SAM 2 has blocks of ten kinds, each for two numbers of images perhaps, and all share the code that is compiled.
    torch._dynamo.config.recompile_limit = 64
    # A layer's epsilon or dropout is a part of its code. Compiled for any size it would be an input, a tensor on the
    # CPU: nothing is fused with it, and on a GPU compiling took more than three minutes.
    torch._dynamo.config.specialize_float = True
