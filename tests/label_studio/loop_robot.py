"""A robot annotator that corrects what a model drew. Run in the environment of `real.py`, which has the SDK, as

    loop_robot.py URL TOKEN make BACKEND
    loop_robot.py URL TOKEN correct PROJECT FOLDER

`make` makes a project with the S3 store of the environment (`s3://tests/loop`) and an ML back end, and prints its
number.
`correct` draws on each task what `FOLDER/NAME.npy` says, (H, W) uint8 of the truth of the image NAME, begun with the
task's prediction. It leaves the prediction of the first task as it is, and skips the last. It prints, as JSON, what it
did: a list of the number of the annotation, the name of the image, and the seconds that it took.
"""

import json
import os
import sys
from pathlib import Path

import httpx
import numpy as np
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter.brush import mask2rle

INTERFACE = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="blood vessels"/></BrushLabels></View>"""


def make(client: LabelStudio, web: httpx.Client, backend: str) -> int:
    project = client.projects.create(title="loop", label_config=INTERFACE).id
    keys = {name.lower(): os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    place = {"bucket": "tests", "prefix": "loop", "s3_endpoint": os.environ["AWS_ENDPOINT_URL"]}
    settings = {"project": project, "title": "s3", "use_blob_urls": True, "presign": False}
    web.post("/api/storages/s3/", json=keys | place | settings).raise_for_status()
    about = {"url": backend, "project": project, "title": "sa2va"}
    web.post("/api/ml/", json=about).raise_for_status()
    return project


def correct(client: LabelStudio, web: httpx.Client, project: int, folder: Path) -> list[tuple[int, str, float]]:
    as_stored: dict[str, str | int] = {"project": project, "fields": "all", "resolve_uri": "false", "page_size": 100}
    tasks = web.get("/api/tasks", params=as_stored).raise_for_status().json()["tasks"]
    done = []
    for place, task in enumerate(tasks):
        name = Path(task["data"]["image"]).stem
        prediction = task["predictions"][-1]
        seconds = 10.0 + place
        result = prediction["result"] if place == 0 else [drawn(np.load(folder / f"{name}.npy"))]
        more = {"lead_time": seconds, "parent_prediction": prediction["id"], "was_cancelled": place == len(tasks) - 1}
        made = client.annotations.create(id=task["id"], result=result, **more)
        done.append((made.id, name, seconds))
    return done[:-1]


def drawn(mask: np.ndarray) -> dict[str, object]:
    value = {"format": "rle", "rle": mask2rle(mask), "brushlabels": ["blood vessels"]}
    region = {"id": "r", "from_name": "brush", "to_name": "img", "type": "brushlabels", "image_rotation": 0}
    return region | {"original_height": mask.shape[0], "original_width": mask.shape[1], "value": value}


def main(url: str, token: str, what: str, *arguments: str) -> None:
    client = LabelStudio(base_url=url, api_key=token)
    web = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60)
    if what == "make":
        print(make(client, web, *arguments))
    else:
        print(json.dumps(correct(client, web, int(arguments[0]), Path(arguments[1]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
