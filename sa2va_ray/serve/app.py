"""ServeArgs -> Serve application: `import_path: sa2va_ray.serve.app:build_app` in serve_configs/*.yaml."""

# Serve reads the raw annotation of the builder's one parameter: no `from __future__ import annotations` here.
from ray import serve

from sa2va_ray.manifest import read_manifest
from sa2va_ray.models.state_dict import MODEL_MANIFEST
from sa2va_ray.serve.config import ServeArgs
from sa2va_ray.serve.deployment import SegmentationModel
from sa2va_ray.serve.ingress import Ingress


def build_app(args: ServeArgs) -> serve.Application:
    """Ingress and model deployment for one exported model.

    Raises:
        UserError: `args.model` is not an exported model; found before a replica is started.
    """
    read_manifest(args.model, MODEL_MANIFEST, what="exported model")
    model = SegmentationModel.options(  # type: ignore[attr-defined]
        num_replicas=args.num_replicas,
        ray_actor_options={"num_cpus": args.cpus_per_replica, "num_gpus": args.gpus_per_replica},
        max_ongoing_requests=args.max_ongoing_requests,
        max_queued_requests=args.max_queued_requests,
    )
    ingress = Ingress.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=args.max_ongoing_requests + args.max_queued_requests,
    )
    return ingress.bind(model.bind(args), args)
