"""`sa2va-ray`: each verb as a command, and what helps around them."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import click
from click.shell_completion import CompletionItem, get_completion_class

from sa2va_ray import __version__
from sa2va_ray.config import Config, UserError
from sa2va_ray.config_keys import list_keys
from sa2va_ray.console.connection import Connection, print_connection
from sa2va_ray.console.curves import show_curves
from sa2va_ray.console.usage import usage
from sa2va_ray.console.verbs import INTERRUPTED, VERBS, end_in_order_when_stopped, run_verb
from sa2va_ray.console.viewer import show

P = ParamSpec("P")
_NAME = "sa2va-ray"
_HELP = {"help_option_names": ["-h", "--help"]}


class _Group(click.Group):
    """Lists its commands in the order of the work, and not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class _Settings(click.ParamType):
    """YAML files and key=value, of which the shell completes the keys of the config class."""

    name = "settings"

    def __init__(self, config_class: Callable[[], type[Config]]):
        self._config_class = config_class

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        keys = [f"{key}=" for key in list_keys(self._config_class())]
        return [CompletionItem(key) for key in keys if key.startswith(incomplete)] or [
            CompletionItem(incomplete, type="file")
        ]


class _Verb(click.Command):
    """One of `VERBS`. Its `--help` is that of its config class."""

    def __init__(self, name: str):
        self._verb = VERBS[name]
        super().__init__(
            name,
            params=[click.Argument(["settings"], nargs=-1, type=_Settings(lambda: self._verb.config_class))],
            callback=lambda settings: run_verb(name, settings),
            short_help=re.split(r"[:;]|\. ", self._verb.summary)[0].rstrip(".") + ".",
            context_settings=_HELP | {"ignore_unknown_options": True},  # `Config.load` says how keys are written
        )

    def get_help(self, ctx: click.Context) -> str:
        return usage(self.name or "", self._verb.summary, self._verb.examples, self._verb.config_class)


def _ends_in_a_message(run: Callable[P, None]) -> Callable[P, None]:
    @wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        end_in_order_when_stopped()
        try:
            run(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_status) from None
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None

    return wrapped


@click.group(cls=_Group, context_settings=_HELP)
@click.version_option(__version__, prog_name=_NAME)
def main() -> None:
    """Fine-tunes, evaluates and serves Sa2VA for vessel segmentation, on Ray.

    A verb takes YAML files, each laid over those before it, and key=value. It runs here, on the cluster that
    RAY_ADDRESS names or else on one that it starts; on a cluster elsewhere it runs by

      ray job submit --working-dir . -- python -m jobs.VERB ...

    How this shell reaches a cluster and a store: sa2va-ray env --help
    """


for _verb in VERBS:
    main.add_command(_Verb(_verb))


@main.command(context_settings=_HELP, short_help="Prints the lines that connect a shell to a cluster.")
@click.argument("settings", nargs=-1, type=_Settings(lambda: Connection))
@_ends_in_a_message
def env(settings: Sequence[str]) -> None:
    """Prints the lines that connect a shell to a cluster and a store.

    \b
      eval "$(sa2va-ray env)"                    to those of `make demo`, in its folder
      eval "$(sa2va-ray env my_cluster.yaml)"    to others, whose keys stand in a file
      eval "$(sa2va-ray env dashboard=http://127.0.0.1:8265 token_file=~/.ray/auth_token)"

    The lines say what each is for and hold no secret: they name the files that do. On stderr stands what answers.

    \b
    Keys:
      dashboard          where `ray job submit` and `serve deploy` go: http://HOST:8265
      address            where a verb by hand goes, on a machine of the cluster: HOST:6379
      token_file         of Ray's token; `ray get-auth-token --generate` makes ~/.ray/auth_token
      store_endpoint     URL of an S3 store that is not Amazon's
      store_region       its region
      store_credentials  file with its keys, like ~/.aws/credentials
    """
    print_connection(settings)


@main.command(name="open", context_settings=_HELP, short_help="Shows a result in the browser.")
@click.argument("uri")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Of 127.0.0.1; a free one by default.")
@_ends_in_a_message
def open_(uri: str, port: int) -> None:
    """Shows a result in the browser: a report, a picture, a run, a folder, on s3:// or here.

    \b
      sa2va-ray open s3://bucket/evaluations/NAME
      sa2va-ray open s3://bucket/runs/NAME        the page of a run, which follows it while it goes

    The page is served to this machine alone, at an address that nobody can guess, until Ctrl-C. From another desk:
    ssh -L PORT:127.0.0.1:PORT HOST, and the same address there.
    """
    show(uri, port)


@main.command(context_settings=_HELP, short_help="Shows the curves of runs in TensorBoard.")
@click.argument("uri")
@click.option("--port", default=6006, type=click.IntRange(1, 65535), help="Of 127.0.0.1; 6006 by default.")
@_ends_in_a_message
def tensorboard(uri: str, port: int) -> None:
    """Shows the curves of a run, or of all runs of a folder, in TensorBoard. It follows them while they go."""
    show_curves(uri, port)


@main.command(context_settings=_HELP, short_help="Prints what lets a shell complete verbs and keys.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Prints what lets a shell complete verbs and keys.

    \b
      eval "$(sa2va-ray completion bash)"     in ~/.bashrc, say
    """
    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(main, {}, _NAME, "_SA2VA_RAY_COMPLETE").source())
