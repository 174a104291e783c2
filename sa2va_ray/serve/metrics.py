"""What the endpoint counts, for Prometheus and the Ray dashboard, where each name has `ray_` before it. Serve itself
counts replicas and queues. Nothing here identifies a request."""

from collections.abc import Iterable, Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from sa2va_ray.predict.predictor import Prediction

_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]
_SHARES = [0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8]


class ModelMetrics:
    """Of one replica: its batches, and what drifts when images change: areas, confidence, empty masks."""

    def __init__(self, model: str):
        tags = ("model",)
        self._all = {
            "images": Histogram("sa2va_serve_batch_images", "Images of a forward pass.", [1, 2, 4, 8, 16, 32], tags),
            "megapixels": Histogram("sa2va_serve_batch_megapixels", "Size of a batch.", [1, 2, 4, 8, 16, 32, 64], tags),
            "area": Histogram("sa2va_serve_area_fraction", "Share of the image that the mask covers.", _SHARES, tags),
            "confidence": Histogram("sa2va_serve_mean_confidence", "Mean probability in the mask.", _SHARES, tags),
            "answers": Counter("sa2va_serve_answers_total", "Questions that were answered.", tags),
            "empty": Counter("sa2va_serve_empty_masks_total", "Answers whose mask is empty or missing.", tags),
        }
        for metric in self._all.values():
            metric.set_default_tags({"model": model})

    def batch(self, num_images: int, megapixels: int) -> None:
        self._all["images"].observe(num_images)
        self._all["megapixels"].observe(megapixels)

    def predictions(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            area, confidence = area_fraction(prediction), mean_confidence(prediction)
            self._all["answers"].inc()
            self._all["area"].observe(area)
            if area:
                self._all["confidence"].observe(confidence)
            else:
                self._all["empty"].inc()


class RequestMetrics:
    """Of one ingress."""

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


def area_fraction(prediction: Prediction) -> float:
    """Share of the pixels in any mask of the answer, in [0, 1]."""
    return float(prediction.union().mean())


def mean_confidence(prediction: Prediction) -> float:
    """Mean probability of the pixels in the masks, in [0, 1]; 0 where there are none."""
    return float(prediction.probabilities[prediction.masks].mean()) if prediction.masks.any() else 0.0
