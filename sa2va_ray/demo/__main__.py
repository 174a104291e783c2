"""The main job, end to end, on this machine: `make demo`, ended by `make stop`.

python -m sa2va_ray.demo run [--data FOLDER] [key=value ...]   overrides go to jobs.train
python -m sa2va_ray.demo stop
"""

import argparse
import sys
from pathlib import Path

from sa2va_ray.config import UserError
from sa2va_ray.demo.connection_file import STATE_DIR
from sa2va_ray.demo.run import run
from sa2va_ray.demo.stack import Stack

OUTPUT_DIR = Path("demo_output")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sa2va_ray.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run the main job and leave its endpoint up")
    running.add_argument(
        "--data", type=Path, help="a data set in any layout that jobs.prepare reads; synthetic images by default"
    )
    running.add_argument("overrides", nargs="*", help="key=value for jobs.train")
    commands.add_parser("stop", help="stop what the demo started")
    arguments = parser.parse_args()
    if arguments.command == "stop":
        print("> end the services; what lies in the store stays, also through the next make demo (but s3://sa2va/demo)")
        Stack.load(STATE_DIR).stop()
        return
    try:
        run(STATE_DIR, OUTPUT_DIR, arguments.data, arguments.overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
