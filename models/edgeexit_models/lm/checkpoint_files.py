"""End and start tokens of a checkpoint folder, which several of its files may name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeexit.errors import ModelError

MOST_BYTES = 64 << 20
TURN_ENDS = (
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|end_of_turn|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>",
    "<EOT>", "< EOT >", "_<EOT>", "<|return|>", "<|call|>", "<turn|>",
)  # fmt: skip
"""Names of tokens that end a turn, as llama.cpp knows them."""
Notice = Callable[[str], None]


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        ModelError: missing, unreadable, larger than 64 MiB, or something else.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ModelError(f"{path}: {size} bytes, at most {MOST_BYTES} are read")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path}: cannot be read ({e})") from e
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, expected names and values")
    return content


def end_tokens(folder: Path, config: Mapping[str, Any], vocab: int, notice: Notice) -> tuple[int, ...]:
    """The tokens that end an answer, from all files that name some.

    generation_config.json counts before config.json, as in transformers; the tokenizer's end token and, of a chat
    model, the end of a turn are added, as llama.cpp does. Each difference is reported to `notice`.

    Raises:
        ModelError: a file is damaged, or names a token that the model does not have.
    """
    main = _ids(config.get("eos_token_id", 2 if vocab > 2 else None), "config.json", vocab)
    if "eos_token_id" not in config and main:
        notice("config.json: no eos_token_id; 2 ends an answer, as in transformers")
    generation = _optional(folder / "generation_config.json")
    own = _ids(generation.get("eos_token_id"), "generation_config.json", vocab)
    ends = own or main
    if own and (left := [i for i in main if i not in own]):
        notice(f"config.json ends an answer with token {_list(left)}, generation_config.json with {_list(own)}: the "
               "latter counts, as in transformers")  # fmt: skip
    for where, name, token in _tokenizer_ends(folder):
        if token is None or token >= vocab:
            notice(f"{where}: {name!r:.60} ends a text and is no token of the model; it is passed over")
        elif token not in ends:
            notice(f"{where}: {name!r:.60} (token {token}) ends an answer, too")
            ends = (*ends, token)
    return ends


def start_token(folder: Path) -> tuple[bool, int | None]:
    """Whether tokenizer_config.json sets a start token, and the token; None = none.

    transformers follows its `add_bos_token` rather than tokenizer.json.

    Raises:
        ModelError: it is damaged, or names a token that the tokenizer does not have.
    """
    settings = _optional(folder / "tokenizer_config.json")
    if not {"add_bos_token", "add_eos_token"} & {n for n, v in settings.items() if v is not None}:
        return False, None
    name = _content(settings.get("bos_token"))
    if not settings.get("add_bos_token") or name is None:
        return True, None
    token = _known(folder, settings).get(name)
    if token is None:
        raise ModelError(f"{folder / 'tokenizer_config.json'}: bos_token {name!r:.60} is no token of the tokenizer")
    return True, token


def _tokenizer_ends(folder: Path) -> list[tuple[str, str, int | None]]:
    """File, name and id of the end tokens that the tokenizer's files name."""
    settings, legacy = (_optional(folder / n) for n in ("tokenizer_config.json", "special_tokens_map.json"))
    template = _template(folder, settings)
    if not settings and not legacy and not template:
        return []
    known = _known(folder, settings)
    ends: list[tuple[str, str, int | None]] = []
    for where, source in (("tokenizer_config.json", settings), ("special_tokens_map.json", legacy)):
        name = _content(source.get("eos_token"))
        if name is not None and not ends:  # the second file is an older form of the first
            ends.append((where, name, known.get(name)))
    turns = [n for n in TURN_ENDS if n in template and n in known]
    return [*ends, *(("chat template", n, known[n]) for n in turns)]


def _template(folder: Path, settings: Mapping[str, Any]) -> str:
    template = settings.get("chat_template") or ""
    beside = folder / "chat_template.jinja"
    if beside.is_file() and beside.stat().st_size <= MOST_BYTES:
        template = beside.read_text("utf-8", "replace")
    return template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)


def _known(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Special and other tokens by name."""
    ids: dict[str, int] = {}
    tokenizer = _optional(folder / "tokenizer.json")
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        ids |= {n: i for n, i in vocab.items() if type(i) is int}
    elif isinstance(vocab, list):
        ids |= {p[0]: i for i, p in enumerate(vocab) if isinstance(p, list) and p and isinstance(p[0], str)}
    for token in tokenizer.get("added_tokens") or []:
        if isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int:
            ids[token["content"]] = token["id"]
    added = settings.get("added_tokens_decoder")
    for number, token in (added if isinstance(added, dict) else {}).items():
        if (name := _content(token)) is not None and number.isdecimal() and len(number) < 10:
            ids.setdefault(name, int(number))
    return ids


def _content(token: Any) -> str | None:
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) and name else None


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _ids(value: Any, where: str, vocab: int) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and 0 <= i < vocab for i in ids):
        raise ModelError(f"{where}: eos_token_id is {value!r:.60}, expected 0..{vocab - 1}")
    return tuple(dict.fromkeys(ids))


def _list(ids: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, ids))
