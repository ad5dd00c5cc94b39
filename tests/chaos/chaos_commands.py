"""Victims as a user starts them: commands and flows, on a Prefect server."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import psutil
from chaos_plan import GHOST, PURGING
from chaos_worker import ENDPOINT, POLICY, WIDTH

from support.machine import Machine

if TYPE_CHECKING:
    import subprocess

    from chaos_plan import Victim
    from chaos_round import Round
    from chaos_struck import Struck

_COLLECT = "import asyncio; from flows.dead_letters import collect_dead_letters as run; asyncio.run(run())"
_EXPORT = "import asyncio; from flows.metrics import export_metrics as run; asyncio.run(run())"
# The CPU seconds of the imports: before that, there is no work to hit.
_IMPORTED_AFTER = {"collect": 1.8, "export": 2.0}
_OWNED = f"SELECT 1 AS one FROM resonant_deliveries WHERE lease_owner <> '{GHOST}' LIMIT 1"


class Commands(Machine):
    """Starts victims with a Prefect server, and notices when they have begun."""

    def start_victim(self, victim: Victim, round_: Round, name: str) -> subprocess.Popen[bytes]:
        resonant = [sys.executable, "-m", "resonant"]
        archive = [] if round_.archive is None else ["--archive", str(round_.archive)]
        delivered = ["--delivered-older-than", "0"] if round_.plan.delivered_too else []
        purge = [*resonant, "purge", "--older-than", "0", "--yes", *delivered, *archive]
        enqueue = [*resonant, "enqueue"]
        command = {
            "emit": [*resonant, "emit", "--lane", "task"],
            "auto": [*resonant, "emit", "--lane", "auto"],
            "replay": [*resonant, "replay", "--all", "--include-permanent"],
            "purge": purge,
            "archive": purge,
            "collect": [sys.executable, "-c", _COLLECT],
            "export": [sys.executable, "-c", _EXPORT],
            "enqueue": [*enqueue, str(round_.given_later), "--endpoint", ENDPOINT, "--allow-unknown"],
        }[victim.kind]
        settings = {
            "RESONANT_DATABASE_URL": round_.database.url,
            "RESONANT_HOME": str(round_.folder),
            "RESONANT_LEASE_SECONDS": f"{round_.lease_seconds}",
            "RESONANT_POLICIES": json.dumps({"chaos": asdict(POLICY)}),
            "RESONANT_DEFAULT_POLICY": "chaos",
            "RESONANT_CONCURRENCY": f"{2 * WIDTH}",
            "RESONANT_ENDPOINT_CONCURRENCY": f"{WIDTH}",
        }
        return round_.start_process(name, command, self.environment | settings)

    @staticmethod
    def has_begun(struck: Struck, round_: Round) -> bool:
        kind, query = struck.victim.kind, round_.database.query
        if kind in _IMPORTED_AFTER:
            try:
                times = psutil.Process(struck.process.pid).cpu_times()
            except psutil.NoSuchProcess:
                return True
            return times.user + times.system > _IMPORTED_AFTER[kind]
        if kind in PURGING:
            purged = f"action = 'purge' AND count >= {struck.victim.progress}"
            return bool(query(f"SELECT 1 AS one FROM resonant_audit WHERE {purged}"))
        if kind == "enqueue":
            return bool(query("SELECT 1 AS one FROM resonant_events WHERE id LIKE '%-later-%' LIMIT 1"))
        return bool(query(_OWNED))
