"""The verbs: one row for each, in the order in which a data set passes through them.

`sa2va-ray VERB` and `python -m jobs.VERB` are the same. A verb's config class and its function are named and not
imported, so that a wrong key is told in a second, before torch and Ray are loaded.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from sa2va_ray.config import Config, UserError
from sa2va_ray.console.usage import usage
from sa2va_ray.interpreter import importing
from sa2va_ray.telemetry import LOGGER, configure_logging

INTERRUPTED = 130  # the exit status of a shell's command that Ctrl-C ended


@dataclass(frozen=True)
class Verb:
    """Attributes:
    summary: what it does, a sentence.
    config_name: its config class, `module:class`.
    function_name: what runs it, `module:function`; takes the config.
    examples: arguments as a user types them.
    again: what happens when the same command is started again after it was stopped, a sentence.
    """

    summary: str
    config_name: str
    function_name: str
    examples: tuple[str, ...]
    again: str = "Nothing of its result was written; the same command begins anew."

    @property
    def config_class(self) -> type[Config]:
        return resolve_name(self.config_name)

    @property
    def function(self) -> Callable[[Any], object]:
        with importing():
            return resolve_name(self.function_name)

    def run(self, config: Config) -> None:
        config.check_inputs()
        configure_logging()
        # Torch and Ray take many seconds on a busy machine.
        LOGGER.info("the settings are read; loading what works on them")
        self.function(config)


VERBS = {
    "prepare": Verb(
        "Prepares a data set: reads annotated images, checks, de-identifies, splits by patient and writes Parquet.",
        "sa2va_ray.prepare.config:PrepareConfig",
        "sa2va_ray.prepare.run:prepare",
        ("source=/data/angiograms out=s3://bucket/angiograms pseudonym_key_file=~/.sa2va_pseudonym_key",),
    ),
    "preview": Verb(
        "Draws a contact sheet of augmented samples of a prepared data set.",
        "sa2va_ray.data.preview:PreviewConfig",
        "sa2va_ray.data.preview:preview",
        ("data_uri=s3://bucket/data out=sheet.png augment.elastic_probability=1",),
    ),
    "fetch": Verb(
        "Brings base weights to a store or a folder, from the Hugging Face hub or a folder; checks each file by "
        "its hash.",
        "sa2va_ray.models.fetching.config:FetchConfig",
        "sa2va_ray.models.fetching.fetch:fetch",
        (
            "source=OpenGVLab/InternVL3-8B out=s3://bucket/models/InternVL3-8B",
            "source=facebook/sam2-hiera-large file=sam2_hiera_large.pt out=s3://bucket/models/sam2",
        ),
        "The same command goes on with what is missing.",
    ),
    "train": Verb(
        "Trains Sa2VA on a prepared data set: DeepSpeed ZeRO-3 on Ray Train, checkpoints to object storage.",
        "sa2va_ray.train.config:TrainConfig",
        "sa2va_ray.train.trainer:train",
        ("jobs/configs/demo.yaml optim.lr=3e-4", "jobs/configs/octa_8b.yaml data_uri=s3://bucket/data plan=true"),
        "The same command goes on from the run's newest checkpoint.",
    ),
    "export": Verb(
        "Exports a checkpoint as a Hugging Face folder: merges, writes, hashes and checks it. Or makes of an exported "
        "model one of 8-bit weights, or checks a folder that is there. `checkpoint` names a run, or one of its own.",
        "sa2va_ray.export.config:ExportConfig",
        "sa2va_ray.export.run:export",
        (
            "checkpoint=s3://bucket/runs/NAME out=s3://bucket/models/NAME name=NAME",
            "model=s3://bucket/models/NAME out=s3://bucket/models/NAME-int8 quantise=int8",
            "verify=s3://bucket/models/NAME",
        ),
    ),
    "baseline": Verb(
        "Fits a baseline on the training patients of a prepared data set: a small U-Net, a classical vessel filter or "
        "nnU-Net. "
        "What it writes is a model like any other.",
        "sa2va_ray.baselines.config:BaselineConfig",
        "sa2va_ray.baselines.run:fit_baseline",
        (
            "jobs/configs/baseline_unet.yaml data_uri=s3://bucket/data out=s3://bucket/models/unet",
            "jobs/configs/baseline_filter.yaml data_uri=s3://bucket/data out=s3://bucket/models/filter",
            "jobs/configs/baseline_nnunet.yaml data_uri=s3://bucket/data out=s3://bucket/models/nnunet",
        ),
    ),
    "calibrate": Verb(
        "Chooses a model's threshold on the validation patients and keeps it with the model.",
        "sa2va_ray.evaluate.config:CalibrateConfig",
        "sa2va_ray.evaluate.calibrate:calibrate",
        (
            "model=s3://bucket/models/NAME data_uri=s3://bucket/data",
            "model=s3://bucket/models/NAME data_uri=s3://bucket/data objective=recall recall_target=0.9",
        ),
    ),
    "evaluate": Verb(
        "Measures an exported model on the patients of one split.",
        "sa2va_ray.evaluate.config:EvaluateConfig",
        "sa2va_ray.evaluate.run:evaluate",
        (
            "model=s3://bucket/models/NAME data_uri=s3://bucket/data out=s3://bucket/evaluations/NAME",
            "model=s3://bucket/models/NAME against=s3://bucket/models/OTHER data_uri=s3://bucket/data out=OUT",
        ),
    ),
    "predict": Verb(
        "Predicts masks for images, a video or a prepared data set.",
        "sa2va_ray.predict.job.config:PredictConfig",
        "sa2va_ray.predict.job.run:predict",
        ("model=s3://bucket/models/NAME source=/data/new out=s3://bucket/predictions/NAME overlays=true",),
        "The same command, with the same `out`, predicts what is missing.",
    ),
    "label_queue": Verb(
        "Queues images for labelling, where the model is least sure first: tasks of Label Studio with its masks, as a "
        "file or in a project.",
        "sa2va_ray.labelling.config:LabelQueueConfig",
        "sa2va_ray.labelling.run:label_queue",
        (
            "predictions=s3://bucket/predictions/NAME source=s3://bucket/new out=s3://bucket/queues/NAME",
            "predictions=PREDICTIONS source=/data/new out=QUEUE project=label_studio://7 "
            "label_studio.url=http://127.0.0.1:8080",
        ),
        "The same command goes on: images that it has put into the project are found there.",
    ),
    "deploy": Verb(
        "Deploys a file of serve_configs/ to a running cluster, waits until it answers and prints its addresses. Takes "
        "a model that was exported anew, and tries again what has failed, where `serve deploy` sees no change.",
        "sa2va_ray.serve.deploy_config:DeployConfig",
        "sa2va_ray.serve.deploy:deploy",
        ("serve_configs/one_gpu.yaml",),
        "The deployment goes on: `serve status` tells how far it is, and the same command waits for it again.",
    ),
}


def run_verb(name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs a verb on its command-line arguments. A `UserError` becomes one message on stderr and its exit status; other
    errors are bugs and keep their traceback. `--help` prints what the verb takes, and does nothing."""
    verb = VERBS[name]
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(usage(name, verb.summary, verb.examples, verb.config_class))
        return
    end_in_order_when_stopped()
    try:
        verb.run(verb.config_class.load(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if not arguments:
            lines = [f"  sa2va-ray {name} {example}" for example in (*verb.examples, "--help")]
            print("\n".join(["Nothing was given. For example:", *lines]), file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        print(f"stopped: {name} was interrupted. {verb.again}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def end_in_order_when_stopped() -> None:
    """A SIGTERM, which `ray job stop` sends, ends what was started beside the job, and deletes what is half done."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
