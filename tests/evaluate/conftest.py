"""TEMPORARY: development without Ray's processes."""

import os

import numpy as np
import pytest


class Fake:
    def __init__(self, blocks):
        self.blocks = blocks
        self.context = type("C", (), {})()

    def map_batches(self, fn, batch_size=None, fn_constructor_args=(), **_):
        if isinstance(fn, type):
            fn = fn(*fn_constructor_args)
        rows = []

        def blocks():
            for b in self.blocks:
                n = len(next(iter(b.values())))
                s = batch_size or n
                for i in range(0, n, s):
                    out = fn(
                        {
                            k: np.array(v[i : i + s], dtype=object)
                            if isinstance(v[0], (dict, str, bytes))
                            else np.array(v[i : i + s])
                            for k, v in b.items()
                        }
                    )
                    yield out

        return Fake(list(blocks()))

    def materialize(self):
        return self

    def iter_rows(self):
        for b in self.blocks:
            for vals in zip(*b.values()):
                yield dict(zip(b, vals))


def frange(n, override_num_blocks=1):
    return Fake([{"id": np.array(x)} for x in np.array_split(np.arange(n), override_num_blocks)])


@pytest.fixture(scope="session")
def ray_cluster():
    import ray.data

    ray.data.range = frange
    ray.is_initialized = lambda: True
    os.environ["AWS_ENDPOINT_URL"] = "x"


@pytest.fixture(scope="session")
def exported_uri(ray_cluster):
    return "/tmp/sc/model"


@pytest.fixture(scope="session")
def prepared_uri(ray_cluster, tmp_path_factory):
    return "/tmp/sc/ev_prep"


@pytest.fixture
def bucket_uri(tmp_path):
    return str(tmp_path / "bucket")
