"""``bucketry refresh``: a read-only disk sees what its writer has written since."""

from pathlib import Path

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.cli.info import find_serving
from bucketry.cli.parameters import directory_argument
from bucketry.serve.control_client import ask
from bucketry.serve.runtime import files_of


@click.command(
    cls=Command,
    examples=["bucketry refresh /mnt/data"],
    exits=[exits.OK, exits.FAILED, exits.USAGE, exits.NOT_FOUND, exits.LOST],
)
@directory_argument
def refresh(directory: Path) -> None:
    """Have the read-only disk on DIR see what has been written since.

    What it has cached is forgotten. A filesystem that is mounted from it keeps caches of its own: unmount and
    mount that anew.
    """
    ask(files_of(find_serving(directory).mount_point).socket, "refresh")
