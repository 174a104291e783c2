"""ServeArgs -> Serve application: `import_path: sa2va_ray.serve.app:build_app` in serve_configs/*.yaml."""

# Serve reads the raw annotation of the builder's one parameter: no `from __future__ import annotations` here.
from ray import serve

from sa2va_ray.serve.config import ModelArgs, ServeArgs
from sa2va_ray.serve.guard.access import Access
from sa2va_ray.serve.http.ingress import Ingress
from sa2va_ray.serve.http.protocol import ModelInfo
from sa2va_ray.serve.model.deployment import SegmentationModel
from sa2va_ray.serve.model.weights import ModelSource
from sa2va_ray.serve.retraining import check_state

_INGRESS_CPUS = 0.1
_ONE_LOOP = {
    "env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
}
"""Runtime environment in which Serve's own work, its router and our code have one event loop. By default they have
three, each in a thread, and a request goes to and fro between them. Our code leaves to threads what blocks a loop, but
for the start of a replica, in which Serve asks nothing of it, and the JSON of a large body: its parser holds the
interpreter's lock, and so the loop, in whatever thread it runs."""


def build_app(args: ServeArgs) -> serve.Application:
    """One ingress, and one model deployment for each model.

    Raises:
        UserError: a model that is not there, API keys that cannot be read, no token of Label Studio, or no place for
            the count of annotations; found before a replica is started.
    """
    Access.load(args.api_keys_file)
    if args.label_studio:
        args.label_studio.read_token()
    if args.retrain:
        check_state(args.retrain)
    sources = {name: ModelSource.read(model.uri) for name, model in args.models.items()}
    models = {name: _bind_model(name, model, sources[name], args) for name, model in args.models.items()}
    infos = {name: _info(name, model, sources[name], args) for name, model in args.models.items()}
    capacity = sum(model.max_ongoing_requests + model.max_queued_requests for model in args.models.values())
    ingress = Ingress.options(  # type: ignore[attr-defined]
        num_replicas=args.num_ingresses,
        ray_actor_options={"num_cpus": _INGRESS_CPUS, "runtime_env": _ONE_LOOP},
        max_ongoing_requests=2 * capacity,  # so that those that are refused get their answer from us
        max_queued_requests=capacity,
        max_surge_percent=100,  # a new one listens before the old one stops
        backpressure_config={"status_code": 503, "retry_after_s": args.limits.retry_after_s},
    )
    return ingress.bind(models, infos, args)


def _bind_model(name: str, model: ModelArgs, source: ModelSource, args: ServeArgs):
    scaling = {"autoscaling_config": model.autoscaling} if model.autoscaling else {"num_replicas": model.num_replicas}
    deployment = SegmentationModel.options(  # type: ignore[attr-defined]
        name=f"model-{name}",
        **scaling,
        ray_actor_options={
            "num_cpus": model.cpus_per_replica,
            "num_gpus": model.gpus_per_replica,
            "runtime_env": _ONE_LOOP,
        },
        max_ongoing_requests=model.max_ongoing_requests,
        max_queued_requests=model.max_queued_requests,
        max_surge_percent=model.max_surge_percent,
        user_config=model.batching.model_dump(),
    )
    return deployment.bind(name, source, args.cache_dir, model, args.limits.max_prompt_tokens)


def _info(name: str, model: ModelArgs, source: ModelSource, args: ServeArgs) -> ModelInfo:
    return ModelInfo(
        name=name,
        sha256=source.sha256,
        stored_sha256=source.sha256,
        threshold=source.threshold,
        cleanup=source.cleanup,
        default_prompt=model.default_prompt,
        limits=args.limits,
    )
