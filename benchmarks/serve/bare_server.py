"""The predictor behind FastAPI and uvicorn alone, one request at a time, as people write it: what `benchmarks.serve`
compares the endpoint with.

    python -m benchmarks.serve.bare_server MODEL PORT THREADS
"""

import io
import sys
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from PIL import Image

from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query


def main() -> None:
    model, port, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    predictor, app = load_predictor(model), FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/segment")
    async def segment(file: UploadFile, prompt: Annotated[str, Form()]) -> dict[str, Any]:
        # On the event loop: in FastAPI's forty threads CUDA would make its handles and plans forty times.
        image = Image.open(io.BytesIO(await file.read()))
        (prediction,) = predictor.predict([Query(image, prompt)])
        return {"text": prediction.text, "masks": [mask_to_rle(mask) for mask in prediction.masks]}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
