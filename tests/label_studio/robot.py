"""A robot annotator. Run in the environment of `real.py`, which has Label Studio's SDK, as

    robot.py URL TOKEN FOLDER

It makes a project, and uploads `FOLDER/*.png` but for the first, which the server reads from the disk, and the second,
which it reads from the S3 store of the environment, at `s3://tests/robot`. It draws on each with the brush what
`FOLDER/*.npy` says, (H, W) uint8 of how much of a pixel is covered; on the last a polygon instead. Then it writes
`export.json`, `export_min.json`, and what the SDK's own converter reads of each brush in the export as
`FOLDER/sdk/*.npy`, and prints the number of the project.
"""

import json
import os
import sys
from pathlib import Path

import httpx
import numpy as np
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter.brush import decode_rle, mask2rle

INTERFACE = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="blood vessels"/></BrushLabels>
<PolygonLabels name="polygon" toName="img"><Label value="blood vessels"/></PolygonLabels></View>"""
LABELS = ["blood vessels"]
POINTS = [[10, 10], [60, 20], [40, 70]]


def main(url: str, token: str, folder: Path) -> None:
    images = sorted(folder.glob("*.png"))
    client = LabelStudio(base_url=url, api_key=token)
    project = client.projects.create(title="vessels", label_config=INTERFACE).id
    web = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60)
    for path in (on_disk(web, project, images[0]), on_s3(web, project, images[1])):
        web.post(f"/api/projects/{project}/import", json=[{"data": {"image": path}}]).raise_for_status()
    for image in images[2:]:
        web.post(f"/api/projects/{project}/import", files={"file": (image.name, image.read_bytes())}).raise_for_status()
    as_stored = {"project": project, "fields": "all", "resolve_uri": "false", "page_size": 100}
    listed = web.get("/api/tasks", params=as_stored).raise_for_status().json()["tasks"]
    tasks = {name_of(task["data"]["image"]): task["id"] for task in listed}
    for image in images[:-1]:
        drawn = np.load(image.with_suffix(".npy"))
        value = {"format": "rle", "rle": mask2rle(drawn), "brushlabels": LABELS}
        draw(client, tasks[image.name], "brush", drawn.shape, value)
    drawn = np.load(images[-1].with_suffix(".npy"))
    draw(client, tasks[images[-1].name], "polygon", drawn.shape, {"points": POINTS, "polygonlabels": LABELS})
    for name, kind in (("export.json", "JSON"), ("export_min.json", "JSON_MIN")):
        reply = web.get(f"/api/projects/{project}/export", params={"exportType": kind}).raise_for_status()
        (folder / name).write_bytes(reply.content)
    decode(folder)
    print(project)


def on_disk(web: httpx.Client, project: int, image: Path) -> str:
    """What a task calls it, once the server may read its folder."""
    disk = {"project": project, "path": str(image.parent), "title": "disk", "use_blob_urls": True}
    web.post("/api/storages/localfiles/", json=disk).raise_for_status()
    return f"/data/local-files/?d={image.parent.name}/{image.name}"


def on_s3(web: httpx.Client, project: int, image: Path) -> str:
    """The same, once the server may read the bucket. It hands its files on itself."""
    keys = {name.lower(): os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    place = {"bucket": "tests", "prefix": "robot", "s3_endpoint": os.environ["AWS_ENDPOINT_URL"]}
    settings = {"project": project, "title": "s3", "use_blob_urls": True, "presign": False}
    web.post("/api/storages/s3/", json=keys | place | settings).raise_for_status()
    return f"s3://tests/robot/{image.name}"


def name_of(image: str) -> str:
    return image.rpartition("/")[2].rpartition("-")[2]


def draw(client: LabelStudio, task: int, tag: str, shape: tuple[int, ...], value: dict[str, object]) -> None:
    region = {"id": "r", "from_name": tag, "to_name": "img", "type": f"{tag}labels", "image_rotation": 0}
    size = {"original_height": shape[0], "original_width": shape[1]}
    client.annotations.create(id=task, result=[region | size | {"value": value}], lead_time=2.5)


def decode(folder: Path) -> None:
    (folder / "sdk").mkdir()
    for task in json.loads((folder / "export.json").read_text()):
        (region,) = task["annotations"][0]["result"]
        if region["type"] == "brushlabels":
            rgba = decode_rle(region["value"]["rle"])
            alpha = rgba.reshape(region["original_height"], region["original_width"], 4)[..., 3]
            np.save(folder / "sdk" / Path(name_of(task["data"]["image"])).with_suffix(".npy"), alpha)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
