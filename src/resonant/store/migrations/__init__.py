"""The migrations since Resonant 0.1.0, whose schema has the version 0008. ``schema`` has the tables after the last one."""

from resonant.store.migrations import v0009_one_ladder_of_counts, v0010_no_signers

MIGRATIONS = {"0009": v0009_one_ladder_of_counts.upgrade, "0010": v0010_no_signers.upgrade}
