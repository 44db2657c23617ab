"""``python -m bucketry.testing.s3_server``: the server as a program of its own."""

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
from pathlib import Path

from bucketry.settings import Secret
from bucketry.testing.s3_server.child_settings import decode_settings
from bucketry.testing.s3_server.running import LOOPBACK, RunningServer
from bucketry.testing.s3_server.service import ServiceSettings
from bucketry.testing.s3_server.signature import Credentials
from bucketry.testing.s3_server.threaded import loop_factory


def main() -> int:
    """Serve until SIGINT or SIGTERM; as a child, until standard input ends."""
    arguments = _parse()
    if arguments.child:
        settings = decode_settings(sys.stdin.readline())
    else:
        try:
            settings = ServiceSettings(
                credentials=_read_access_file(arguments.access_file),
                anonymous=arguments.anonymous,
                region=arguments.region,
                etags=arguments.etags,
            )
        except (OSError, ValueError) as error:
            print(f"{arguments.access_file}: {error}", file=sys.stderr)
            return 2
    # What is loaded now stays for ever. Objects that are stored have no cycles: rare looks suffice.
    gc.freeze()
    gc.set_threshold(50_000)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(settings, arguments))
    except OSError as error:
        print(f"cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(settings: ServiceSettings, arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = RunningServer(settings)
    await server.start(arguments.port, arguments.control_port)
    for name in arguments.bucket:
        await server.command("make_bucket", {"name": name})
    if arguments.child:
        print(server.port, server.control_port, flush=True)
        threading.Thread(target=_wait_for_end, args=(loop, stop), daemon=True).start()
    else:
        print(f"endpoint http://{LOOPBACK}:{server.port}")
        print(f"control  http://{LOOPBACK}:{server.control_port}", flush=True)
    await stop.wait()
    await server.stop()


def _wait_for_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bucketry.testing.s3_server",
        description="An S3 server in memory, for tests, on 127.0.0.1.",
        epilog="example: python -m bucketry.testing.s3_server --port 9000 --bucket mine",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="0 (the default) takes any free one and says which"
    )
    parser.add_argument("--control-port", type=int, default=0, help="where commands are taken")
    parser.add_argument("--bucket", action="append", default=[], help="make this bucket; may be repeated")
    parser.add_argument(
        "--access-file", type=Path, help="lines of accessId:secret; without it, signatures are not looked at"
    )
    parser.add_argument("--anonymous", action="store_true", help="serve requests without a signature too")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument(
        "--etags", choices=("md5", "fast"), default="md5", help="fast: a number for each write"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _read_access_file(path: Path | None) -> tuple[Credentials, ...]:
    if path is None:
        return ()
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        access_id, separator, secret = line.strip().partition(":")
        if not separator or not access_id or not secret:
            raise ValueError(f"line {number} is not accessId:secret")
        found.append(Credentials(access_id, Secret(secret)))
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
