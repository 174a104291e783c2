"""Weights of 8 bits, by torchao: which weights, how they are made and stored, and how a folder of them is loaded.

The linear layers of the language model, nine tenths of a Sa2VA of 8B, are whole numbers of 8 bits and a float32
scale for each output; what they compute with stays in the dtype that they are given. transformers loads such a folder
by itself where torchao is installed.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import TorchAoConfig
from transformers.utils import logging as transformers_logging

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.report import some
from sa2va_ray.models.parts import LANGUAGE_MODEL, LM_HEAD, PARTS
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel

QUANTISATION_KEY = "quantization_config"
"""Under which a config.json says how its weights are quantised."""

_QUANTISED = re.compile(rf"({LANGUAGE_MODEL.adapter_targets}|{re.escape(LM_HEAD.module)})\.weight")
_CLASS = "Int8WeightOnlyConfig"


def is_quantised(name: str) -> bool:
    """Whether a weight of the model is stored in 8 bits."""
    return _QUANTISED.fullmatch(name) is not None


def quantise(weight: Tensor) -> Tensor:
    """(out, in) -> the same in 8 bits, to half a 127th of each row's largest value, unless that is below some 1e-5. An
    output is the sum of whole numbers times what is given, and is scaled once."""
    from torchao.quantization import quantize_

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, _torchao_config())
    return layer.weight.data


def to_stored(quantised: Mapping[str, Tensor], all_names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a weight file holds of quantised tensors: plain tensors, and metadata for its header.

    Args:
        all_names: of the quantised tensors of all files, which transformers expects in each.
    """
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors, metadata = flatten_tensor_state_dict(dict(quantised))
    return tensors, metadata | {"tensor_names": json.dumps(list(all_names))}


def quantisation_config() -> dict[str, Any]:
    """What config.json says under `QUANTISATION_KEY`."""
    plain = [part.module for part in PARTS if part not in (LANGUAGE_MODEL, LM_HEAD)]
    return TorchAoConfig(_torchao_config(), modules_to_not_convert=plain).to_dict()


def is_known(config: Any) -> bool:
    """Whether a model with such a `QUANTISATION_KEY` can be loaded: one that `quantisation_config` has made."""
    try:
        return config["quant_method"] == "torchao" and config["quant_type"]["default"]["_type"] == _CLASS
    except (LookupError, TypeError):
        return False


def load_quantised(folder: Path, location: str, device: str, dtype: torch.dtype | None) -> Sa2VAModel:
    """A model of 8-bit weights, in evaluation mode.

    Args:
        location: the name that messages give the folder.
        dtype: of all other weights, and of what is computed with; None keeps theirs.

    Raises:
        UserError: torchao is not installed; a tensor that is missing, left over or not finite.
    """
    check_torchao()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = Sa2VAModel.from_pretrained(
            folder, dtype=dtype or "auto", device_map={"": device}, output_loading_info=True
        )
    except _NOT_LOADED as error:  # transformers' log has the names
        raise _not_loaded(location, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    model, info = loaded
    wrong = {kind: sorted(map(str, names))[:4] for kind, names in info.items() if names}
    odd = [name for name, tensor in model.state_dict().items() if not _is_sound(name, tensor)]
    if wrong or odd:
        raise _not_loaded(location, f"{wrong or ''}{some(odd)}")
    return model.eval()


_NOT_LOADED = (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError, SafetensorError)
"""What transformers, torchao and safetensors raise for files that do not go together."""


def _is_sound(name: str, tensor: Tensor) -> bool:
    """Whether a weight that should be in 8 bits is: whole numbers of its own shape, and a scale above 0 for each
    output. torchao would take others and compute something else."""
    if not is_quantised(name):
        return True
    rows, columns = tensor.shape
    numbers, scale = getattr(tensor, "qdata", None), getattr(tensor, "scale", None)
    if numbers is None or scale is None or list(getattr(tensor, "block_size", ())) != [1, columns]:
        return False
    right = numbers.shape == (rows, columns) and numbers.dtype == torch.int8 and scale.shape == (rows, 1)
    return right and bool((scale > 0).all())


def _not_loaded(location: str, problem: str) -> UserError:
    return UserError(
        f"{location} does not hold the 8-bit weights that its config.json tells of: {problem}. A tensor was lost or "
        f"changed, or they were written for another torchao than {torchao_version()}, which is here (the folder's "
        "sa2va_manifest.json says for which): export it again."
    )


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model by name, those of 8 bits as the scales that they are multiplied with."""
    return {name: getattr(tensor, "scale", tensor) for name, tensor in model.state_dict().items()}


def torchao_version() -> str:
    check_torchao()
    import torchao

    return torchao.__version__


def check_torchao() -> None:
    """Raises `UserError` where torchao is not installed."""
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Weights of 8 bits need torchao, which cannot be imported here ({error}). Install it on every node: "
            "pip install 'sa2va-ray[quantise]'."
        ) from None


def _torchao_config() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    # set_inductor_config would change how everything in this process is compiled and multiplied.
    return Int8WeightOnlyConfig(version=2, set_inductor_config=False)
