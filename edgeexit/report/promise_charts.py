"""Charts of the promises: measured against promised loss, and the cost of keeping each promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeexit.calibrate.sweep import Promise, Sweep
from edgeexit.report.chart import UNIT, Axis, Chart, Mark, Series, log_ticks
from edgeexit.report.text.promises import LOSS_COLOURS, by_guarantee, status


def loss_chart(sweep: Sweep) -> Chart:
    """Loss on the held-out rows against alpha, both logarithmic. Needs at least one promise."""
    x = _alpha_axis(sweep)
    losses = [p.loss_high for p in sweep.promises if p.loss_high is not None]
    floor, top = least_loss(sweep), max([x.high, *(1.1 * v for v in losses)])
    y = Axis("loss measured", floor, top, log_ticks(floor, top), log=True, percent=True)
    return Chart("promised and measured", x, y, _series(sweep, _loss), limit=True)


def cost_chart(sweep: Sweep) -> Chart:
    """Mean cost on the held-out rows against alpha. Needs at least one promise."""
    cost = Axis("cost measured", 0, 1.05, UNIT, percent=True)
    return Chart("what it costs", _alpha_axis(sweep), cost, _series(sweep, _cost))


def least_loss(sweep: Sweep) -> float:
    """The least loss that the logarithmic axis tells from 0."""
    return min(p.alpha for p in sweep.promises) / 10


def _alpha_axis(sweep: Sweep) -> Axis:
    """The alphas as ticks, without those that would run into the one before."""
    alphas = sorted({p.alpha for p in sweep.promises})
    low, high = alphas[0] / 1.5, min(alphas[-1] * 1.5, 1.0)
    axis, ticks = Axis("", low, high, (), log=True), list[float]()
    for alpha in alphas:
        if not ticks or axis.share(alpha) - axis.share(ticks[-1]) > 0.11:
            ticks.append(alpha)
    return Axis("alpha promised", low, high, tuple(ticks), log=True, percent=True)


def _series(sweep: Sweep, mark: Callable[[Promise], Mark | None]) -> tuple[Series, ...]:
    """One per guarantee; one that has no marks says why."""
    return tuple(
        Series(
            _label(label, ps), tuple(m for p in ps if (m := mark(p))), LOSS_COLOURS[ps[0].what], ps[0].method == "crc"
        )
        for label, ps in by_guarantee(sweep).items()
    )


def _label(label: str, promises: Sequence[Promise]) -> str:
    return label if any(p.loss is not None for p in promises) else f"{label} (refused)"


def _loss(p: Promise) -> Mark | None:
    return None if p.loss is None else Mark(p.alpha, p.loss, p.loss_low, p.loss_high, _title(p))


def _cost(p: Promise) -> Mark | None:
    return None if p.cost is None else Mark(p.alpha, p.cost, title=_title(p))


def _title(p: Promise) -> str:
    measured = "refused" if p.loss is None else f"measured {100 * p.loss:.2f} %"
    return f"{p.label}: alpha {100 * p.alpha:.3g} %, {measured}, {status(p)}"
