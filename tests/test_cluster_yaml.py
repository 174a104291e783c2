"""cluster.yaml against Ray's own schema and checks, those that `ray up` runs before it starts anything."""

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent


def test_ray_up_accepts_it():
    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    kinds = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    assert kinds["head"]["CPU"] == 0
    assert kinds["gpu"]["GPU"] == 4
    assert "GPU" not in kinds["cpu_data"]
