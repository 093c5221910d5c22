"""Options of a calibration, gathered into specs: target, policy family with its own options, split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click

from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.families import DEFAULT_FAMILY, all_families, family_of
from edgeexit.calibrate.guarantees.risk import METHODS, Guarantee
from edgeexit.calibrate.search.family import PolicyFamily
from edgeexit.calibrate.spec import CalibrationSpec, Split, Target
from edgeexit.errors import PolicyError
from edgeexit.policy.scores import NAMES, score_named
from edgeexit.policy.sets import SET_MODES

Command = Callable[..., None]


def _score(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    return None if name is None else score_named(name).name


_OPTIONS = (
    click.option(
        "--score",
        callback=_score,
        metavar="NAME",
        help=f"Score that thresholds compare: {', '.join(NAMES)}. "
        "[default: the artifact's; qute: what ranks errors best]",
    ),
    click.option("--budget", help="Mean cost per input: 0.3 of the last exit's, 4MMACs, or 2.5ms on this device."),
    click.option("--accuracy", type=float, help="Least accuracy, a fraction in (0, 1]."),
    click.option(
        "--accuracy-drop", type=float, help="Most accuracy to lose against the last exit, a fraction, e.g. 0.01."
    ),
    click.option(
        "--guarantee", metavar="LOSS<=A@C", help="Bound to be certified, e.g. accuracy_gap<=0.01@0.95; see below."
    ),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        help="Statistical test of --guarantee: fixed sequence, betting bound, or (weaker, no confidence) conformal "
        "risk control. [default: ltt]",
    ),
    click.option(
        "--sets", type=float, metavar="ALPHA", help="Also calibrate prediction sets that miss at most this share."
    ),
    click.option(
        "--set-mode",
        type=click.Choice(SET_MODES),
        help="Where --sets hold: at any exit, at each exit taken, or over all inputs. [default: nested]",
    ),
    click.option(
        "--selective",
        metavar="cov@R|risk@C",
        help="For policies that reject inputs: most coverage at risk R, or least risk at coverage C.",
    ),
)


class CalibrationCommand(click.Command):
    """A command with the options of all policy families, those of other packages included."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options with the families' after "selective"."""
        params = super().get_params(ctx)
        names = [p.name for p in params]
        first, after = names.index("score"), names.index("selective") + 1
        return [*params[:first], _policy_option(), *params[first:after], *_family_options(), *params[after:]]


def calibration_options(command: Command) -> Command:
    """Options of target, policy and prediction sets; the command gets them as `spec`. Needs `CalibrationCommand`."""

    @functools.wraps(command)
    def gathered(**values: Any) -> None:
        own = {f.name for family in _families() for f in fields(family.options)}
        names = {"policy", "score", "method", "sets", "set_mode", *own, *(f.name for f in fields(Target))}
        spec = _spec({name: values.pop(name) for name in names})
        command(spec=spec, **values)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


def split_options(
    share: str = "Share of the rows to choose on; the rest measures.", seed: str = "Seed of that split."
) -> Callable[[Command], Command]:
    """--design and --seed; the command gets them as `split`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(*, design: float, seed: int, **values: Any) -> None:
            command(split=Split(design, seed), **values)

        gathered = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help=seed)(gathered)
        return click.option("--design", type=float, default=0.5, show_default=True, help=share)(gathered)

    return decorate


def _spec(values: Mapping[str, Any]) -> CalibrationSpec:
    """The spec of the options' values; None = not given."""
    policy, guarantee = values["policy"], values["guarantee"]
    family = family_of(policy or DEFAULT_FAMILY)
    for option, without, alone in (
        ("--method", "--guarantee", values["method"] is not None and guarantee is None),
        ("--set-mode", "--sets", values["set_mode"] is not None and values["sets"] is None),
        (
            "--score",
            "a policy that compares scores",
            values["score"] is not None and family.example(2, values["score"]).score is None,
        ),
    ):
        if alone:
            raise PolicyError(f"{option} goes with {without}")
    return CalibrationSpec(
        Target(
            budget=None if values["budget"] is None else Budget.parse(values["budget"]),
            accuracy=values["accuracy"],
            accuracy_drop=values["accuracy_drop"],
            selective=values["selective"],
            guarantee=None if guarantee is None else Guarantee.parse(guarantee, values["method"] or "ltt"),
        ),
        policy,
        values["score"],
        family.read_options(_own_options(family, values)),
        values["sets"],
        values["set_mode"] or "nested",
    )


def _own_options(family: PolicyFamily, values: Mapping[str, Any]) -> dict[str, object]:
    """Values of the family's own options.

    Raises:
        PolicyError: an option of another family was given.
    """
    own = [f.name for f in fields(family.options)]
    for other in _families():
        for f in fields(other.options):
            if values[f.name] is not None and f.name not in own:
                takers = " or ".join(t.name for t in _families() if f.name in [o.name for o in fields(t.options)])
                raise PolicyError(f"{_flag(f.name)} goes with --policy {takers}")
    return {name: values[name] for name in own if values[name] is not None}


def _families() -> list[PolicyFamily]:
    return [family for family in all_families() if family.calibrates]


def _policy_option() -> click.Option:
    known = ", ".join(f"{family.name} ({family.summary})" for family in _families())
    return click.Option(
        ["--policy"],
        type=click.Choice([family.name for family in _families()]),
        help=f"Policy family: {known}. [default: {DEFAULT_FAMILY}; with --guarantee threshold]",
    )


@functools.cache
def _family_options() -> tuple[click.Option, ...]:
    """One option per name, though several families take it."""
    takers: dict[str, list[str]] = {}
    metadata: dict[str, Mapping[str, Any]] = {}
    for family in _families():
        for f in fields(family.options):
            if metadata.setdefault(f.name, f.metadata) != f.metadata:
                raise PolicyError(f"{_flag(f.name)} means another thing for policy {family.name} than for others")
            takers.setdefault(f.name, []).append(family.name)
    return tuple(
        click.Option(
            [_flag(name)],
            type=click.Choice(m["kind"]) if isinstance(m["kind"], tuple) else m["kind"],
            help=f"{', '.join(takers[name])}: {m['help']}",
        )
        for name, m in metadata.items()
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
