"""Config of the label_queue job."""

from typing import Self

from pydantic import Field, model_validator

from sa2va_ray.cluster.config import ClusterConfig
from sa2va_ray.config import LARGEST_IMAGE_PX, MaxPixels
from sa2va_ray.label_studio.address import LabelStudioConfig, project_number
from sa2va_ray.prepare.identity.patient_pattern import DEFAULT_PATIENT_PATTERN, PatientPattern
from sa2va_ray.storage import KeptUri, Uri


class LabelQueueConfig(ClusterConfig):
    """One queue of images to be labelled."""

    predictions: Uri
    """What `jobs.predict` wrote: its `out`. With `tta=flips` the queue knows more of how unsure the model is."""
    source: str
    """The images, as `jobs.predict` was given them."""
    out: KeptUri
    """Folder for `tasks.json`, `queue.html` and `queue.json`. Tasks name images as Label Studio finds them: they may
    name patients."""
    project: str | None = None
    """Project of Label Studio that the queue goes into, `label_studio://7`: images that have annotations there are left
    out, tasks that are there without any get the masks, new ones are made of the others. Without it there is the file
    only."""
    label_studio: LabelStudioConfig | None = None
    """The server of `project`."""
    max_tasks: int = Field(100, gt=0, le=10_000)
    """Length of the queue: the first so many images."""
    patient_pattern: PatientPattern = DEFAULT_PATIENT_PATTERN
    """As of `jobs.prepare`: regular expression that matches the whole path of an image below `source`, without its
    suffix; group `patient` says whose it is."""
    image_url: str | None = Field(None, min_length=1, max_length=1000)
    """How Label Studio finds an image, with `{name}` for its path below `source`:
    `/data/local-files/?d=angiograms/{name}`, `s3://bucket/angiograms/{name}`. Without it an image on a store is called
    by its URI, and one on a disk is uploaded to `project`."""
    label: str | None = Field(None, min_length=1, max_length=200)
    """Label of the masks in the labelling interface. Without it the one that was asked for, or the only one there."""
    max_pixels: MaxPixels = LARGEST_IMAGE_PX
    """Largest height x width of an image that is drawn on the page."""

    @model_validator(mode="after")
    def _knows_its_project(self) -> Self:
        if self.project is not None and project_number(self.project) is None:
            raise ValueError("project: give the number of a project of Label Studio, as label_studio://7")
        if (self.project is None) != (self.label_studio is None):
            raise ValueError("project and label_studio.url belong together: give both, or neither for a file alone")
        if self.image_url is not None and "{name}" not in self.image_url:
            raise ValueError("image_url: without {name} all images would have the same address")
        return self
