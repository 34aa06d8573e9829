"""One pass over the training images between steps: complete, disjoint, with equally many batches everywhere."""

import pytest
import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import open_source
from ssl_zoo.training.passes import TrainingPasses
from ssl_zoo.training.recipe import recipe_from_dict
from tests.data.tiny_sets import write_parquet
from tests.two_processes import run_in_two_processes


BATCH = 4


def _passes(folder, **data):
    recipe = recipe_from_dict(
        {
            "method": "mira",
            "data": {"path": str(folder), "num_workers": 0, "max_corrupt_share": 0.1, **data},
            "views": {"global_size": 8},
        }
    )
    return TrainingPasses(
        open_source(recipe.data),
        recipe,
        batch_size=BATCH,
        device=torch.device("cpu"),
        memory_format=torch.contiguous_format,
    )


def _one_pass(process, folder, seed, **data):
    """Ids of each batch, and the first view's sum for each id."""
    batches, sums = [], {}
    for views, ids in _passes(folder, **data).one_pass(seed=seed, description="test"):
        batches.append(ids.tolist())
        sums |= {number: float(view.sum()) for number, view in zip(ids.tolist(), views[0], strict=True)}
    return batches, sums


def _flat(batches):
    return [number for ids in batches for number in ids if number >= 0]


def test_a_pass_has_every_readable_row_once_and_an_order_and_views_of_its_own(tmp_path):
    folder = write_parquet(tmp_path / "images", replaced={4: b"no image"})
    first, views = _one_pass(None, folder, 0)
    assert sorted(_flat(first)) == [row for row in range(42) if row != 4]
    assert _one_pass(None, folder, 0) == (first, views)
    second, other_views = _one_pass(None, folder, 1)
    assert sorted(_flat(second)) == sorted(_flat(first))
    assert second != first
    assert sum(views[row] != other_views[row] for row in views) > 20


@pytest.mark.parametrize("rows", [(41,), (3, 2, 12), (2,)])
def test_two_processes_share_a_pass_and_end_together(tmp_path, rows):
    folder = write_parquet(tmp_path / "images", rows)
    (first, _), (second, _) = run_in_two_processes(_one_pass, folder, 0)
    assert len(first) == len(second)  # a synchronised batch norm would hang otherwise
    assert sorted(_flat(first) + _flat(second)) == list(range(sum(rows)))


def test_no_batch_is_a_single_row(tmp_path):
    folder = write_parquet(tmp_path / "images", (9,))  # batches of 4, 4 and 1
    batches, _ = _one_pass(None, folder, 0)
    assert [len(ids) for ids in batches] == [4, 4, 2]
    assert sorted(_flat(batches)) == list(range(9))


def test_too_many_corrupt_rows_stop_a_pass(tmp_path):
    folder = write_parquet(tmp_path / "images", replaced={row: b"no image" for row in range(10)})
    with pytest.raises(DataError, match="max_corrupt_share"):
        _one_pass(None, folder, 0)
