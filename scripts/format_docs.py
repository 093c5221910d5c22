"""Write the bundle format's JSON Schema and field tables from the records' annotations, or check them (--check).

Writes `edgeexit/bundle/schema.json`, and in `docs/bundle-format.md` what is between ``<!-- fields: TITLE -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from edgeexit.bundle.manifest import FORMAT, SCHEMA, Dtype, Manifest
from edgeexit.common.kinds import (
    MOST_TEXT,
    Axis,
    AxisSize,
    Count,
    Flag,
    Free,
    Kind,
    ListOf,
    MapOf,
    Matching,
    Name,
    Nullable,
    Number,
    OneOf,
    String,
    Text,
    Whole,
)
from edgeexit.common.records import UNBOUNDED, CheckedRecord, FieldSpec, ObjectOf, Record, kind_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bundle-format.md"
SCHEMA_FILE = ROOT / "edgeexit" / "bundle" / "schema.json"
NAMED = {
    kind_of(hint): name
    for name, hint in (("text", Text), ("name", Name), ("count", Count), ("axis", Axis), ("dtype", Dtype))
}
"""Kinds that the documentation and the schema define once."""
RULES: dict[str, dict[str, Any]] = {
    "artifact": {
        "if": {"properties": {"layout": {"const": "fused"}}},
        "then": {"required": ["score"], "properties": {"score": {"type": "string"}}},
        "else": {"properties": {"score": {"type": "null"}}},
        "allOf": [
            {
                "if": {"properties": {"layout": {"enum": ["fused", "all"]}}},
                "then": {"properties": {"models": {"maxItems": 1}}},
            }
        ],
    }
}
"""Rules between fields (`edgeexit.bundle.checks`) that a JSON Schema can express."""


def meanings(record: type[Record]) -> dict[str, str]:
    """The docstrings of a record's fields, in the words of JSON."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            texts[field.target.id] = _json_words(" ".join(str(text.value.value).split()))
    if missing := [f.name for f in record.json_kind.fields if f.name not in texts]:
        sys.exit(f"{record.__name__}.{missing[0]} has no docstring; write one under the field")
    return texts


def _json_words(text: str) -> str:
    for python, word in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", word, text)
    return text


def schema() -> dict[str, Any]:
    """The JSON Schema of `manifest.json`."""
    definitions: dict[str, Any] = {}
    manifest = _object(Manifest.json_kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:edgeexit:bundle:{SCHEMA}",
        "title": f"EdgeExit bundle manifest, schema {SCHEMA}",
        "description": "Generated from the annotations of edgeexit.bundle.manifest. docs/bundle-format.md has the "
        "rules between the parts. Readers ignore fields that are not named here.",
        "type": "object",
        "required": ["format", "schema", *manifest["required"]],
        "properties": {"format": {"const": FORMAT}, "schema": {"const": SCHEMA}, **manifest["properties"]},
        "$defs": dict(sorted(definitions.items())),
    }


def _object(kind: ObjectOf, definitions: dict[str, Any]) -> dict[str, Any]:
    texts = meanings(kind.record)
    definition: dict[str, Any] = {
        "type": "object",
        "description": " ".join(str(inspect.getdoc(kind.record)).split("\n\n")[0].split()),
        "required": [f.name for f in kind.fields if f.is_required],
        "properties": {f.name: _property(f, texts[f.name], definitions) for f in kind.fields},
        **RULES.get(kind.title, {}),
    }
    if issubclass(kind.record, CheckedRecord):
        definition["additionalProperties"] = False
    return definition


def _property(field: FieldSpec, text: str, definitions: dict[str, Any]) -> dict[str, Any]:
    kind = Nullable(field.kind) if field.takes_null else field.kind
    return {**_schema(kind, definitions), "description": text}


