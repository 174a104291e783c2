"""What a training worker is started with. It imports nothing by itself, so that the driver does without DeepSpeed."""

from sa2va_ray.interpreter import importing


def run_worker(data_sha256: str, commit: str, lock_owner: str, may_halve: bool, values: dict) -> str | None:
    """Trains on one worker. Returns the message of a `RunStoppedError`, or None. (To raise it would make Ray replace
    the workers, for the same end; and of metrics that are reported Ray keeps only those of checkpoints.)"""
    # DeepSpeed imports MLflow for its search for settings, which nothing here calls: 2 s of a core.
    with importing(without="mlflow"):
        from sa2va_ray.train.config import TrainConfig
        from sa2va_ray.train.errors import RunStoppedError
        from sa2va_ray.train.loop import train_loop_per_worker
    try:
        train_loop_per_worker(TrainConfig.parse(values), data_sha256, commit, lock_owner, may_halve)
    except RunStoppedError as error:
        return str(error)
    return None
