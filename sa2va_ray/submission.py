"""What a process knows of the Ray job that it was submitted as."""

import json
import os

JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the process that `ray job submit` starts, and for no other."""


def is_submitted() -> bool:
    """Whether this process was started by `ray job submit`."""
    return JOB_CONFIG_VARIABLE in os.environ


def submission_id() -> str | None:
    """The id that `ray job logs` and `ray job stop` take; None for a process that was started by hand."""
    config = json.loads(os.environ.get(JOB_CONFIG_VARIABLE, "{}"))
    return config.get("metadata", {}).get("job_submission_id")
