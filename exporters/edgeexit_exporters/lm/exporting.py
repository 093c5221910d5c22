"""Export of a decoder language model: module to checked bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeexit.bundle.bundle import Bundle, writing_bundle
from edgeexit.bundle.files import describe, write_into
from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.common.environment import device
from edgeexit.common.files import npz_bytes
from edgeexit.errors import BundleError, DataError, ModelError
from edgeexit.lm import proof
from edgeexit.lm.loading import load_lm
from edgeexit.lm.text.tokenizer import Text
from edgeexit_exporters.lm import check
from edgeexit_exporters.lm.exits import ExitAgreement, agreement
from edgeexit_exporters.lm.graphs import Graphs
from edgeexit_exporters.lm.manifest import manifest_of
from edgeexit_exporters.lm.parts import embedding_of, float_parts, write_artifact
from edgeexit_exporters.lm.quantize import PRECISIONS
from edgeexit_exporters.lm.source import LmSource, by_name, open_source
from edgeexit_exporters.lm.spec import LmExportSpec
from edgeexit_exporters.lm.text import MOST_TOKENIZER, Ids, LmText, cut, read_bytes, shortlist

PIECE = 256
"""Tokens of a piece of text, or the context if that is less."""
VECTORS = "vectors/lm.npz"
FITTED = 16
"""Tokens per unknown of a map; 4 must be there."""


@dataclass(frozen=True)
class LmExport:
    """An exported bundle and its measured exits."""

    bundle: Bundle
    exits: tuple[ExitAgreement, ...]
    """On text that nothing was fitted on; empty without text."""


def export_lm(
    source: nn.Module | Path | str,
    out: Path | str,
    spec: LmExportSpec | None = None,
    *,
    weights: Path | None = None,
    tokenizer: Path | str | None = "own",
    text: str | NDArray[np.integer[Any]] | None = None,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> LmExport:
    """Export a decoder language model as a bundle of decoder artifacts, each compared with the module part by part.

    Args:
        source: see `source.open_source`.
        out: the bundle's folder.
        spec: stages, precisions and the rest; None = the defaults.
        weights: state dict for a ``module:function`` source.
        tokenizer: a tokenizer.json; "own" = the one beside the weights; None = none, and then texts are token ids.
        text: real text, or token ids `(n,)`: for maps and short lists, and for the proof that is left out without it.
        name: the bundle's name; None = that of `out`.
        overwrite: replace a bundle that is there.
        progress: called with each step's name.

    Raises:
        ModelError: the source cannot be exported; `ExportMismatch` where a part differs from it.
        DataError: no tokenizer, or text that does not fit.
        BackendMissing: what reads source or tokenizer is not installed.
        BundleError: `out` exists, or cannot be written.
    """
    spec, out = spec or LmExportSpec(), Path(out)
    spec.check_text(text is not None)
    if out.exists() and not overwrite:
        raise BundleError(f"{out}: exists already; choose another name or pass --overwrite")
    if isinstance(tokenizer, Path):  # before weights of gigabytes are read
        read_bytes(tokenizer, "tokenizer.json", MOST_TOKENIZER)
    progress("reading the source model")
    opened = open_source(source, weights)
    for notice in opened.notices:
        progress(f"note: {notice}")
    decoder = opened.spec(_stages(opened) if spec.stages is None else spec.stages)
    with writing_bundle(out, overwrite=overwrite) as folder:
        decoder = _with_tokenizer(decoder, opened, tokenizer, folder, progress)
        pieces = _pieces(decoder, text, folder, progress)
        maps = _maps(opened, decoder, spec, pieces, progress)
        shown = None if spec.shortlist is None or pieces is None else shortlist(pieces, spec.shortlist, decoder.eos)
        exits: tuple[ExitAgreement, ...] = ()
        if pieces is not None:
            progress("measuring the exits' agreement")
            exits = agreement(opened.model, decoder, pieces.held, maps, shown)
        table = opened.model.embed(torch.arange(decoder.vocab)[None])[0].detach().numpy()
        parts = float_parts(Graphs(opened, decoder, progress), table, maps, shown, spec.keys_values)
        artifacts: list[Artifact] = []
        for precision in spec.precisions:
            artifact = write_artifact(folder, parts, decoder, precision, embedding_of(artifacts), progress)
            artifacts.append(artifact)
        manifest = manifest_of(opened, decoder, name or out.name.removesuffix(".edgeexit"), maps, shown, artifacts)
        write_into(folder, {}, manifest)
        manifest = _measured(Bundle(folder, manifest), opened, spec, pieces, maps, exits, progress)
        progress("writing the bundle")
        write_into(folder, {}, manifest)
    return LmExport(Bundle(out, manifest), exits)


def _stages(source: LmSource) -> tuple[int, ...]:
    layers = source.model.config.num_hidden_layers
    return tuple(sorted({max(1, round(layers * k / 4)) for k in range(1, 5)}))


def _with_tokenizer(
    spec: LmSpec, source: LmSource, wanted: Path | str | None, folder: Path, progress: Callable[[str], None]
) -> LmSpec:
    """The spec with its tokenizer, which is copied into the folder.

    Raises:
        DataError: the source has none.
    """
    if wanted is None:
        return spec
    own = source.own_tokenizer() if wanted == "own" else Path(wanted)
    if own is None:
        raise DataError(
            f"{source.name} has no tokenizer: give --tokenizer tokenizer.json, or --no-tokenizer to work on token ids"
        )
    data = read_bytes(own, "tokenizer.json", MOST_TOKENIZER) if isinstance(own, Path) else own.encode()
    described = describe("tokenizer.json", data)
    (folder / described.path).write_bytes(data)
    tokenizer = Text(folder / described.path)
    if tokenizer.tokens > spec.vocab:
        raise DataError(
            f"the tokenizer has tokens up to {tokenizer.tokens - 1}, the model knows 0 to {spec.vocab - 1}: "
            "they are not of one model"
        )
    # configs name a start token also where no text ever had one
    stated, start = source.start
    if wanted != "own" or not stated:
        start = tokenizer.start
    elif start != tokenizer.start:
        progress(f"note: before a text goes {_token(start)}, by the source's add_bos_token; its tokenizer alone would "
                 f"put {_token(tokenizer.start)}")  # fmt: skip
    return replace(spec, tokenizer=described, bos=start)


def _token(token: int | None) -> str:
    return "nothing" if token is None else f"token {token}"


def _pieces(
    spec: LmSpec, text: str | NDArray[np.integer[Any]] | None, folder: Path, progress: Callable[[str], None]
) -> LmText | None:
    if text is None:
        return None
    if isinstance(text, str):
        if spec.tokenizer is None:
            raise DataError("text needs a tokenizer: give --tokenizer tokenizer.json, or token ids")
        progress("reading the text")
        ids: Ids = np.array(Text(folder / spec.tokenizer.path).encode(text), np.int64)
    else:
        ids = np.asarray(text)
    return cut(ids, spec.vocab, min(PIECE, spec.context), max(1 << 13, FITTED * spec.width * 8 // 7))


def _maps(
    source: LmSource, lm: LmSpec, spec: LmExportSpec, pieces: LmText | None, progress: Callable[[str], None]
) -> dict[int, nn.Module]:
    """Exit -> what stands before its head.

    Raises:
        DataError: too little text.
        ModelError: trained heads that do not fit, or none for an early exit of this cut.
    """
    early = {layer: k for k, layer in enumerate(lm.stages[:-1])}
    if spec.heads is not None:
        loaded: Mapping[int, nn.Module] = by_name("maps")(spec.heads, source.model)
        if strange := sorted({*loaded} - {*early}):
            raise ModelError(
                f"{spec.heads}: heads after layers {', '.join(map(str, loaded))}, but there is no exit after "
                f"{strange[0]}; early exits are after {', '.join(map(str, early))}"
            )
        return {early[layer]: module for layer, module in loaded.items()}
    if not spec.maps or pieces is None or not early:
        return {}
    count, least = pieces.fitted.size, 4 * lm.width
    if count < least:
        raise DataError(f"maps of width {lm.width} need at least {least} tokens of text, found {count}: give more")
    progress(f"fitting maps on {count} tokens")
    length = pieces.fitted.shape[1]
    fitted: Mapping[int, nn.Module] = by_name("fit")(source.model, pieces.stream, length, list(early))
    return {early[layer]: module for layer, module in fitted.items()}


def _measured(
    draft: Bundle,
    source: LmSource,
    spec: LmExportSpec,
    pieces: LmText | None,
    maps: Mapping[int, nn.Module],
    exits: tuple[ExitAgreement, ...],
    progress: Callable[[str], None],
) -> Manifest:
    """The manifest with checks and proofs.

    Raises:
        ExportMismatch: a float part differs from the module.
        DataError: an artifact gives no numbers.
    """
    manifest, decoder = draft.manifest, draft.manifest.lm
    assert decoder is not None
    artifacts, notes = [], dict[str, dict[str, Any]]()
    sample = _proof_ids(pieces, spec.proof_tokens)
    vectors = None
    if sample is not None:
        raw = npz_bytes(ids=sample)
        vectors = describe(VECTORS, raw)
        (draft.path / VECTORS).parent.mkdir()
        (draft.path / VECTORS).write_bytes(raw)
    tokens = np.random.default_rng(0).integers(0, decoder.vocab, 12) if pieces is None else pieces.held.reshape(-1)[:12]
    with torch.no_grad():
        whole = None if sample is None else source.model.head(source.model.hidden(torch.from_numpy(sample))[-1])
    for artifact in manifest.artifacts:
        progress(f"comparing {artifact.name} with the module")
        lm = load_lm(draft, artifact=artifact.name)
        exact = PRECISIONS[artifact.precision] is None
        checked = check.compare(lm, source.model, tokens.tolist(), maps, check.TOLERANCE if exact else None)
        note: dict[str, Any] = {} if exact else {"max_error": list(checked.max_error)}
        if sample is not None and whole is not None:
            what = f"comparing tokens together with one by one on {artifact.name}"
            progress(what)
            proved = proof.prove(lm, sample, spec.block, tolerance=spec.tolerance, progress=_tenths(what, progress))
            artifact = replace(artifact, proof=proved.proof, vectors=vectors)
            note["agreement"] = float((proved.logits.argmax(-1) == whole.argmax(-1).numpy()).mean())
            note |= {"device": device(), "engine": lm.engine, "threads": lm.threads}
        artifacts.append(replace(artifact, check=checked if exact else None))
        notes[artifact.name] = note
    agreements = [{"layer": e.layer, "plain": e.plain, "shown": e.shown, "tokens": e.tokens} for e in exits]
    provenance = {**manifest.provenance, "lm_artifacts": notes, **({"lm_exits": agreements} if agreements else {})}
    return replace(manifest, artifacts=tuple(artifacts), provenance=provenance)


def _tenths(what: str, progress: Callable[[str], None]) -> Callable[[int, int], None]:
    def tell(done: int, of: int) -> None:
        if of >= 20 and done < of and done * 10 // of > (done - 1) * 10 // of:
            progress(f"{what}: {done * 100 // of} %")

    return tell


def _proof_ids(pieces: LmText | None, most: int) -> Ids | None:
    """Beginnings of pieces spread over the text, held-out ones first."""
    if pieces is None:
        return None
    rows = np.concatenate([pieces.held, pieces.fitted])
    length = min(proof.PIECE, rows.shape[1], most)
    return rows[: max(1, most // length), :length]
