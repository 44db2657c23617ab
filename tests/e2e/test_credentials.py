"""Keys are replaced while a disk is in use: no error, nothing lost, no secret anywhere."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bucketry.settings import Secret
from bucketry.testing.s3_server import Credentials, S3ServerProcess, ServiceSettings
from e2e.places import Place
from e2e.program import Program, run_tool, wait_until
from servers.issuer import WAYS, Issuer
from servers.loopback import serve

pytestmark = pytest.mark.system

#: Between two sets of keys, and from the end of the old ones to the issue of the new ones.
_LIFE_SECONDS = 0.7
_GAP_SECONDS = 0.1
#: Then the last ones stay, so that a busy machine is not kept busy.
_TURNS_MAX = 6
#: In every secret, so that it can be looked for.
_MARK = "geheim"
_FIO = (
    "--name=rotation", "--ioengine=psync", "--rw=randwrite", "--bs=16k", "--size=4m", "--fsync=16",
    "--verify=crc32c", "--verify_fatal=1", "--randseed=5",
)  # fmt: skip


def _credentials(number: int, *, has_token: bool = True) -> Credentials:
    token = Secret(f"{_MARK}token{number}") if has_token else None
    return Credentials(f"AKID{number}", Secret(f"{_MARK}key{number}"), token)


class Rotation:
    """A server whose keys are replaced again and again, the old ones first, and who issues them."""

    def __init__(self, server: S3ServerProcess, issuer: Issuer, *, has_token: bool) -> None:
        self._server = server
        self._issuer = issuer
        self._has_token = has_token
        self._stop = threading.Event()
        self.count = 0

    def turn(self) -> None:
        """The next keys."""
        self.count += 1
        keys = _credentials(self.count, has_token=self._has_token)
        self._server.set_credentials(keys)
        self._stop.wait(_GAP_SECONDS)
        self._issuer.issue(keys)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Keys are replaced while the block runs."""
        thread = threading.Thread(target=self._rotate, name="rotation")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._stop.clear()

    def _rotate(self) -> None:
        for _ in range(_TURNS_MAX):
            if self._stop.wait(_LIFE_SECONDS):
                return
            self.turn()


@pytest.mark.parametrize("way", WAYS)
def test_keys_are_replaced_under_fio(program: Program, tmp_path: Path, way: str) -> None:
    """fio writes, flushes and verifies while the server replaces its keys over and over; a cold start reads
    the same. The log names where the keys come from, and shows none."""
    issuer = Issuer(tmp_path / "issuer")
    first = _credentials(0, has_token=way != "access file")
    settings = ServiceSettings(credentials=(first,))
    with S3ServerProcess(settings) as server, serve(issuer.answer) as services:
        server.make_bucket("bucket")
        rotation = Rotation(server, issuer, has_token=way != "access file")
        rotation.turn()
        options, environment = WAYS[way](issuer, services.endpoint)
        program.environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), **environment}
        place = Place("s3://bucket/disk", ["--endpoint", server.endpoint, *options])
        program.create(place, "4M")
        disk = tmp_path / "disk"
        with program.attached(place, disk) as file:
            with rotation.going_on():
                run_tool("fio", *_FIO, f"--filename={file}", "--rate=2m", "--do_verify=1")
            assert rotation.count >= 3
            log = program.log(disk)
            assert re.search(r"new credentials from (access file|AWS)", log)
            assert _MARK not in log
        with program.attached(place, disk) as file:
            run_tool("fio", *_FIO, f"--filename={file}", "--verify_only")
        told = program.run("--debug", "info", place.url, *place.options)
        assert _MARK not in told.stdout + told.stderr


def test_keys_are_replaced_under_a_filesystem(program: Program, tmp_path: Path) -> None:
    """The same with ext4 on the disk, mounted."""
    issuer = Issuer(tmp_path / "issuer")
    with S3ServerProcess(ServiceSettings(credentials=(_credentials(0, has_token=False),))) as server:
        server.make_bucket("bucket")
        rotation = Rotation(server, issuer, has_token=False)
        rotation.turn()
        access_file = ["--access-file", str(issuer.access_file)]
        place = Place("s3://bucket/disk", ["--endpoint", server.endpoint, *access_file])
        program.create(place, "64M")
        mount_point = tmp_path / "mnt"
        with program.mounted(place, mount_point, "--mkfs", "ext4") as root, rotation.going_on():
            run_tool("fio", *_FIO, f"--filename={root}/data", "--rate=2m", "--do_verify=1")
        with program.mounted(place, mount_point) as root:
            run_tool("fio", *_FIO, f"--filename={root}/data", "--verify_only")


def test_sighup_reads_the_keys_again(program: Program, tmp_path: Path) -> None:
    """SIGHUP takes new keys and ends nothing; a file that is wrong is named, and the old keys stay, for
    umount too."""
    issuer = Issuer(tmp_path / "issuer")
    keys = [_credentials(number, has_token=False) for number in range(2)]
    with S3ServerProcess(ServiceSettings(credentials=tuple(keys))) as server:
        server.make_bucket("bucket")
        issuer.issue(keys[0])
        access_file = ["--access-file", str(issuer.access_file)]
        place = Place("s3://bucket/disk", ["--endpoint", server.endpoint, *access_file])
        program.create(place, "4M")
        disk = tmp_path / "disk"
        with program.attached(place, disk) as file:
            program.hang_up(disk)
            wait_until(lambda: "credentials read again: the same" in program.log(disk), "the same keys")
            issuer.issue(keys[1])
            program.hang_up(disk)
            wait_until(lambda: "credentials read again: new ones" in program.log(disk), "new keys")
            server.set_credentials(keys[1])
            run_tool("fio", *_FIO, f"--filename={file}", "--do_verify=1")
            assert "Refused" not in program.log(disk)
            issuer.access_file.write_text(f"{_MARK}\n")
            program.hang_up(disk)
            wait_until(lambda: "SIGHUP: access file" in program.log(disk), "a wrong file")
            run_tool("fio", *_FIO, f"--filename={file}", "--do_verify=1")
            assert _MARK not in program.log(disk)


def test_a_wrong_endpoint_shows_at_every_start(program: Program, tmp_path: Path) -> None:
    """attach and mount fail with cause and endpoint, and leave nothing behind."""
    issuer = Issuer(tmp_path / "issuer")
    issuer.issue(_credentials(0))
    with serve(issuer.answer) as server:
        pass
    disk = tmp_path / "disk"
    disk.mkdir()
    place = ("--endpoint", server.endpoint, "--access-file", issuer.access_file)
    for command in ("attach", "mount"):
        told = program.run(command, "s3://bucket/disk", disk, *place, code=1).stderr
        assert f"connection refused (endpoint {server.endpoint})" in told
        assert told.count("\n") == 1
    assert list((tmp_path / "run").glob("*.json")) == []
