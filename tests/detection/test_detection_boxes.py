import random

import datasets
import pytest
import torch
from torchvision.ops import box_convert

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import DataConfig
from ssl_zoo.detection.boxes import ObjectFields, flip_boxes, read_boxes, to_corners
from ssl_zoo.detection.source import open_detection_source
from ssl_zoo.detection.stream import BoxCounter, DetectionStream
from tests.detection.tiny_shapes import SHAPES, draw_shapes, png, shape_rows, write_rows


CORNERS = ObjectFields(box_format="xyxy")
SIZES = {"width": 40, "height": 30, "num_classes": 3}


def objects(*boxes, **more):
    return {"bbox": [list(box) for box in boxes], "category": [1] * len(boxes), **more}


def test_formats_agree_with_torchvision():
    boxes = torch.rand(20, 4, dtype=torch.float64) * 50
    torch.testing.assert_close(to_corners(boxes, "xywh"), box_convert(boxes, "xywh", "xyxy"))
    assert to_corners(boxes, "xyxy") is boxes
    read = read_boxes(objects((3, 4, 10, 20)), ObjectFields(), **SIZES)
    assert read.boxes.tolist() == [[3, 4, 13, 24]]
    assert (read.labels.tolist(), read.area.tolist()) == ([1], [200.0])


def test_a_mirrored_box_covers_the_mirrored_pixels():
    generator = random.Random(0)
    for _ in range(20):
        left, top = generator.randrange(0, 30), generator.randrange(0, 20)
        right, bottom = generator.randrange(left + 1, 41), generator.randrange(top + 1, 31)
        image = torch.zeros(30, 40)
        image[top:bottom, left:right] = 1
        x0, y0, x1, y1 = flip_boxes(torch.tensor([[left, top, right, bottom]]), 40)[0].tolist()
        mirrored = image.flip(1)
        assert mirrored[y0:y1, x0:x1].all()
        assert mirrored.sum() == (y1 - y0) * (x1 - x0)


def test_boxes_are_cut_at_the_border_and_those_without_area_named():
    value = objects((-1, 2, 10, 31), (5, 5, 5, 9), (50, 5, 60, 9), (1, 1, float("nan"), 3), (0, 0, 50, 30))
    read = read_boxes(value, CORNERS, **SIZES)
    assert read.boxes.tolist() == [[0, 2, 10, 30], [0, 0, 40, 30]]
    assert len(read.dropped) == 3
    assert "[5, 5, 5, 9] (xyxy) has no area inside an image of 40 x 30" in read.dropped[0]
    assert read.num_cut == 2  # not the first, which is a pixel too large


def test_a_list_of_structs_is_read_as_a_struct_of_lists():
    columns = objects((0, 0, 9, 9), (1, 1, 5, 5), area=[7.0, None], iscrowd=[0, 1], difficult=[True, False])
    rows = [{name: column[index] for name, column in columns.items()} for index in range(2)]
    for value in (columns, rows):
        read = read_boxes(value, CORNERS, **SIZES)
        assert read.area.tolist() == [7.0, 0.0]
        assert read.iscrowd.tolist() == [False, True]
        assert read.difficult.tolist() == [True, False]


