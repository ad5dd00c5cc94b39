"""Dead letters in the tests of commands."""

PERMANENT = {"category": "permanent", "code": "http_400", "status_code": 400}
DAY = 86_400.0


def reasons(resonant) -> dict[str, str]:
    return {row["event_id"]: row["reason"] for row in resonant.json("dlq")}
