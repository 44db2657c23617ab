"""Going on in the background: the caller waits until the child is ready or has failed, and hears why.

The child is forked before any thread, event loop or bucket client exists, since none of those survives a
fork."""

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

#: What the child tells its parent. With ``notice``, a line for whoever waits, and more will come. Otherwise
#: it is the last: ``ready`` is a bool; when it is false the child is about to end, and the other entries say
#: why, in the words of the command line.
Report = Mapping[str, object]
#: Somebody who pressed Ctrl-C waits no longer than this for a bucket that does not answer.
_PATIENCE_SECONDS = 3.0
#: By which a command that waits is ended: by timeout(1) or a service manager, and with its terminal.
_GIVE_UP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
#: The command line's code for an interruption.
INTERRUPTED_EXIT_CODE = 130
Announce = Callable[[Report], None]


def run_in_background(
    body: Callable[[Announce], int], *, output: int | None, say: Callable[[str], None] = lambda _: None
) -> Report | None:
    """Run ``body(announce)`` in a child process that outlives this one, and return what it announces last;
    None when it ended without a word. ``say`` is called with each notice before. ``output`` is a descriptor
    that takes its standard output and error (None: nobody listens).

    The child leaves this session and its terminal, works in ``/`` and ends with ``body``'s return value as
    exit code. When this process is interrupted while it waits (SIGINT, SIGTERM, SIGHUP), the child is stopped
    and waited for: nothing is attached behind the back of who gave up. KeyboardInterrupt is raised then, and
    when the child is interrupted."""
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _be_a_daemon(body, sending, output)
    os.close(sending)
    try:
        with os.fdopen(receiving, "rb") as pipe, _interrupted_by(*_GIVE_UP_SIGNALS):
            report: Report | None = None
            while line := pipe.readline():
                report = json.loads(line)
                assert report is not None
                if "notice" not in report:
                    break
                say(str(report["notice"]))
                report = None
    except BaseException:
        _stop(child)
        raise
    if report is None or not report["ready"]:
        _, status = os.waitpid(child, 0)
        if report is None and os.waitstatus_to_exitcode(status) == INTERRUPTED_EXIT_CODE:
            raise KeyboardInterrupt
    return report


@contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """These signals raise KeyboardInterrupt in the block, as SIGINT does. Only the main thread can say so; in
    another one, and for a signal that is ignored (nohup), nothing changes."""
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(child: int) -> None:
    """See the child go: asked to clean up, and after a while not to wait for anything."""
    ended = os.pidfd_open(child)
    try:
        os.kill(child, signal.SIGTERM)
        if not select.select([ended], [], [], _PATIENCE_SECONDS)[0]:
            os.kill(child, signal.SIGTERM)
    finally:
        os.close(ended)
    os.waitpid(child, 0)


def _be_a_daemon(body: Callable[[Announce], int], sending: int, output: int | None) -> None:
    """The child's whole life. Never returns: the parent's clean-up at exit is not its business."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing if output is None else output, 1)
        os.dup2(nothing if output is None else output, 2)
        code = body(_announcer(sending))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _announcer(sending: int) -> Announce:
    pending = [sending]

    def announce(report: Report) -> None:
        if not pending:
            return
        try:
            os.write(pending[0], json.dumps(report).encode() + b"\n")
        except BrokenPipeError:
            pass  # the parent was killed; the disk is served all the same
        if "notice" not in report:
            os.close(pending.pop())

    return announce
