"""Loader of language models: chooses a bundle's artifact and engine, and checks its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.file_spec import FileSpec
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.lm_spec import DecoderFiles
from edgeexit.bundle.manifest import Artifact
from edgeexit.engine import backends
from edgeexit.engine.backends import Backend, Runnable
from edgeexit.errors import BundleError
from edgeexit.lm.model import DecoderRunnables, LanguageModel


def load_lm(path: Path | str | Bundle, *, artifact: str | None = None, threads: int = 1) -> LanguageModel:
    """Open a bundle and load one decoder artifact.

    Args:
        path: a bundle folder or ``.zip``.
        artifact: its name, or its precision ("int8"); None = the first decoder whose engine is installed here.
        threads: for the engine library.

    Raises:
        BundleError: it holds no language model, or not that artifact, or files that do not fit.
        BackendMissing: no engine for it here.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.open(path)
    spec = bundle.manifest.lm
    if spec is None:
        raise BundleError(f"{bundle.path}: {bundle.manifest.name} is not a language model: use `edgeexit run`")
    if threads < 1:
        raise BundleError(f"threads must be at least 1, found {threads}")
    chosen, engine = _choose(bundle, artifact)
    files = DecoderFiles.of(chosen.models, chosen.data)

    def model(file: FileSpec) -> Runnable:
        loaded = engine.load(bundle.file(file), threads)
        if len(loaded) != 1:
            raise BundleError(f"{file.path}: holds {len(loaded)} models, a decoder's file holds one")
        return loaded[0]

    parts = DecoderRunnables(
        [model(f) for f in files.stages],
        model(files.head),
        model(files.positions),
        _array(bundle, files.embedding, mapped=True),
        {k: model(f) for k, f in enumerate(files.exits) if f is not None},
        {k: _array(bundle, f) for k, f in enumerate(files.ids) if f is not None},
        {k: model(f) for k, f in enumerate(files.keys_values) if f is not None},
    )
    loaded = LanguageModel(
        spec, parts, name=bundle.manifest.name, artifact=chosen.name, proof=chosen.proof,
        tokenizer=None if spec.tokenizer is None else bundle.file(spec.tokenizer),
        engine=engine.version(), threads=threads,
    )  # fmt: skip
    loaded.bundle = bundle
    loaded.try_out()
    return loaded


def _choose(bundle: Bundle, wanted: str | None) -> tuple[Artifact, Backend]:
    decoders = [a for a in bundle.manifest.artifacts if LAYOUTS[a.layout].language_model]
    named = [a for a in decoders if wanted in (None, a.name)] or [a for a in decoders if a.precision == wanted]
    if not named:
        there = ", ".join(a.name for a in decoders) or "none"
        raise BundleError(f"{bundle.path}: no decoder artifact {wanted or ''!r}; it holds: {there}")
    return backends.first(named)


def _array(bundle: Bundle, file: FileSpec, mapped: bool = False) -> NDArray[Any]:
    """An array of the bundle; `mapped` reads rows from disk when they are used."""
    try:
        array = np.load(bundle.file(file), mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as e:
        raise BundleError(f"{file.path}: not a .npy array: {e}") from e
    if not isinstance(array, np.ndarray):
        raise BundleError(f"{file.path}: not a .npy array")
    return array.view(np.ndarray)  # numpy's own class for mapped files is slow to index
