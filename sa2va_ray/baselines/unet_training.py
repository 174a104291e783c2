"""Trains the U-Net: Ray Train with DDP, fed by the pipeline that feeds Sa2VA.

Shapes: B images, N objects of one image, S side of the network's square, H W pixels of an image's own masks.
"""

import math
from collections.abc import Sequence
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from ray.train.torch import TorchTrainer, get_device, prepare_model
from safetensors.torch import save
from torch import Tensor, nn

from sa2va_ray import storage
from sa2va_ray.baselines.config import BaselineConfig, UnetTrainingConfig
from sa2va_ray.baselines.fitted import FittedBaseline
from sa2va_ray.cluster.resources import check_cluster, decide_use_gpu
from sa2va_ray.cluster.streams import cause_of
from sa2va_ray.config import UserError
from sa2va_ray.data.batch import Batch
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import stream_steps
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.models.baselines.unet import Unet, resize_maps, to_square
from sa2va_ray.models.model_manifest import UNCALIBRATED_THRESHOLD
from sa2va_ray.predict.baseline_predictors import CONFIG_FILE, WEIGHTS_FILE
from sa2va_ray.telemetry import configure_logging, log_progress

_LOG_EVERY_STEPS = 10
_RAY_RUN = "ray"  # folder in `out` that Ray Train wants while it runs


def train_unet(config: BaselineConfig) -> FittedBaseline:
    """Trains to the end of `config.unet.num_epochs`. The same data and config give the same weights with one worker.

    Raises:
        UserError: the cluster is too small, or what ended the training.
    """
    unet = config.unet.model_copy(update={"use_gpu": decide_use_gpu(config.unet.use_gpu)})
    check_cluster(
        unet.resources(unet.pipeline.cpus_per_rank()),
        explain_room(unet),
        unet.resources_per_worker(),
    )
    trainer = TorchTrainer(
        train_unet_per_worker,  # type: ignore[arg-type]  # Ray's annotation leaves return values out
        train_loop_config={"data_uri": config.data_uri, "unet": unet.model_dump(mode="json")},
        scaling_config=ray.train.ScalingConfig(
            num_workers=unet.num_workers,
            use_gpu=bool(unet.use_gpu),
            resources_per_worker=unet.resources_per_worker(),
        ),
        run_config=ray.train.RunConfig(name=_RAY_RUN, storage_path=config.out),
    )
    try:
        weights, loss = trainer.fit().return_value  # type: ignore[attr-defined]  # rank 0's; Ray's annotation is that of V1
    except ray.train.TrainingFailedError as error:
        raise UserError(
            f"The U-Net was not trained: {cause_of(error)} The workers' logs are on the dashboard."
        ) from error
    finally:
        storage.delete_folder(storage.join(config.out, _RAY_RUN))
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: (unet.network.model_dump_json(indent=2) + "\n").encode()}
    return FittedBaseline(files, UNCALIBRATED_THRESHOLD, {"loss": loss})


def explain_room(unet: UnetTrainingConfig) -> str:
    """Which keys to lower where the cluster is too small."""
    without_gpu = " set unet.use_gpu=false," if unet.use_gpu else ""
    return (
        "Lower unet.num_workers, unet.cpus_per_worker or unet.pipeline.cpus_per_actor (0.5 lets two of its actors "
        f"share a core),{without_gpu} or add nodes."
    )


def train_unet_per_worker(values: dict[str, Any]) -> tuple[bytes, float]:
    """What each worker runs. Returns the weights as a safetensors file, and the loss at the end.

    Raises:
        UserError: a loss that is not finite, or more bad samples than the pipeline's config allows.
    """
    configure_logging()
    config = UnetTrainingConfig.parse(values["unet"])
    if not config.use_gpu:
        # torch takes all cores of the machine in each worker; their threads would wait for one another.
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    torch.manual_seed(config.seed)
    network = Unet(config.network)
    loss = _train(prepare_model(network), config, values["data_uri"])
    return save(network.state_dict()), loss


