"""ServeArgs: the `args` of a Serve application in serve_configs/*.yaml."""

import os
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from ray.serve.config import AutoscalingConfig

from sa2va_ray.config import LARGEST_IMAGE_PX, Config, MaxPixels
from sa2va_ray.label_studio.address import LabelStudioConfig
from sa2va_ray.serve.guard.fetch import UriPolicy
from sa2va_ray.serve.retraining import RetrainConfig

_MAX_COPIES = 1024
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class BatchingConfig(Config):
    """How requests are put together. A change of these alone is taken over by running replicas."""

    max_batch_megapixels: int = Field(8, gt=0, le=1024)
    """Most of one forward pass. An image counts by its pixels times its prompts, and as one megapixel at least, since
    the model sees each at the same size; a larger question than this runs alone. Where a GPU has no room for so much,
    its replica takes what it has room for."""
    batch_wait_timeout_s: float = Field(0.0, ge=0, le=10)
    """How long a free model waits for more images after the first, s. Those that come while it is busy are put together
    anyway."""


class ModelArgs(Config):
    """One model and its replicas."""

    uri: str
    """Exported model, or baseline: s3://... or a path in full."""
    default_prompt: str = Field("Please segment blood vessels in this image.", min_length=1)
    """Asked where a request brings no prompt."""
    num_replicas: int = Field(1, gt=0, le=_MAX_COPIES)
    """Copies of the model, where it is not autoscaled."""
    autoscaling: AutoscalingConfig | None = None
    """Serve's own keys: min_replicas, max_replicas, target_ongoing_requests, upscale_delay_s, ..."""
    cpus_per_replica: float = Field(1.0, ge=0, le=1024)
    gpus_per_replica: float = Field(1.0, ge=0, le=1)
    compile: bool = True
    """Whether a replica on a GPU compiles its model before it answers: a minute or two at a node's first start, some
    15 s later. One image is then answered in half the time."""
    max_surge_percent: int = Field(0, ge=0, le=100)
    """Replicas, of 100, that may be started before old ones stop when a new model is rolled out. 0 replaces them where
    they are; more wants room for both, for which the rollout waits."""
    batching: BatchingConfig = Field(default_factory=BatchingConfig)
    max_ongoing_requests: int = Field(16, gt=0, le=10_000)
    """Requests that a replica holds at a time, waiting for their batch or in it."""
    max_queued_requests: int = Field(64, gt=0, le=100_000)
    """Requests that wait for a replica in each ingress; more are refused with 503."""

    @field_validator("uri")
    @classmethod
    def _uri_is_absolute(cls, uri: str) -> str:
        if "://" not in uri and not uri.startswith(("/", "~")):
            raise ValueError(
                "is relative, and the cluster's processes run in folders of their own: give the path in full, or "
                "s3://bucket/key. A model of the Hugging Face hub is fetched, trained and exported first"
            )
        return uri

    @field_validator("autoscaling", mode="before")
    @classmethod
    def _keys_are_known(cls, value: Any) -> Any:
        if isinstance(value, dict) and (unknown := value.keys() - AutoscalingConfig.model_fields.keys()):
            valid = ", ".join(sorted(AutoscalingConfig.model_fields))
            raise ValueError(f"unknown key {sorted(map(str, unknown))[0]}; valid here: {valid}")
        return value

    @model_validator(mode="after")
    def _scaling_is_possible(self) -> "ModelArgs":
        if self.autoscaling is None:
            return self
        if "num_replicas" in self.model_fields_set:
            raise ValueError("give either num_replicas or autoscaling, which has min_replicas and max_replicas")
        if self.autoscaling.get_target_ongoing_requests() > self.max_ongoing_requests:
            raise ValueError(
                f"autoscaling.target_ongoing_requests {self.autoscaling.get_target_ongoing_requests():g} is more than "
                f"max_ongoing_requests {self.max_ongoing_requests}: no replica would ever be added"
            )
        return self

    @model_validator(mode="after")
    def _batches_can_fill(self) -> "ModelArgs":
        self.check_batching(self.batching)
        return self

    def check_batching(self, batching: BatchingConfig) -> None:
        """
        Raises:
            ValueError: a batch that could never fill.
        """
        if self.max_ongoing_requests < batching.max_batch_megapixels:
            raise ValueError(
                f"max_ongoing_requests {self.max_ongoing_requests} is less than batching.max_batch_megapixels "
                f"{batching.max_batch_megapixels}: a batch could never fill"
            )


