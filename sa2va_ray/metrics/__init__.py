"""Metrics of binary masks: numpy functions on (H, W) bool arrays; and how sure their mean is.

Every metric has a value for every pair of masks, empty ones included, so that no image drops out of a mean;
docs/en/evaluate.md has the table of them.
"""

from sa2va_ray.metrics.bootstrap import Interval, bootstrap_interval, pooled_interval
from sa2va_ray.metrics.calibration import calibration_counts, calibration_errors
from sa2va_ray.metrics.catalogue import CATALOGUE, METRICS, VALIDATION_METRICS, Metric, compute_metrics
from sa2va_ray.metrics.overlap import cldice, overlap_metrics
from sa2va_ray.metrics.surface import TOLERANCE_PX, hd95_in, surface_metrics
from sa2va_ray.metrics.thresholds import (
    NUM_LEVELS,
    SWEPT_METRICS,
    THRESHOLDS,
    dequantise,
    probability_counts,
    quantise,
    sweep,
)
from sa2va_ray.metrics.topology import betti_errors
from sa2va_ray.metrics.width import WIDTH_EDGES_PX, counts_by_width

__all__ = [
    "CATALOGUE",
    "METRICS",
    "NUM_LEVELS",
    "SWEPT_METRICS",
    "THRESHOLDS",
    "TOLERANCE_PX",
    "VALIDATION_METRICS",
    "WIDTH_EDGES_PX",
    "Interval",
    "Metric",
    "betti_errors",
    "bootstrap_interval",
    "calibration_counts",
    "calibration_errors",
    "cldice",
    "compute_metrics",
    "counts_by_width",
    "dequantise",
    "hd95_in",
    "overlap_metrics",
    "pooled_interval",
    "probability_counts",
    "quantise",
    "surface_metrics",
    "sweep",
]
