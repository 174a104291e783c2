"""ExportConfig: what `jobs.export` takes."""

from sa2va_ray.config import Config


class ExportConfig(Config):
    """One export."""

    checkpoint: str
    """A checkpoint folder, or a run's folder, which stands for its newest complete checkpoint."""
    out: str
    """Folder of the exported model."""
    name: str = "sa2va"
    """Name of the model, shown in its card, by the endpoint and in every reply."""
