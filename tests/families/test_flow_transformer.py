"""Tensors as families of flow matching lay them out; the families compare the rest with their pipelines."""

import torch

from lorasmith.families.flow_transformer import grid_positions, packed, padded_texts, unpacked


def test_patches_are_laid_out_by_channel_row_and_column() -> None:
    latents = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = packed(latents)
    assert tokens.shape == (2, 6, 12)
    assert tokens[1, 4].tolist() == latents[1, :, 2:4, 2:4].flatten().tolist()
    assert torch.equal(unpacked(tokens, 2, 3), latents)
    assert torch.equal(unpacked(packed(latents, 1), 4, 6, 1), latents)


def test_texts_are_padded_behind_their_end() -> None:
    rows = [{"text": torch.ones(count, 2, 3)} for count in (3, 5)]
    texts, mask = padded_texts(rows, "text", 4)
    assert texts.shape == (2, 8, 2, 3) and mask.sum(1).tolist() == [3, 5]
    assert torch.equal(texts[:, :, 0, 0] == 1, mask)
    alone, _ = padded_texts([{"text": torch.ones(4)}], "text", 4)
    assert alone.shape == (1, 4)


def test_positions_count_rows_and_columns() -> None:
    found = grid_positions(2, 3, torch.device("cpu"))
    assert found.tolist() == [[0, row, column] for row in range(2) for column in range(3)]
