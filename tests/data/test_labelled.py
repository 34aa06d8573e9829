"""Which labels a method may learn from, and the supports drawn from them."""

import numpy as np
import pytest
import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.labelled import SupportSampler, choose_labelled, copy_images, draw_labelled
from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.data.stream import ReadPosition, ViewStream
from ssl_zoo.data.views import RawPixels
from tests.data.tiny_sets import row_of, write_imagefolder, write_parquet, write_webdataset


LABELS = np.array([0] * 50 + [1] * 30 + [2] * 7 + [-1] * 13)


@pytest.fixture
def images(tmp_path):
    return write_parquet(tmp_path / "images")  # 42 rows, the class is the row's number modulo 3


def _source(folder, **fields):
    return open_source(DataConfig(path=str(folder), **fields))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_stratified_draw_takes_the_same_share_of_each_class(share):
    drawn = draw_labelled(LABELS, share=share, stratified=True, seed=0)
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(LABELS[drawn], minlength=3).tolist()
    assert counts == [max(1, round(share * count)) for count in (50, 30, 7)]


def test_a_draw_from_all_rows_takes_the_share_of_all_and_never_an_unlabelled_one():
    drawn = draw_labelled(LABELS, share=0.5, stratified=False, seed=3)
    assert len(drawn) == round(0.5 * 87)
    assert (LABELS[drawn] >= 0).all()
    counts = [np.bincount(LABELS[draw_labelled(LABELS, share=0.5, stratified=False, seed=s)])[2] for s in range(20)]
    assert len(set(counts)) > 1  # random, other than a stratified draw


def test_the_seed_alone_decides():
    first, again, other = (draw_labelled(LABELS, share=0.3, stratified=True, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("streaming", [True, False])
def test_known_labels_are_those_of_the_drawn_rows(images, streaming):
    subset = choose_labelled(_source(images, streaming=streaming), config := DataConfig(labelled_share=0.5))
    assert config.labelled_stratified
    assert subset.num_classes == 3
    assert len(subset.ids) == 21
    assert torch.equal(subset.known_labels[subset.ids], subset.ids % 3)
    assert (subset.known_labels >= 0).sum() == 21


def test_labels_of_every_format(tmp_path):
    folder = _source(write_imagefolder(tmp_path / "folder", per_class=4))
    assert folder.read_labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    tars = _source(write_webdataset(tmp_path / "tars", (3, 4)), label_column="cls")
    assert tars.read_labels().tolist() == [row % 3 for row in range(7)]


def test_only_the_rows_that_are_used_count(images):
    assert _source(images, max_rows=10).read_labels().tolist() == [row % 3 for row in range(10)]


def test_listed_rows(images, tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("7\n3\n30\n3\n")
    subset = choose_labelled(_source(images), DataConfig(labelled_ids=str(file)))
    assert subset.ids.tolist() == [3, 7, 30]


def test_listed_file_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("0001.png\n0003.png\n")
    folder = write_imagefolder(tmp_path / "folder", per_class=4)
    for path in folder.rglob("*.png"):  # as the Hub's ImageNet: the class at the end of the name
        path.rename(path.with_name(f"{path.stem}_{path.parent.name}.png"))
    subset = choose_labelled(_source(folder), DataConfig(labelled_ids=str(file)))
    assert subset.ids.tolist() == [9, 11]  # names are unique in such sets; here the last one counts


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "empty"), ("42\n", "names row 42, but the rows of .* are 0 to 41"), ("a.png b.png", "names 2 of 2 images")],
)
def test_a_list_that_does_not_fit_is_refused(images, tmp_path, content, message):
    file = tmp_path / "ids.txt"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        choose_labelled(_source(images), DataConfig(labelled_ids=str(file)))


def test_impossible_settings_are_named(images, tmp_path):
    with pytest.raises(DataError, match=r"labelled_share. must be .* got 0"):
        DataConfig(labelled_share=0)
    with pytest.raises(DataError, match=r"labelled_share. must be 1.0, got 0.5"):
        DataConfig(labelled_ids="x", labelled_share=0.5)
    with pytest.raises(DataError, match="can't be read"):
        choose_labelled(_source(images), DataConfig(labelled_ids=str(tmp_path / "none.txt")))


def _sampler(source, share=1.0, **options):
    subset = choose_labelled(source, DataConfig(labelled_share=share))
    settings = {"num_classes": 2, "images_per_class": 3, "seed": 0, **options}
    return SupportSampler(source, subset, RawPixels(8), **settings)


def test_a_support_has_the_classes_and_images_it_should(images):
    sampler = _sampler(_source(images))
    seen = set()
    for batch in range(60):
        views, labels = sampler.load(batch)
        assert sorted(np.bincount(labels, minlength=3).tolist()) == [0, 3, 3]
        rows = [row_of(view) for view in views]
        assert [row % 3 for row in rows] == labels.tolist()
        assert len(set(rows)) == 6
        seen |= set(rows)
    assert seen == set(range(42))


def test_only_labelled_and_readable_images_are_in_a_support(tmp_path):
    source = _source(write_parquet(tmp_path / "images", replaced={4: b"no image"}))
    subset = choose_labelled(source, DataConfig(labelled_share=0.5))
    copied = copy_images(source, subset)
    assert set(copied["sample_id"]) == set(subset.ids.tolist()) - {4}
    sampler = _sampler(source, share=0.5)
    rows = {row_of(view) for batch in range(30) for view in sampler.load(batch)[0]}
    assert rows <= set(subset.ids.tolist()) - {4}


def test_two_processes_share_one_support(images):
    source = _source(images)
    whole = _sampler(source, world_size=1)
    parts = [_sampler(source, rank=rank, world_size=2) for rank in range(2)]
    for batch in range(5):
        together = [torch.cat(pair) for pair in zip(*(part.load(batch) for part in parts), strict=True)]
        for ours, theirs in zip(together, whole.load(batch), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_class": 15}, "needs 2 classes with 15 labelled images each.*only 14.*labelled_share"),
        ({"num_classes": 4}, "42 labelled images of 3 classes"),
        ({"world_size": 4}, "2 classes, which can't be dealt evenly to 4 processes"),
    ],
)
def test_too_few_labels_are_an_error(images, options, message):
    with pytest.raises(DataError, match=message):
        _sampler(_source(images), **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_continued_stream_has_the_supports_of_one_that_never_stopped(images, num_workers):
    source = _source(images)

    def supports(first_batch, count, **position):
        stream = ViewStream(
            source,
            RawPixels(8),
            batch_size=4,
            num_workers=num_workers,
            support=_sampler(source),
            first_batch=first_batch,
            **position,
        )
        return [batch for batch, _ in zip(stream.loader(), range(count), strict=False)]

    whole = supports(0, 7)
    position = ReadPosition.start(num_workers)
    for batch in whole[:3]:
        position.advance(batch)
    for ours, theirs in zip(supports(3, 4, start=position), whole[3:], strict=True):
        assert torch.equal(ours.sample_ids, theirs.sample_ids)
        assert all(torch.equal(a, b) for a, b in zip(ours.support, theirs.support, strict=True))


def test_without_labels_the_error_names_the_cure(tmp_path):
    folder = write_webdataset(tmp_path / "tars", (6,))
    source = _source(folder)
    source.label_column = None
    with pytest.raises(DataError, match=r"name it with `data.label_column`"):
        choose_labelled(source, DataConfig())