@pytest.mark.parametrize("value", [None, [], {}, {"bbox": [], "category": []}])
def test_an_image_may_hold_nothing(value):
    read = read_boxes(value, CORNERS, **SIZES)
    assert read.boxes.shape == (0, 4)
    assert read.labels.shape == (0,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"boxes": [], "category": []}, "no field 'bbox'; it has .'boxes', 'category'.*--bbox-field"),
        ({"bbox": [[1, 2, 3]], "category": [0]}, "four numbers"),
        ({"bbox": [[1, 2, 3, 4]], "category": [3]}, r"class \[3\], expected 0 to 2.*--num-classes"),
        ({"bbox": [[1, 2, 3, 4]], "category": [-1]}, "expected 0 to 2"),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, "1 boxes, but 0 classes"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(value, message):
    with pytest.raises(DataError, match=message):
        read_boxes(value, CORNERS, **SIZES)


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Two sets of uneven shards: 7 images, one of them without a box, one corrupt."""
    folder = tmp_path_factory.mktemp("sets")
    write_rows(folder / "first", shape_rows(range(3)))
    empty = {"image": png(draw_shapes(90)[0]), "objects": {"bbox": [], "category": []}}
    write_rows(folder / "first", [empty])
    broken = {"image": b"no image", "objects": {"bbox": [[1, 1, 5, 5]], "category": [0]}}
    write_rows(folder / "second", [*shape_rows(range(10, 12)), broken])
    return [DataConfig(path=str(folder / name)) for name in ("first", "second")]


def read_pass(source, **options):
    return [batch for batch in DetectionStream(source, **{"batch_size": 2, "training": False, **options})]


def test_one_pass_gives_every_image_once_with_its_boxes(joined):
    source = open_detection_source(joined, ObjectFields())
    assert (source.num_rows, source.num_classes, source.class_names) == (7, 2, SHAPES)
    batches = read_pass(source)
    assert torch.cat([batch.sample_ids for batch in batches]).tolist() == [0, 1, 2, 3, 4, 5]
    assert [len(batch.skipped) for batch in batches] == [0, 0, 0, 1]
    boxes = [boxes for batch in batches for boxes in batch.boxes]
    for index, seed in {0: 0, 2: 2, 4: 10, 5: 11}.items():
        image, corners, labels = draw_shapes(seed)
        assert boxes[index].boxes.tolist() == corners
        assert boxes[index].labels.tolist() == labels
        assert batches[index // 2].images[index % 2].shape == (3, image.height, image.width)
    assert len(boxes[3].boxes) == 0
    parts = [read_pass(source, rank=rank, world_size=2) for rank in range(2)]
    ids = [torch.cat([batch.sample_ids for batch in part]).tolist() for part in parts]
    assert sorted(ids[0] + ids[1]) == [0, 1, 2, 3, 4, 5]


def test_training_continues_where_it_was_and_leaves_out_images_without_boxes(joined):
    from ssl_zoo.data.batch import ReadPosition

    source = open_detection_source(joined, ObjectFields())
    options = {"batch_size": 2, "training": True, "seed": 3}
    stream = iter(DetectionStream(source, **options))
    batches = [next(stream) for _ in range(12)]
    seen = torch.cat([batch.sample_ids for batch in batches])
    assert set(seen.tolist()) == {0, 1, 2, 4, 5}
    for done in (1, 5, 7):
        position = ReadPosition.start(0)
        for batch in batches[:done]:
            position.advance(batch)
        continued = iter(DetectionStream(source, **options, start=position))
        for expected in batches[done:]:
            found = next(continued)
            assert found.sample_ids.tolist() == expected.sample_ids.tolist()
            assert all(torch.equal(a, b) for a, b in zip(found.images, expected.images, strict=True))
            assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(found.boxes, expected.boxes, strict=True))
    with_empty = iter(DetectionStream(source, **options, train_on_empty=True))
    assert 3 in torch.cat([next(with_empty).sample_ids for _ in range(6)])


def test_half_of_the_images_are_mirrored_with_their_boxes(tmp_path):
    source = open_detection_source([DataConfig(path=str(write_rows(tmp_path, shape_rows(range(2)))))], ObjectFields())
    plain = {
        int(number): (image, boxes)
        for batch in read_pass(source)
        for number, image, boxes in zip(batch.sample_ids, batch.images, batch.boxes, strict=True)
    }
    stream, flips = iter(DetectionStream(source, batch_size=1, seed=0)), []
    for _ in range(60):
        batch = next(stream)
        image, boxes = plain[int(batch.sample_ids)]
        flipped = not torch.equal(batch.images[0], image)
        flips.append(flipped)
        expected = flip_boxes(boxes.boxes, image.shape[2]) if flipped else boxes.boxes
        torch.testing.assert_close(batch.boxes[0].boxes, expected)
    assert 15 < sum(flips) < 45


def test_the_wrong_format_is_noticed(tmp_path):
    write_rows(tmp_path, shape_rows(range(30), box_format="xyxy"))
    source = open_detection_source([DataConfig(path=str(tmp_path))], ObjectFields())
    counter = BoxCounter(source)
    with pytest.raises(DataError, match=r"of 6\d boxes .*, read as xywh.*--box-format xyxy"):
        counter.update(read_pass(source))


def test_left_out_boxes_are_counted_and_named(tmp_path, caplog):
    rows = shape_rows(range(3))
    rows[1]["objects"]["bbox"][0] = [4, 4, 0, 9]
    source = open_detection_source([DataConfig(path=str(write_rows(tmp_path, rows)))], ObjectFields())
    counter = BoxCounter(source)
    for _ in range(2):
        counter.update(read_pass(source))
    assert (counter.num_boxes, counter.num_dropped) == (12, 2)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 1
    assert "row 1: box [4.0, 4.0, 0.0, 9.0] (xywh) has no area" in named[0]


def test_a_problem_in_a_worker_reaches_the_user_as_one_sentence(tmp_path):
    fields = {"bbox": datasets.List(datasets.Value("float32")), "category": datasets.Value("int64")}
    rows = shape_rows(range(2))
    rows[1]["objects"]["category"] = [0, 7]
    write_rows(tmp_path, rows, fields=fields)
    source = open_detection_source([DataConfig(path=str(tmp_path))], ObjectFields(), num_classes=2)
    batches = read_pass(source)
    with pytest.raises(DataError, match=r"row 1: .*class \[0, 7\], expected 0 to 1"):
        BoxCounter(source).update(batches)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        (ObjectFields(objects="objcts"), {}, r"no column 'objcts'.*\['image', 'objects'\].*; did you mean 'objects'"),
        (ObjectFields(bbox="box"), {}, r"no field 'box'; it has \['bbox', 'category'\].*--bbox-field"),
        (ObjectFields(category="label"), {}, "no field 'label'.*--category-field"),
        (ObjectFields(category="bbox"), {}, "must be a class label or an integer"),
        (ObjectFields(objects="image"), {}, "must be a struct of lists or a list of structs"),
        (ObjectFields(), {"num_classes": 5}, "--num-classes is 5, but .* names 2"),
    ],
)
def test_wrong_columns_are_listed(joined, fields, options, message):
    with pytest.raises(DataError, match=message):
        open_detection_source(joined[:1], fields, **options)


def test_integers_without_names_need_their_number(tmp_path):
    fields = {"bbox": datasets.List(datasets.Value("float32")), "category": datasets.Value("int64")}
    config = DataConfig(path=str(write_rows(tmp_path, shape_rows(range(2)), fields=fields)))
    with pytest.raises(DataError, match="--num-classes"):
        open_detection_source([config], ObjectFields())
    source = open_detection_source([config], ObjectFields(), num_classes=4)
    assert (source.num_classes, source.class_name(3)) == (4, "class 3")


def test_joined_sets_need_the_same_classes(joined, tmp_path):
    fields = {
        "bbox": datasets.List(datasets.Value("float32"), length=4),
        "category": datasets.ClassLabel(names=["square", "disc"]),
    }
    other = DataConfig(path=str(write_rows(tmp_path, shape_rows(range(2)), fields=fields)))
    with pytest.raises(DataError, match="other classes"):
        open_detection_source([joined[0], other], ObjectFields())
