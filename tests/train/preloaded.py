"""What the process imports from which all ranks of a session fork: 12 s of a core that each would take."""

from sa2va_ray.interpreter import importing

with importing(without="mlflow"):
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401  # which a first engine imports

    import tests.train.ranks  # noqa: F401
