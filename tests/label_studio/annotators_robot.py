"""Several robot annotators of one project. Run in the environment of `real.py`, which has the SDK, as

    annotators_robot.py URL TOKEN FOLDER

The user of TOKEN makes a project and uploads `FOLDER/*.png`. Each folder `FOLDER/WHO` is a person, who signs up at the
server's own page, and draws under an account of its own on each image what `FOLDER/WHO/NAME.npy` says, (H, W) uint8. A
name that ends in `_twice.npy` is drawn a second time, as it were by mistake. Prints, as JSON, the number of the
project, the number of each person's account, and of each image and person that of the annotation.
"""

import json
import sys
from pathlib import Path

import httpx
import numpy as np
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter.brush import mask2rle

INTERFACE = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="blood vessels"/></BrushLabels></View>"""


def sign_up(url: str, who: str) -> LabelStudio:
    """A new account, as a person makes one in a browser."""
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
        browser.get("/user/signup/").raise_for_status()
        form = {"email": f"{who}@example.org", "password": f"{who}-draws-well", "how_find_us": "", "elaborate": ""}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        browser.post("/user/signup/", data=form, headers={"Referer": f"{url}/user/signup/"}).raise_for_status()
        token = browser.get("/api/current-user/token").raise_for_status().json()["token"]
    return LabelStudio(base_url=url, api_key=token)


def upload(url: str, token: str, project: int, folder: Path) -> dict[str, int]:
    """The number of each image's task."""
    web = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60)
    for image in sorted(folder.glob("*.png")):
        web.post(f"/api/projects/{project}/import", files={"file": (image.name, image.read_bytes())}).raise_for_status()
    query: dict[str, str | int] = {"project": project, "fields": "all", "resolve_uri": "false", "page_size": 100}
    tasks = web.get("/api/tasks", params=query).raise_for_status().json()["tasks"]
    return {Path(task["data"]["image"]).stem.rpartition("-")[2]: task["id"] for task in tasks}


def draw(client: LabelStudio, task: int, mask: np.ndarray) -> int:
    value = {"format": "rle", "rle": mask2rle(mask), "brushlabels": ["blood vessels"]}
    region = {"id": "r", "from_name": "brush", "to_name": "img", "type": "brushlabels", "image_rotation": 0}
    size = {"original_height": mask.shape[0], "original_width": mask.shape[1]}
    return client.annotations.create(id=task, result=[region | size | {"value": value}], lead_time=3.0).id


def main(url: str, token: str, folder: Path) -> None:
    project = LabelStudio(base_url=url, api_key=token).projects.create(title="several", label_config=INTERFACE).id
    tasks = upload(url, token, project, folder)
    users: dict[str, int] = {}
    annotations: dict[str, dict[str, int]] = {name: {} for name in tasks}
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        client = sign_up(url, person.name)
        users[person.name] = client.users.whoami().id
        for drawn in sorted(person.glob("*.npy")):
            name = drawn.stem.removesuffix("_twice")
            annotations[name][person.name] = draw(client, tasks[name], np.load(drawn))
    print(json.dumps({"project": project, "users": users, "annotations": annotations}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
