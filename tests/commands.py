"""The command line as the tests call it."""

import io
import shlex

from typer.testing import CliRunner

from skvae import cli
from skvae.data.source import read


def run(*words, data=None):
    """What a command line does, written in one piece or in several, with `data` on standard input."""
    return CliRunner().invoke(cli.app, shlex.split(" ".join(words)), input=data, prog_name="skvae")


def done(*words, data=None):
    """The same, which is to succeed."""
    result = run(*words, data=data)
    assert result.exit_code == 0, result.stderr
    return result


def answer(*words, data=None, text=()):
    """The table that it writes to standard output."""
    return read(io.BytesIO(done(*words, data=data).stdout_bytes), text=text)
