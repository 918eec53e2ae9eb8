"""Where options meet on a CUDA device: kinds of adapters, losses, noise, optimizers and the like, captured as eager."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ExitCode
from tests.end_to_end.test_option_pairs import BASE, COLUMNS, FAMILY, ROWS
from tests.end_to_end.workshop import Values, Workshop
from tests.families.unet_miniature import make_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def with_every_choice() -> list[dict[tuple[str, str], Any]]:
    """Few rows of the table that have each choice of each column at least once."""
    left, chosen = [choice for column in COLUMNS.values() for choice in column], []
    while left:
        chosen.append(max(ROWS, key=lambda row: sum(choice.items() <= row.items() for choice in left)))
        left = [choice for choice in left if not choice.items() <= chosen[-1].items()]
    return chosen


@pytest.mark.parametrize(
    "row", with_every_choice(), ids=lambda row: "-".join(str(value) for value in row.values())[:60]
)
def test_captured_steps_have_the_bytes_of_eager_steps(
    make_workshop: Callable[[str], Workshop], drawn_pictures: Path, tmp_path: Path, row: dict[tuple[str, str], Any]
) -> None:
    model = make_model(tmp_path / "model", family=row["", FAMILY], size="nano")
    values: Values = {
        **BASE,
        **{at: value for at, value in row.items() if at[0]},
        ("machine", "device"): "cuda",
        ("model", "base_model"): str(model),
    }
    eager, graph = make_workshop("eager"), make_workshop("graph")
    for workshop in (eager, graph):
        (workshop.folder / "reg").symlink_to(drawn_pictures)
    assert eager.new(2, {**values, ("machine", "execution"): "eager"}).exit_code == ExitCode.FINISHED
    outcome = graph.new(2, values)
    assert outcome.exit_code == ExitCode.FINISHED
    assert "execution_failed" not in {warned.code for warned in outcome.warned}
    assert graph.losses() == eager.losses()
    assert graph.digest() == eager.digest()
