"""sa2va_ray: prepare data, train, export, evaluate and serve Sa2VA for vessel segmentation, on Ray."""

__version__ = "0.1.0"
