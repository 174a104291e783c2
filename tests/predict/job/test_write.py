"""The workers' last step, without a cluster."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.results import read_rows
from sa2va_ray.predict.job.write import write_block

STEM = "Mueller_Hans/angio/img01"


def block() -> pa.Table:
    mask = np.eye(4, dtype=bool)
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    row = {"id": "a1", "name": f"{STEM}.png", "stem": STEM, "image": buffer.getvalue(), "error": None}
    return pa.Table.from_pylist([row | {"height": 4, "width": 4, "masks": [mask_to_rle(mask)]}])


@pytest.mark.parametrize("in_the_way", ["Mueller_Hans/angio", "Mueller_Hans", "Mueller_Hans/angio/img01.png/x"])
def test_a_picture_that_cannot_be_written_tells_no_part_of_its_name(tmp_path, in_the_way):
    config = PredictConfig(model="m", source=str(tmp_path / "source"), out=str(tmp_path / "out"), keep_names=True)
    file = tmp_path / "out/masks" / in_the_way
    file.parent.mkdir(parents=True)
    file.write_text("a file where a folder has to be, or in a folder where the file has to be")
    with pytest.raises(UserError, match=r"cannot be written to masks/ below `out`") as error:
        write_block(block(), config)
    assert not any(part in str(error.value) for part in ("Mueller", "angio", "img01", str(tmp_path)))
    assert error.value.__cause__ is None
    assert not read_rows(config.out), "no row says that the picture is there"
