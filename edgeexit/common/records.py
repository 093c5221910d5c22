"""Records: dataclasses that declare a JSON object once, for reading, writing, its JSON Schema and its documentation.

The annotation of a field is its type in Python and in JSON; a kind or a `Size` adds bounds::

    @dataclass(frozen=True)
    class Window(Record, title="window"):
        samples: Annotated[int, Whole(1, 4096)]
        gains: Annotated[tuple[Annotated[float, Number(0.0)], ...], Size(1, 8)]
        name: NotRequired[Text | None] = None

Modules of records must not postpone annotations (no ``from __future__ import annotations``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from edgeexit.common.kinds import Flag, Free, Kind, ListOf, MapOf, Misfit, Nullable, OneOf
from edgeexit.errors import BundleError, DataError, EdgeExitError

T = TypeVar("T")
R = TypeVar("R", bound="Record")
UNBOUNDED = 1 << 62


class _Presence:
    """Mark of a field that may be missing from the JSON object."""

    def __init__(self, is_written: bool) -> None:
        self.is_written = is_written
        """Whether a value equal to the default is written, too."""


_ALWAYS_WRITTEN, _OMITTED = _Presence(True), _Presence(False)
NotRequired = Annotated[T, _ALWAYS_WRITTEN]
"""May be missing when read, then it is the default (None where there is none); always written."""
OmitDefault = Annotated[T, _OMITTED]
"""May be missing when read; not written when it is the default."""


class Size:
    """How many values a list or an object may have.

    Args:
        least: of values.
        most: of values.
        unique: no value may stand twice.
        rising: every number is larger than the one before.
    """

    def __init__(self, least: int = 0, most: int = 4096, *, unique: bool = False, rising: bool = False) -> None:
        self.least, self.most, self.unique, self.rising = least, most, unique, rising


class Narrow:
    """A record in a place where some of its fields may hold less: fields -> their annotations there.

    A field that may hold one value only is not written.
    """

    def __init__(self, title: str, **hints: Any) -> None:
        self.title = title
        self.hints = hints


class Record:
    """Base of dataclasses that are JSON objects; fields that a class does not declare are ignored.

    Errors that `__post_init__` raises begin with the name of a field and a colon.
    """

    title: ClassVar[str]
    """What the format's documentation calls such an object."""
    json_kind: ClassVar[ObjectOf]
    """The class as a kind of JSON value."""

    def __init_subclass__(cls, title: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.title = title
        cls.json_kind = ObjectOf(cls)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `from_dict` reads it back."""
        return self.json_kind.write(self)

    @classmethod
    def from_dict(cls: type[R], data: Any, at: str = "") -> R:
        """Read untrusted JSON data.

        Args:
            data: what `json.loads` returned.
            at: name of the place, for messages; default: the record's title.

        Raises:
            BundleError: a field is missing, of another kind or out of bounds; the message names place, expectation
                and value.
        """
        try:
            record: R = cls.json_kind.read(data)
        except Misfit as e:
            raise BundleError(f"{at or cls.title}{e.place}: {e.text}") from None
        return record


class FieldSpec:
    """One field of a record as JSON holds it."""

    def __init__(self, field: Field[Any], narrowed: Any = None) -> None:
        marks = getattr(field.type, "__metadata__", ())
        presence = next((m for m in marks if isinstance(m, _Presence)), None)
        self.name = field.name
        self.kind = kind_of(field.type if narrowed is None else narrowed)
        self.is_required = presence is None
        self.takes_null = presence is not None and isinstance(self.kind, MapOf)
        """Whether null stands for the default."""
        self.has_default = field.default is not MISSING or field.default_factory is not MISSING
        """Whether Python code may leave it out."""
        self.default = None if field.default is MISSING else field.default
        if field.default_factory is not MISSING:
            self.default = field.default_factory()
        is_fixed = narrowed is not None and isinstance(self.kind, OneOf) and len(self.kind.options) == 1
        self.is_written = not is_fixed and (presence is None or presence.is_written)
        """Whether the default is written."""


class ObjectOf(Kind):
    """A record, as a kind of value."""

    def __init__(self, record: type[Record], narrow: Narrow | None = None) -> None:
        self.record, self.narrow = record, narrow

    @functools.cached_property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The record's fields; its annotations are analysed once."""
        hints = {} if self.narrow is None else self.narrow.hints
        return tuple(FieldSpec(f, hints.get(f.name)) for f in fields(self.record))  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        return self.record.title if self.narrow is None else self.narrow.title

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def expected(self) -> str:
        return "an object"

    def read(self, value: Any) -> Any:
        if isinstance(value, self.record):
            return value
        if not isinstance(value, Mapping):
            raise Misfit(f"expected an object, found {type(value).__name__}")
        is_checked = issubclass(self.record, CheckedRecord)
        if is_checked:
            names = [f.name for f in self.fields]
            if unknown := [n for n in value if n not in names]:
                raise Misfit(f"unknown field {unknown[0]!r:.60}; known: {', '.join(names)}")
        values: dict[str, Any] = {}
        for field in self.fields:
            raw = value.get(field.name, MISSING)
            if raw is MISSING and field.is_required:
                raise Misfit(f"missing; expected {field.kind.expected}", f".{field.name}")
            if raw is MISSING or (raw is None and field.takes_null):
                if not field.has_default:
                    values[field.name] = None
                continue
            try:
                # what a checked record reads itself is not read twice
                values[field.name] = raw if is_checked and self.narrow is None else field.kind.read(raw)
            except Misfit as e:
                raise e.within(f".{field.name}") from None
        try:
            return self.record(**values)
        except EdgeExitError as e:
            place, _, text = str(e).partition(": ")
            raise Misfit(text, f".{place}") from e

    def write(self, value: Any) -> dict[str, Any]:
        data = {}
        for field in self.fields:
            own = getattr(value, field.name)
            if field.is_written or own != field.default:
                data[field.name] = field.kind.write(own)
        return data


class CheckedRecord(Record):
    """A record that also checks its fields when Python code makes one.

    Unknown fields are refused when read: they might change what the others mean.
    """

    error: ClassVar[type[EdgeExitError]] = DataError
    """Raised for a field that is not what it should be."""

    def __init_subclass__(cls, title: str = "", error: type[EdgeExitError] = DataError, **kwargs: Any) -> None:
        super().__init_subclass__(title=title, **kwargs)
        cls.error = error

    def __post_init__(self) -> None:
        for field in self.json_kind.fields:
            try:
                value = field.kind.read(getattr(self, field.name))
            except Misfit as e:
                raise self.error(f"{field.name}{e.place}: {e.text}") from None
            object.__setattr__(self, field.name, value)  # 25 and 25.0 are one setting


def kind_of(hint: Any) -> Kind:
    """The kind of JSON value that an annotation declares."""
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        marks = tuple(rest)
    for mark in marks:
        if isinstance(mark, Kind):
            return mark
    origin, parts = get_origin(hint), get_args(hint)
    size = next((m for m in marks if isinstance(m, Size)), None)
    if origin in (Union, UnionType):
        (inner,) = (p for p in parts if p is not type(None))
        return Nullable(kind_of(inner))
    if origin is tuple:
        if parts[-1] is not Ellipsis:
            return ListOf(kind_of(parts[0]), len(parts), len(parts))
        size = size or Size()
        return ListOf(kind_of(parts[0]), size.least, size.most, size.unique, size.rising)
    if origin is Mapping:
        size = size or Size(most=UNBOUNDED)
        return Free() if parts[1] is Any else MapOf(kind_of(parts[0]), kind_of(parts[1]), size.least, size.most)
    if hint is bool:
        return Flag()
    if isinstance(hint, type) and issubclass(hint, Record):
        narrow = next((m for m in marks if isinstance(m, Narrow)), None)
        return hint.json_kind if narrow is None else ObjectOf(hint, narrow)
    raise TypeError(f"no kind of JSON value for the annotation {hint!r}")
