"""Draws the attempts of a day: delivered ones upwards, failed ones downwards."""

from collections.abc import Sequence

from markupsafe import Markup

from resonant.store.counts.recent import Attempts

_SVG = Markup(
    '<svg class="spark" width="96" height="28" viewBox="0 0 96 28" role="img" aria-label="Attempts by hour in the last day: {:,} '
    'delivered (up), {:,} failed (down)"><path d="{}"/><path class="bad" fill="currentColor" d="{}"/></svg>'
)


def spark(hours: Sequence[Attempts]) -> Markup:
    """Return a drawing of the attempts of each hour, with its text."""
    most = max(1, *(max(each.delivered, each.failed) for each in hours))
    sums = sum(each.delivered for each in hours), sum(each.failed for each in hours)
    up = [
        f"M{4 * n} 18v{-1 - 17 * each.delivered / most:.1f}h3V18z"
        for n, each in enumerate(hours)
        if each.delivered
    ]
    down = [
        f"M{4 * n} 19v{1 + 8 * each.failed / most:.1f}h3V19z" for n, each in enumerate(hours) if each.failed
    ]
    return _SVG.format(*sums, "".join(up), "".join(down))