class LimitsConfig(Config):
    """What a request may bring."""

    max_upload_bytes: int = Field(32 * 2**20, gt=0, le=2**40)
    """Largest request body, and largest image behind a URI."""
    max_image_pixels: MaxPixels = LARGEST_IMAGE_PX
    """Largest image, width times height, checked before it is decoded."""
    max_prompts: int = Field(8, gt=0, le=1000)
    """Questions about one image in one request."""
    max_batch_images: int = Field(64, gt=0, le=10_000)
    """Images in one request to /v1/segment/batch."""
    read_timeout_s: float = Field(30.0, gt=0, le=86_400)
    """How long a request's body may take to arrive."""
    max_bodies_at_once: int = Field(64, gt=0, le=100_000)
    """Bodies that may be arriving at a time in each ingress, which holds them in memory meanwhile. For one more, the
    one that began first is given up with 503."""
    max_tasks: int = Field(256, gt=0, le=10_000)
    """Tasks in one request of Label Studio, which sends 100 by default."""
    max_prompt_tokens: int = Field(512, gt=0, le=2**20)
    """Tokens of a prompt: they, and not its characters, are what it costs."""
    max_outline_points: int = Field(2 * 10**6, gt=0, le=2**30)
    """Points of all outlines in one reply as polygons or as Label Studio's regions: a point takes 280 bytes while they
    are made. Masks of vessels have few, those of noise have 0.8 a pixel."""
    max_memory_bytes: int = Field(2**30, gt=0, le=2**50)
    """Memory of decoded images and their answers in each ingress; who finds none is told to come again. A request that
    alone takes more is answered when there is no other."""
    answer_timeout_s: float = Field(120.0, gt=0, le=86_400)
    """How long an image may take from when its turn comes until its reply is made."""
    retry_after_s: int = Field(1, gt=0, le=86_400)
    """When a request that found all replicas busy should come again."""


class ServeArgs(Config):
    """One endpoint with one or several models."""

    models: dict[Annotated[str, Field(pattern=_NAME)], ModelArgs] = Field(min_length=1)
    """The models, each under the name by which requests ask for it."""
    default_model: str | None = None
    """Answers requests that name none. To be given where there are several."""
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    uris: UriPolicy = Field(default_factory=UriPolicy)
    """Which URIs requests may bring in place of an image; none by default."""
    label_studio: LabelStudioConfig | None = None
    """Label Studio whose tasks are answered: images that it holds (uploads, local files, files of its cloud storages)
    are fetched from it, with its token, for `/label_studio/predict` alone."""
    retrain: RetrainConfig | None = None
    """The job that starts when Label Studio has told `/label_studio/webhook` of enough new annotations; none by
    default."""
    revision: str = ""
    """Any text. Serve reads nothing again while the args are as they were: another text here has a model served that
    was exported anew at its URI, and a deployment tried again that has failed. `sa2va-ray deploy` adds to it."""
    api_keys_file: str | None = None
    """JSON file of API keys (`python -m sa2va_ray.serve.guard.access new`); else the variable SA2VA_API_KEYS. Without
    keys only requests from this machine are served."""
    audit_dir: str | None = None
    """Folder that exists, for the audit log: a file for each ingress, a new one whenever it starts. None is written by
    default."""
    cache_dir: str = Field(default_factory=lambda: f"/tmp/sa2va_ray_{os.getuid()}/models")
    """Where nodes keep models from object storage, so that a replica can start again without it, and what was compiled
    for their GPUs. Only who runs the endpoint should be able to write there."""
    num_ingresses: int = Field(1, gt=0, le=_MAX_COPIES)
    """Copies of the HTTP side. One decodes and encodes about as fast as one core can."""

    @model_validator(mode="after")
    def _default_is_served(self) -> "ServeArgs":
        if self.default_model not in ({None} if len(self.models) == 1 else set()) | self.models.keys():
            raise ValueError(f"default_model {self.default_model}: give one of {', '.join(sorted(self.models))}")
        return self

    def default_name(self) -> str:
        """Name of the model that answers requests that name none."""
        return self.default_model or next(iter(self.models))
