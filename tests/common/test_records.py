"""Records: what annotations declare is what is read, written and refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from edgeexit.common.kinds import Name, Number, OneOf, Text, Whole
from edgeexit.common.records import CheckedRecord, Narrow, NotRequired, OmitDefault, Record, Size, kind_of
from edgeexit.errors import BundleError, DataError


@dataclass(frozen=True)
class Window(CheckedRecord, title="window"):
    samples: Annotated[int, Whole(1, 8)]
    gain: NotRequired[Annotated[float, Number(0)]] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gain > self.samples:
            raise DataError(f"gain: expected at most {self.samples}, found {self.gain:g}")


@dataclass(frozen=True)
class Bank(Record, title="bank"):
    name: Text
    windows: Annotated[tuple[Annotated[Window, Narrow("unit", gain=Annotated[float, OneOf(1.0)])], ...], Size(1, 2)]
    order: NotRequired[Annotated[tuple[Annotated[int, Whole(0, 9)], ...], Size(0, 3, rising=True)]] = ()
    note: OmitDefault[Text | None] = None
    parts: OmitDefault[Annotated[Mapping[Name, Window], Size(0, 2)]] = field(default_factory=dict)
    free: NotRequired[Mapping[str, Any]] = field(default_factory=dict)


DATA: dict[str, Any] = {"name": "a", "windows": [{"samples": 4}]}


def test_round_trip() -> None:
    bank = Bank.from_dict({**DATA, "strange": 1, "parts": None})
    assert bank == Bank("a", (Window(4),)) and bank.windows[0].gain == 1.0
    assert bank.to_dict() == {**DATA, "order": [], "free": {}}
    full = {**bank.to_dict(), "note": "x", "parts": {"p": {"samples": 2, "gain": 0.5}}, "order": [1, 3]}
    assert list(Bank.from_dict(full).to_dict()) == ["name", "windows", "order", "note", "parts", "free"]
    assert Bank.from_dict(full).to_dict() == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, r"^bank\.name: expected text of 1 to 512 printable characters, found None$"),
        ({"name": "a\x1b"}, r"^bank\.name: expected text"),
        ({"windows": []}, r"^bank\.windows: expected a list of 1 to 2, found \[\]$"),
        ({"windows": [{"samples": 4}, {"samples": 9}]}, r"^bank\.windows\[1\]\.samples: .* from 1 to 8, found 9$"),
        ({"windows": [{"samples": True}]}, r"\.samples: .* found True$"),
        ({"windows": [{"samples": 4, "gain": 2.0}]}, r"^bank\.windows\[0\]\.gain: expected 1\.0, found 2\.0$"),
        ({"windows": [{}]}, r"^bank\.windows\[0\]\.samples: missing; expected a whole number from 1 to 8$"),
        ({"windows": [{"samples": 1, "x": 1}]}, r"^bank\.windows\[0\]: unknown field 'x'; known: samples, gain$"),
        ({"parts": {"p": {"samples": 2, "gain": 3}}}, r"^bank\.parts\.p\.gain: expected at most 2, found 3$"),
        ({"parts": {"p": {"samples": 2, "gain": 10**400}}}, r"gain: expected a number of at least 0, found 1000"),
        ({"parts": {"../p": {"samples": 2}}}, r"^bank\.parts: expected a name of letters"),
        ({"parts": dict.fromkeys("abc")}, r"^bank\.parts: expected 0 to 2 names, found 3$"),
        ({"parts": []}, r"^bank\.parts: expected an object, found list$"),
        ({"order": [3, 1]}, r"^bank\.order: expected rising numbers, found \[3, 1\]$"),
        ({"free": []}, r"^bank\.free: expected an object, found list$"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Bank.from_dict({**DATA, **change})


def test_checked_records_check_what_python_code_makes() -> None:
    assert type(Window(4, 2).gain) is float
    with pytest.raises(DataError, match=r"^samples: expected a whole number from 1 to 8, found 0$"):
        Window(0)
    with pytest.raises(DataError, match=r"^gain: expected at most 1"):
        Window(1, 2.0)


def test_an_annotation_without_a_kind() -> None:
    with pytest.raises(TypeError, match="no kind of JSON value"):
        kind_of(bytes)
