"""The bootstrap of a Prefect server, in this process."""

import subprocess

from typer import Typer

from deployments import bootstrap
from support.commands import run_in_process
from support.machine import Machine
from support.pages import PROJECT

_PROGRAM = Typer(add_completion=False, pretty_exceptions_enable=False)
_PROGRAM.command()(bootstrap.main)


def run_bootstrap(
    machine: Machine, *options: str, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m deployments.bootstrap`` with these options."""
    return run_in_process(options, machine.environment | variables, PROJECT, typed, program=_PROGRAM)
