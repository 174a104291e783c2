"""The guard of tests/marks.py."""

import pytest
import ray


def test_a_unit_test_cannot_start_ray():
    with pytest.raises(pytest.fail.Exception, match=r"mark it @pytest\.mark\.cluster"):
        ray.init()
