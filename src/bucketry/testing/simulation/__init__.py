"""Whole machines on virtual time: real disks, leases and caches over a store with faults, and somebody who
watches that every promise is kept.

``python -m bucketry.testing.simulation --seeds 1..1000`` runs many; ``--seed 17 -v`` tells the course of one.
One seed is one course of events, on every machine. What is promised is written in docs/semantics.md; how it
is checked in ``history`` and ``witness``.
"""

from bucketry.testing.simulation.run import Report, simulate, simulate_many

__all__ = ["Report", "simulate", "simulate_many"]
