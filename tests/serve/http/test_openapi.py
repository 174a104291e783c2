"""What /openapi.json promises holds for requests that are made from it, right ones and wrong ones."""

import subprocess
from pathlib import Path

from fastapi import FastAPI

from sa2va_ray.demo.stack import SCRIPTS_DIR
from sa2va_ray.serve.http.routes import open_inference

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]


def test_a_route_without_a_key_promises_no_refusal_of_one():
    app = FastAPI()
    app.include_router(open_inference.router)
    responses = {path: set(methods["get"]["responses"]) for path, methods in app.openapi()["paths"].items()}
    assert {path for path, statuses in responses.items() if statuses & {"401", "429"}} == {
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
    }


def test_no_server_error_and_no_reply_that_is_not_listed(endpoint: str, tmp_path: Path):
    command = [
        *(SCRIPTS_DIR / "schemathesis", "run", f"{endpoint}/openapi.json", "--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "7"),
        *("--continue-on-failure", "--request-timeout", "60", "--suppress-health-check", "all", "--no-color"),
    ]
    result = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout
    assert "Unresolvable" not in result.stdout, result.stdout
