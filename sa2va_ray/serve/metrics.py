"""What the endpoint counts, for Prometheus, where each name has `ray_` before it. Serve itself counts replicas and
queues. Nothing here identifies a request."""

from collections.abc import Iterable, Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from sa2va_ray.serve.messages import PromptResult

_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]
_SIZES = [1.0, 2, 4, 8, 16, 32, 64]
_SHARES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8]


class _Distribution:
    """A histogram, and its values summed up, which its own sum is not: Ray makes that of the midpoints of buckets."""

    def __init__(self, name: str, description: str, boundaries: list[float]):
        self._histogram = Histogram(f"sa2va_serve_{name}", description, boundaries, ("model",))
        self._total = Counter(f"sa2va_serve_{name}_total", f"{description} Summed up.", ("model",))

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self._histogram.observe(value, tags)
        if value:  # a counter takes no zero
            self._total.inc(value, tags)


class ModelMetrics:
    """Counters of one replica: its batches, and what drifts when images change: areas, confidence, empty masks."""

    def __init__(self, model: str):
        self._tags = {"model": model}
        self._images = _Distribution("batch_images", "Images of a forward pass.", _SIZES)
        self._megapixels = _Distribution("batch_megapixels", "Size of a batch.", _SIZES)
        self._area = _Distribution("area_fraction", "Share of the image that the mask covers.", _SHARES)
        self._confidence = _Distribution("mean_confidence", "Mean probability in the mask.", _SHARES)
        self._answers = Counter("sa2va_serve_answers_total", "Questions that were answered.", ("model",))
        self._empty = Counter("sa2va_serve_empty_masks_total", "Answers with an empty mask, or none.", ("model",))

    def batch(self, num_images: int, megapixels: int) -> None:
        self._images.observe(num_images, self._tags)
        self._megapixels.observe(megapixels, self._tags)

    def results(self, results: Iterable[PromptResult]) -> None:
        for result in results:
            self._answers.inc(tags=self._tags)
            self._area.observe(result.area_fraction, self._tags)
            if result.area_fraction:
                self._confidence.observe(result.mean_confidence, self._tags)
            else:
                self._empty.inc(tags=self._tags)


class RequestMetrics:
    """Counters of one ingress: requests, problems, and the time of each stage."""

    def __init__(self) -> None:
        self._requests = Counter("sa2va_serve_requests_total", "Replies.", ("route", "status"))
        self._problems = Counter("sa2va_serve_problems_total", "Problem documents, by their title.", ("title",))
        self._stages = Histogram("sa2va_serve_stage_seconds", "Time of each stage of a request.", _SECONDS, ("stage",))
        self._in_flight = Gauge("sa2va_serve_requests_in_flight", "Requests that an ingress is at.")
        self._num_in_flight = 0

    def begin(self) -> None:
        self._num_in_flight += 1
        self._in_flight.set(self._num_in_flight)

    def end(self, route: str, status: int) -> None:
        self._num_in_flight -= 1
        self._in_flight.set(self._num_in_flight)
        self._requests.inc(tags={"route": route, "status": str(status)})

    def problem(self, title: str) -> None:
        self._problems.inc(tags={"title": title})

    def stages(self, timing_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in timing_ms.items():
            self._stages.observe(milliseconds / 1000, tags={"stage": stage})