def _schema(kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.title if isinstance(kind, ObjectOf) else NAMED.get(kind)
    if name is None:
        return _inline(kind, definitions)
    if name not in definitions:
        definitions[name] = {}  # a record may hold itself
        is_object = isinstance(kind, ObjectOf)
        definitions[name] = _object(kind, definitions) if is_object else _inline(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _inline(kind: Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(kind, Nullable):
        return {"anyOf": [{"type": "null"}, _schema(kind.kind, definitions)]}
    if isinstance(kind, String):
        # halves of surrogate pairs, which are refused too, have no pattern in the dialect of JSON Schema
        return {"type": "string", "minLength": 1, "maxLength": kind.most, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
    if isinstance(kind, Matching):
        return {"type": "string", "maxLength": MOST_TEXT, "pattern": f"^{kind.pattern}$"}
    if isinstance(kind, OneOf):
        return {"const": kind.options[0]} if len(kind.options) == 1 else {"enum": list(kind.options)}
    if isinstance(kind, Whole):
        return {"type": "integer", "minimum": kind.least, "maximum": kind.most}
    if isinstance(kind, Number):
        least = {} if kind.least is None else {"minimum": kind.least}
        most = {} if kind.most is None else {"maximum": kind.most}
        return {"type": "number", **least, **({"exclusiveMinimum": 0} if kind.positive else {}), **most}
    if isinstance(kind, Flag):
        return {"type": "boolean"}
    if isinstance(kind, AxisSize):
        return {"anyOf": [_schema(kind.size, definitions), _schema(kind.name, definitions)]}
    if isinstance(kind, Free):
        return {"type": "object"}
    if isinstance(kind, ListOf):
        once = {"uniqueItems": True} if kind.unique or kind.rising else {}
        items = _schema(kind.item, definitions)
        return {"type": "array", "items": items, "minItems": kind.least, "maxItems": kind.most, **once}
    assert isinstance(kind, MapOf)
    bounds = {} if kind.most == UNBOUNDED else {"minProperties": kind.least, "maxProperties": kind.most}
    return {
        "type": "object",
        "propertyNames": _schema(kind.key, definitions),
        "additionalProperties": _schema(kind.value, definitions),
        **bounds,
    }


def table(record: type[Record]) -> str:
    """The fields of a record as a table of the documentation."""
    texts = meanings(record)
    rows = [
        (f"`{f.name}`" + ("" if f.is_required else " ?"), _words(f.kind) + (", or null" if f.takes_null else ""),
         texts[f.name])
        for f in record.json_kind.fields
    ]  # fmt: skip
    if record is Manifest:
        refused = "Any other value is refused, naming the version found and the versions known."
        rows = [("`format`", f'`"{FORMAT}"`', ""), ("`schema`", f"`{SCHEMA}`", refused), *rows]
    lines = ["| field | type | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {kind} | {text} |" for name, kind, text in rows)])


def _words(kind: Kind, is_many: bool = False) -> str:
    """A kind in the words of the documentation."""
    if isinstance(kind, Nullable):
        return f"{_words(kind.kind)}{',' if isinstance(kind.kind, ListOf | MapOf | OneOf) else ''} or null"
    if isinstance(kind, ObjectOf):
        return kind.record.title + ("s" if is_many else "")
    if (name := NAMED.get(kind)) is not None:
        plural = {"text": "texts", "axis": "axes"}.get(name, f"{name}s")
        return plural if is_many else name
    if isinstance(kind, String):
        return f"{'texts' if is_many else 'text'} of at most {kind.most} characters"
    if isinstance(kind, Matching):
        return "texts" if is_many else "text"
    if isinstance(kind, OneOf):
        return " ".join(f"`{o}`" for o in kind.options)
    if isinstance(kind, Whole):
        numbers = f"{_short(kind.least)} to {_short(kind.most)}"
        return f"whole numbers from {numbers}" if is_many else numbers
    if isinstance(kind, Number):
        noun = "numbers" if is_many else "number"
        if kind.positive:
            return f"{noun} > 0" + ("" if kind.most is None else f", at most {kind.most:g}")
        if kind.most is not None:
            return f"{noun} from {_short(kind.least)} to {_short(kind.most)}"
        return noun + ("" if kind.least is None else f" >= {kind.least:g}")
    if isinstance(kind, Flag):
        return "true or false"
    if isinstance(kind, Free):
        return "object"
    if isinstance(kind, ListOf):
        if kind.least == kind.most:
            return f"list of {kind.least} {_words(kind.item, is_many=True)}"
        order = "rising " if kind.rising else "different " if kind.unique else ""
        return f"{kind.least} to {_short(kind.most)} {order}{_words(kind.item, is_many=True)}"
    assert isinstance(kind, MapOf)
    count = "" if kind.most == UNBOUNDED else f" of {kind.least} to {kind.most}"
    count = " of one" if kind.most == 1 else count
    return f"object{count}: {_words(kind.key)} -> {_words(kind.value)}"


def _short(number: float | None) -> str:
    """Large powers of two as people write them."""
    assert number is not None
    for offset in (0, -1):
        whole = abs(number) - offset
        if isinstance(number, int) and whole >= 1 << 20 and whole & (whole - 1) == 0:
            power = f"2^{whole.bit_length() - 1}"
            power += "" if offset == 0 else " - 1"
            return f"-({power})" if number < 0 else power
    if isinstance(number, float) and number and abs(number) in (2.0**126, 2.0**-126):
        return "2^126" if number > 1 else "2^-126"
    return f"{number:g}" if isinstance(number, float) else str(number)


def records(kind: Kind = Manifest.json_kind) -> dict[str, type[Record]]:
    """Every record of the format by its title."""
    if isinstance(kind, ObjectOf):
        known = {kind.record.title: kind.record}
        for field in kind.fields:
            known |= records(field.kind)
        return known
    parts = [getattr(kind, n, None) for n in ("kind", "item", "value")]
    return {title: r for part in parts if isinstance(part, Kind) for title, r in records(part).items()}


def page(text: str) -> str:
    """The documentation with its tables written anew."""
    known = records()
    titles = re.findall(r"^<!-- fields: (\w+) -->$", text, re.MULTILINE)
    if sorted(titles) != sorted(known):
        sys.exit(f"{PAGE.name} has tables of {sorted(titles)}; expected each of {sorted(known)} once")

    def fresh(match: re.Match[str]) -> str:
        return f"<!-- fields: {match[1]} -->\n{table(known[match[1]])}\n<!-- end -->"

    return re.sub(r"^<!-- fields: (\w+) -->$.*?^<!-- end -->$", fresh, text, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    current = PAGE.read_text(encoding="utf-8")
    for path, text in ((SCHEMA_FILE, json.dumps(schema(), indent=1) + "\n"), (PAGE, page(current))):
        if "--write" in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is not what the records declare; run `make docs` and commit it")


if __name__ == "__main__":
    main()