class PixelsOnly:
    """The pipeline's processor of a model that has no language and no tiles."""

    def __init__(self, image_size: int):
        self._image_size = image_size

    def tile_pixels(self, image: Image.Image) -> Tensor:
        return torch.zeros((0, 3, 0, 0), dtype=torch.uint8)

    def grounding_image(self, image: Image.Image) -> Tensor:
        return to_square(image, self._image_size)

    def training_ids(self, turns: Sequence[tuple[str, str]], num_tiles: int) -> tuple[list[int], list[int]]:
        return [], []


def _train(model: nn.Module, config: UnetTrainingConfig, data_uri: str) -> float:
    """Trains, and returns the mean loss of the last steps."""
    plan = _plan(config, data_uri)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=plan.num_steps, cycle_momentum=False
    )
    num_seen, recent = 0, torch.zeros(2, device=get_device())  # loss and samples since the last log
    loss = math.nan
    steps = stream_steps(data_uri, [plan], config.pipeline, PixelsOnly(config.network.image_size))
    for step, (batch,) in enumerate(steps, start=1):
        losses = _forward(model, batch, config.network.image_size)
        optimizer.zero_grad()
        # DDP takes the mean over workers; the step's is that over its samples.
        (losses.sum() * plan.world_size / plan.step_size(step - 1)).backward()
        optimizer.step()
        schedule.step()
        recent += torch.stack([losses.detach().sum(), torch.tensor(float(len(losses)), device=recent.device)])
        if step % _LOG_EVERY_STEPS == 0 or step == plan.num_steps:
            dist.all_reduce(recent)
            loss, num_seen = _checked_loss(recent, step), num_seen + int(recent[1])
            recent.zero_()
            if plan.rank == 0:
                log_progress("unet", step, plan.num_steps, f"loss {loss:.4f}")
    _check_samples(plan.samples_per_epoch - num_seen, config)
    return loss


def _plan(config: UnetTrainingConfig, data_uri: str) -> EpochPlan:
    """All epochs as one, each sample `num_epochs` times: a pipeline is started once."""
    return EpochPlan(
        num_samples=len(SampleIndex(data_uri, "train")),
        repeats=config.num_epochs,
        seed=config.seed,
        epoch=0,
        global_batch_size=config.global_batch_size,
        micro_batch_size=-(-config.global_batch_size // config.num_workers),
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )


def _forward(model: nn.Module, batch: Batch | None, image_size: int) -> Tensor:
    """(B,) losses. A worker without samples runs the network too, since the others wait for its gradient."""
    device = get_device()
    if batch is None:
        pixels = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
        targets = ignored = torch.zeros(0, image_size, image_size)
    else:
        pixels = batch.grounding_pixel_values
        targets, ignored = to_targets(batch.masks, image_size), to_targets(batch.ignored, image_size)
    logits = model(pixels.to(device))[: len(targets)]
    return unet_losses(logits, targets.to(device), 1 - ignored.to(device))


def to_targets(masks: Sequence[Tensor], side: int) -> Tensor:
    """B tensors (N, H, W) bool -> (B, S, S) float32 in [0, 1]: the union of each image's N, where N may be 0."""
    return torch.cat([resize_maps(each.any(dim=0, keepdim=True).float(), (side, side)) for each in masks])


def unet_losses(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """(B, S, S) each -> (B,): the mean binary cross entropy, and 1 - soft Dice, of the pixels that count.

    Args:
        counts: the share of each pixel that does, in [0, 1].
    """
    cross_entropies = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    cross_entropy = (cross_entropies * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1)
    probabilities, targets = logits.sigmoid() * counts, targets * counts
    overlap = 2 * (probabilities * targets).sum(dim=(1, 2))
    total = probabilities.sum(dim=(1, 2)) + targets.sum(dim=(1, 2))
    return cross_entropy + 1 - (overlap + 1) / (total + 1)


def _checked_loss(recent: Tensor, step: int) -> float:
    loss = (recent[0] / recent[1]).item()
    if not math.isfinite(loss):
        raise UserError(f"The loss is {loss} at step {step}: training diverged. Lower unet.lr.")
    return loss


def _check_samples(num_missing: int, config: UnetTrainingConfig) -> None:
    allowed = config.pipeline.max_bad_samples * config.num_epochs
    if num_missing > allowed:
        raise UserError(
            f"{num_missing} samples, over {config.num_epochs} epochs, could not be decoded; "
            f"unet.pipeline.max_bad_samples allows {allowed}. The log names them. Prepare the data set again."
        )
