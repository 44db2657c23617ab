"""An S3 server in memory for tests: on the loopback interface, with faults, a model of the line, and a bill.

::

    with S3Server() as server:
        server.make_bucket("mine")
        server.plan(Fail("SlowDown"), operation="PutObject", times=3)
        ...  # point the client at server.endpoint
        print(server.snapshot().requests)

See docs/testing.md.
"""

from bucketry.testing.s3_server.controls import Controls
from bucketry.testing.s3_server.exchange import Outage
from bucketry.testing.s3_server.faults import (
    NO_FAULTS,
    Fail,
    Fault,
    FaultRates,
    FlipBit,
    LoseAnswer,
    Reset,
    SlowBody,
    Stall,
    StallAt,
    Truncate,
)
from bucketry.testing.s3_server.ledger import S3_STANDARD, Dollars, PerGib, Prices, Snapshot
from bucketry.testing.s3_server.line import NO_LINE, LineModel
from bucketry.testing.s3_server.process import RemoteControl, S3ServerProcess
from bucketry.testing.s3_server.service import ServiceSettings
from bucketry.testing.s3_server.signature import Credentials
from bucketry.testing.s3_server.threaded import S3Server

__all__ = [
    # The server, and how to talk to it.
    "S3Server", "S3ServerProcess", "RemoteControl", "Controls", "ServiceSettings", "Credentials",
    # What can go wrong.
    "Fault", "Fail", "LoseAnswer", "Reset", "Truncate", "SlowBody", "Stall", "StallAt", "FlipBit",
    "FaultRates", "NO_FAULTS", "Outage",
    # The line.
    "LineModel", "NO_LINE",
    # The bill.
    "Snapshot", "PerGib", "Dollars", "Prices", "S3_STANDARD",
]  # fmt: skip
