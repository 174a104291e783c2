"""nnU-Net v2 by its own Python classes: planned, trained, and asked. The one home of `nnunetv2`, which is slow to
import and comes with the extra `nnunet`: import this file where it is used, behind `check_nnunet`.

Shapes: C channels, H W pixels.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image
from safetensors.torch import load_model, save_model
from torch import nn

from sa2va_ray.models.baselines.config import NnunetModel

_NUMBER = 1  # nnU-Net calls data sets by numbers
_DATA_SET = f"Dataset{_NUMBER:03}_data"
_CONFIGURATION = "2d"
_FOLD = 0  # the only one of our splits
_STEPS_PER_VALIDATION_STEP = 5  # nnU-Net's own: 250 and 50
_NUM_AUGMENTING = "nnUNet_n_proc_DA"
_SPACING = (999, 1, 1)  # what nnU-Net's reader says of images without any


def raw_folder(root: Path) -> Path:
    """Where the data set has to lie below `root`, in the layout of nnU-Net, before it is planned."""
    return root / "raw" / _DATA_SET


def plan(root: Path, gpu_memory_gb: float, num_processes: int) -> None:
    """nnU-Net looks at the data set, plans a 2D U-Net for a GPU of this memory, and preprocesses the images. It finds
    its folders by variables of the environment, which are set for this process."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(root / name)
    os.environ[_NUM_AUGMENTING] = str(num_processes)  # its planner computes with so many threads
    with _quiet():
        extract_fingerprints([_NUMBER], num_processes=num_processes, verbose=False, show_progress_bar=False)
        plan_experiments([_NUMBER], gpu_memory_target_in_gb=gpu_memory_gb)
        preprocess([_NUMBER], configurations=[_CONFIGURATION], num_processes=[num_processes], show_progress_bar=False)
    shutil.copy(raw_folder(root) / "splits_final.json", root / "preprocessed" / _DATA_SET)


def train(
    root: Path,
    num_epochs: int,
    steps_per_epoch: int,
    device: str,
    num_augmenting: int,
    on_step: Callable[[int, float], None],
) -> "TrainedNnunet":
    """Trains as nnU-Net does, on what `plan` has made.

    Args:
        num_augmenting: processes that make batches; 0 for none beside this one.
        on_step: called with the number of steps done and the loss of the last one.
    """
    os.environ[_NUM_AUGMENTING] = str(num_augmenting)
    preprocessed = root / "preprocessed" / _DATA_SET
    plans, dataset = load_json(preprocessed / "nnUNetPlans.json"), load_json(preprocessed / "dataset.json")
    with _quiet():
        trainer = _Trainer(
            plans | {"continue_training": False}, _CONFIGURATION, _FOLD, dataset, device=torch.device(device)
        )
        trainer.on_step = on_step
        trainer.num_epochs, trainer.num_iterations_per_epoch = num_epochs, steps_per_epoch
        trainer.num_val_iterations_per_epoch = -(-steps_per_epoch // _STEPS_PER_VALIDATION_STEP)
        trainer.disable_checkpointing = True  # they are pickles, and nobody reads them
        trainer.run_training()
    network: Any = getattr(trainer.network, "_orig_mod", trainer.network)  # what torch.compile wraps
    model = NnunetModel(plans=plans, dataset=dataset, mirroring_axes=trainer.inference_allowed_mirroring_axes)
    return TrainedNnunet(network.cpu(), model, trainer.logger.get_value("train_losses", step=-1))


class TrainedNnunet:
    """Attributes:
    model: all but the weights that is needed to ask it.
    loss: mean of the last epoch.
    """

    def __init__(self, network: nn.Module, model: NnunetModel, loss: float):
        self._network, self.model, self.loss = network, model, float(loss)

    def save_weights(self, path: Path) -> None:
        """As safetensors; a tensor that has several names in the network is stored once."""
        save_model(self._network, str(path))


class NnunetNetwork:
    """A trained nnU-Net that is asked in memory, as nnU-Net itself predicts: tiles that overlap by half, each also
    mirrored."""

    def __init__(self, model: NnunetModel, weights: Path, device: str):
        plans = PlansManager(dict(model.plans))
        configuration = plans.get_configuration(_CONFIGURATION)
        labels = plans.get_label_manager(model.dataset)
        self._num_channels = len(model.dataset["channel_names"])
        self._has_regions = labels.has_regions
        network = nnUNetTrainer.build_network_architecture(
            plans, configuration, self._num_channels, labels.num_segmentation_heads, enable_deep_supervision=False
        )
        load_model(network, weights)
        network.to(device)
        with _quiet():
            self._predictor = nnUNetPredictor(
                device=torch.device(device), perform_everything_on_device=device != "cpu", allow_tqdm=False
            )
            self._predictor.manual_initialization(
                network,
                plans,
                configuration,
                [network.state_dict()],
                model.dataset,
                nnUNetTrainer.__name__,
                model.mirroring_axes,
            )

    def probabilities(self, image: Image.Image) -> np.ndarray:
        """RGB image of any size -> (H, W) float32 in [0, 1], that a pixel is of any object."""
        pixels = np.atleast_3d(np.asarray(image.convert("L") if self._num_channels == 1 else image))
        with _quiet():
            _, of_labels = self._predictor.predict_single_npy_array(
                pixels.transpose(2, 0, 1)[:, None].astype(np.float32),
                {"spacing": _SPACING},
                save_or_return_probabilities=True,
            )
        of_labels = of_labels[:, 0]  # (labels with the background, or regions; H, W)
        return of_labels.max(axis=0) if self._has_regions else 1 - of_labels[0]


class _Trainer(nnUNetTrainer):
    """nnU-Net's trainer, which tells each step."""

    on_step: Callable[[int, float], None]
    _num_steps = 0

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = super().train_step(batch)
        self._num_steps += 1
        self.on_step(self._num_steps, float(result["loss"]))
        return result


def _quiet() -> redirect_stdout:
    """nnU-Net prints its plans, its progress and what to cite; our log has the progress, the documentation the rest."""
    return redirect_stdout(_Nothing())


class _Nothing:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
