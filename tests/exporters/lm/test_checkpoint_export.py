"""From a checkpoint folder to a bundle: ends, start and notices arrive."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lm_nets import CONFIG, built, tokenizer_file

from edgeexit.errors import DataError
from edgeexit.lm.text.tokenizer import Text
from edgeexit_exporters.lm import LmExportSpec, export_lm
from edgeexit_models.lm import save_lm


def test_settings_of_all_files_are_in_the_bundle(tmp_path: Path) -> None:
    folder, told = tmp_path / "chat", list[str]()
    save_lm(folder, built(replace(CONFIG, num_hidden_layers=1, eos_token_id=2)))
    tokenizer_file(folder / "tokenizer.json", start=True)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "<e>", "add_bos_token": False})
    )
    made = export_lm(folder, tmp_path / "chat.edgeexit", LmExportSpec(stages=(1,)), progress=told.append)
    spec = made.bundle.manifest.lm
    assert spec is not None and spec.eos == (2, 7, 0) and spec.bos is None
    assert any(t.startswith("note: tokenizer_config.json: '<e>' (token 0) ends an answer, too") for t in told)
    assert any("before a text goes nothing, by the source's add_bos_token" in t and "put token 1" in t for t in told)
    (notice,) = made.bundle.manifest.provenance["notices"]
    assert "'<e>'" in notice


def test_several_tokens_before_a_text_are_refused(tmp_path: Path) -> None:
    file = tokenizer_file(tmp_path / "tokenizer.json", start=True)
    assert Text(file).start == 1
    content = json.loads(file.read_text())
    content["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"puts 2 tokens before a text \(1, 1\)"):
        _ = Text(file).start
