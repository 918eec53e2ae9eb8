from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorasmith.reading.reader import RunReader
from lorasmith.reading.status import read_status
from lorasmith.runs.layout import RunFolder
from lorasmith.ui.logs_json import as_json
from tests.reading.made_runs import begun, ended, finished_run, made_run, stepped

GUIDE = Path(__file__).parents[2] / "DETAILED_LOSS_TRACKING_GUIDE.md"


def found(run: RunFolder) -> dict[str, Any]:
    facts = as_json(read_status(RunReader(run), now=time.time()))
    plain: dict[str, Any] = json.loads(json.dumps(facts, allow_nan=False))
    assert plain == facts  # JSON values only
    return plain


def keys_of(value: Any, name: str = "") -> Iterator[str]:
    """Every key, those of losses under the name of any."""
    if isinstance(value, dict):
        for key, one in value.items():
            if name not in ("losses", "lr", "fields"):
                yield key
            yield from keys_of(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from keys_of(one, name)


def test_the_facts_under_their_keys(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "lora_output")
    facts = found(run)
    assert (facts["format"], facts["standing"], facts["ending"]["exit_code"]) == (1, "finished", 0)
    assert facts["losses"]["visual"]["control"] == 0.6
    assert facts["losses"]["semantic"]["unavailable"] == "no_clip"
    assert facts["best"]["path"] == str(run.root / "last-best.safetensors")
    assert facts["files"]["states"] == [{"path": str(run.root / "state_x"), "step": 20}]
    assert facts["files"]["reports"][0].endswith(".html")


def test_what_is_not_there_is_null(tmp_path: Path) -> None:
    facts = found(RunFolder(tmp_path / "nowhere"))
    assert (facts["standing"], facts["best"], facts["ending"], facts["files"]["lora"]) == ("none", None, None, None)


def test_what_is_wrong_is_a_code(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(9), *stepped(1, 3), ended(3, "failed", code="out_of_memory", fields={"step": 4})])
    assert found(run)["findings"][0] == {"kind": "error", "code": "out_of_memory", "fields": {"step": 4}}


def test_every_key_is_explained_in_the_guide(tmp_path: Path) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    run = finished_run(tmp_path / "lora_output")
    run.heartbeat.write_text('{"step": 1, "phase": "step", "beat": 1}')
    (run.root / "state_y.damaged").mkdir()
    facts = found(run)
    assert facts["beat"] and facts["findings"]
    assert [key for key in keys_of(facts) if f"`{key}`" not in guide] == []
