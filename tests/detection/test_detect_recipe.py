"""`recipes/detect.py` from a run's folder to results, stopped and continued, on one process and two."""

import json
import re
import runpy
import sys

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from ssl_zoo.data.source import DataConfig
from ssl_zoo.detection.backbone import load_detection_backbone
from ssl_zoo.detection.boxes import ObjectFields
from ssl_zoo.detection.coco import score_detections
from ssl_zoo.detection.config import PRESETS, DetectionConfig
from ssl_zoo.detection.loop import LoopOptions, TrainingStopped, prepare_folder, take_step, train_detector
from ssl_zoo.detection.measure import detect_all
from ssl_zoo.detection.model import build_detector
from ssl_zoo.detection.picture import choose_images, save_detections_picture
from ssl_zoo.detection.source import open_detection_source
from ssl_zoo.detection.stream import DetectionStream
from ssl_zoo.evaluation.results import read_results
from ssl_zoo.nn.backbone import create_backbone
from tests import forked
from tests.data.tiny_sets import write_parquet
from tests.detection.tiny_shapes import shape_rows, write_rows
from tests.evaluation.tiny_run import write_run
from tests.two_processes import run_in_two_processes


TINY = {"batch_size": 2, "min_sizes": (48,), "max_size": 96, "anchor_sizes": (12, 24), "rois_per_image": 8}
NO_WORKERS = {"num_workers": 0, "log_every": 1}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    for seeds in (range(3), range(3, 5)):
        write_rows(folder, shape_rows(seeds))
    return write_rows(folder, shape_rows(range(50, 53)), split="test")


def open_shapes(path, split="train"):
    return open_detection_source([DataConfig(path=str(path), split=split)], ObjectFields())


def tiny_detector(config, channels=(8, 8, 8, 16)):
    torch.manual_seed(config.seed)
    net = create_backbone("resnet18", model_args={"layers": [1, 1, 1, 1], "channels": list(channels)})
    return build_detector(net, config, num_classes=2, mean=(0.5,) * 3, std=(0.25,) * 3)


def train(shapes, run, config, **options):
    accelerator = Accelerator(cpu=True)
    detector = tiny_detector(config)
    run.mkdir(exist_ok=True)
    return train_detector(
        detector,
        open_shapes(shapes),
        config,
        accelerator=accelerator,
        run=run,
        options=LoopOptions(**{**NO_WORKERS, **options}),
    )


def losses_of(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(shapes, tmp_path):
    config = DetectionConfig(steps=3, warmup_steps=2, decay_steps=(2,), **TINY)
    whole = train(shapes, tmp_path / "whole", config)
    with pytest.raises(TrainingStopped, match="after step 1 of 3"):
        train(shapes, tmp_path / "stopped", config, max_steps=1)
    continued = train(shapes, tmp_path / "stopped", config)
    for a, b in zip(whole.state_dict().values(), continued.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert len(losses_of(tmp_path / "whole")) == 3
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "stopped")
    again = train(shapes, tmp_path / "stopped", config)  # complete: nothing is left to do
    assert torch.equal(again.rpn.head.cls_logits.weight, whole.rpn.head.cls_logits.weight)


def test_pieces_of_a_batch_are_averaged(shapes, monkeypatch):
    """A batch given twice gives the same step as once, with norms without running statistics and equal samples."""
    monkeypatch.setattr(torch, "randperm", lambda n, **options: torch.arange(n, device=options.get("device")))
    config = DetectionConfig(norm="frozen", **TINY)
    batch = next(iter(DetectionStream(open_shapes(shapes), batch_size=2)))
    stepped = []
    for copies in (1, 2):
        detector = tiny_detector(config).train()
        optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1)
        losses = take_step(Accelerator(cpu=True), detector, optimizer, [batch] * copies)
        parts = [losses[name] for name in losses if name != "loss"]
        assert losses["loss"] == pytest.approx(sum(parts), rel=1e-5)
        stepped.append((losses["loss"], detector.state_dict()))
    assert stepped[0][0] == pytest.approx(stepped[1][0], rel=1e-6)
    for a, b in zip(stepped[0][1].values(), stepped[1][1].values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_that_cannot_be_split_is_refused(shapes, tmp_path):
    with pytest.raises(ValueError, match=r"batch of 2 images can't be split over 1 process.* pieces of 3"):
        train(shapes, tmp_path / "run", DetectionConfig(steps=1, **TINY), micro_batch_size=3)


def test_a_folder_with_another_run_is_refused(tmp_path):
    prepare_folder(tmp_path / "run", {"steps": 3, "norm": "sync"}, create=True)
    prepare_folder(tmp_path / "run", {"steps": 3, "norm": "sync"}, create=True)
    with pytest.raises(ValueError, match=r"other settings: steps \(3 there, 4 now\)"):
        prepare_folder(tmp_path / "run", {"steps": 4, "norm": "sync"}, create=True)


def detect_in(rank, path):
    config = DetectionConfig(**TINY)
    detector = tiny_detector(config).eval()
    torch.nn.init.normal_(
        detector.roi_heads.box_predictor.cls_score.weight, generator=torch.Generator().manual_seed(1)
    )
    return detect_all(detector, open_shapes(path), num_workers=0)


@pytest.mark.slow(seconds=20)
def test_two_processes_measure_what_one_does(shapes):
    alone = detect_in(0, str(shapes))
    assert alone.images[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(alone.detections) > 10
    for found in run_in_two_processes(detect_in, str(shapes)):
        assert torch.equal(found.images, alone.images)
        assert torch.equal(found.truth, alone.truth)
        assert torch.equal(found.detections, alone.detections)
        assert score_detections(found, num_classes=2) == score_detections(alone, num_classes=2)


def command(root, run, shapes, *more):
    arguments = [str(root / "recipes" / "detect.py"), run, "--data", shapes, "--steps", 3, "--warmup-steps", 1]
    arguments += ["--batch-size", 2, "--min-sizes", 48, "--max-size", 96, "--anchor-sizes", 12, 24]
    arguments += ["--rois-per-image", 8, "--num-workers", 1, "--log-every", 1, "--learning-rate", 0.01]
    return [str(word) for word in [*arguments, *more]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "first", write_parquet(folder / "pets", (5,)))


def test_from_a_run_to_results_and_picture(root, run, shapes, tmp_path):
    out = tmp_path / "out"
    done = forked.run_two(*command(root, run, shapes, "--output", out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("AP50") == 1
    results = {result.metric: result for result in read_results(out / "results.jsonl")}
    assert {"detection_ap", "detection_ap50", "detection_ap75", "detection_voc_ap50"} <= set(results)
    result = results["detection_ap50"]
    assert 0 <= result.value <= 1
    assert (result.subject, result.seed) == ("trained", 0)
    assert (result.protocol["architecture"], result.protocol["num_processes"]) == ("c4", 2)
    assert (result.data["path"], result.data["num_train"], result.data["num_test"]) == ("shapes", 5, 3)
    assert str(tmp_path) not in (out / "results.jsonl").read_text()
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    with Image.open(out / "detections.png") as picture:
        assert min(picture.size) > 200
    weights = load_file(out / "detector.safetensors")
    layer = load_detection_backbone(str(run)).resnet.layer1[0].conv1.weight
    found = weights["backbone.body.layer1.0.conv1.weight"]
    torch.testing.assert_close(found, layer, rtol=0, atol=0.05)  # trained from there
    assert not torch.equal(found, layer)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--objects-column", "boxes"), r"no column 'boxes'; it has \['image', 'objects'\]"),
        (("--test-split", "tset"), "no split 'tset'"),
        (("--box-format", "xyxy", "--data", "DATA", "--data", "DATA", "--train-split", "train", "train"), "3 --data"),
        (("--architecture", "fpn"), "must be five for 'fpn'"),
        (("--learning-rate", "0"), "`learning_rate` must be > 0"),
    ],
)
def test_errors_are_sentences(root, run, shapes, more, message, tmp_path, monkeypatch):
    words = command(root, run, shapes, *(str(shapes) if word == "DATA" else word for word in more))
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(tmp_path / "out")])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(words[0], run_name="__main__")
    assert re.search(rf"^Not measured\. .*{message}", str(stopped.value), re.DOTALL)
    assert not (tmp_path / "out").exists()


def test_settings_are_read_by_their_types(root, monkeypatch):
    script = runpy.run_path(str(root / "recipes" / "detect.py"), run_name="script")

    def read(*words):
        monkeypatch.setattr(sys, "argv", ["detect.py", "none", "--data", "pets", *words])
        arguments = script["parse_arguments"]()
        return [script["read_settings"](arguments, each) for each in (PRESETS[arguments.preset], LoopOptions())]

    assert read() == [PRESETS["voc"], LoopOptions()]
    lists = ("--min-sizes", "640", "672", "--decay-steps", "10,20", "--anchor-sizes", "[8, 16]")
    config, options = read("--preset", "coco", "--learning-rate", "1", *lists, "--train-on-empty", "--log-every", "5")
    assert (config.min_sizes, config.decay_steps, config.anchor_sizes) == ((640, 672), (10, 20), (8, 16))
    assert (config.learning_rate, config.train_on_empty, config.steps) == (1.0, True, PRESETS["coco"].steps)
    assert options.log_every == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "1.5"), "--steps: expected int, got 1.5"),
        (("--min-sizes", "640", "x"), "--min-sizes: expected int, got 'x'"),
        (("--norm", "batch"), "--norm: expected one of sync, frozen, got 'batch'"),
    ],
)
def test_a_wrong_option_is_named(root, monkeypatch, capsys, words, message):
    script = runpy.run_path(str(root / "recipes" / "detect.py"), run_name="script")
    monkeypatch.setattr(sys, "argv", ["detect.py", "none", "--data", "pets", *words])
    with pytest.raises(SystemExit):
        script["parse_arguments"]()
    assert message in capsys.readouterr().err


def test_picture_needs_an_image(tmp_path):
    with pytest.raises(ValueError, match="no image"):
        save_detections_picture(tmp_path / "a.png", [], title="", caption="", class_names=["a"])


@pytest.mark.slow(seconds=60)
@pytest.mark.timeout(900)
def test_overfits_a_few_images(tmp_path):
    source = open_shapes(write_rows(tmp_path / "shapes", shape_rows(range(6))))
    config = DetectionConfig(
        steps=300,
        batch_size=2,
        learning_rate=0.1,
        warmup_steps=10,
        decay_steps=(240,),
        min_sizes=(64,),
        max_size=128,
        anchor_sizes=(12, 20, 32),
        rois_per_image=32,
    )
    (tmp_path / "run").mkdir()
    detector = tiny_detector(config, channels=(8, 16, 32, 128))
    detector.backbone.body.maxpool = torch.nn.Identity()  # the shapes are small
    options = LoopOptions(num_workers=0, log_every=50)
    detector = train_detector(
        detector, source, config, accelerator=Accelerator(cpu=True), run=tmp_path / "run", options=options
    )
    table = detect_all(detector, source, num_workers=0)
    scores = score_detections(table, num_classes=2)
    assert scores.ap50 > 0.8
    chosen = choose_images(source, table)
    assert len(chosen) == 6
    save_detections_picture(
        tmp_path / "detections.png", chosen, title="What was found", caption="", class_names=source.class_names
    )
    assert (tmp_path / "detections.png").stat().st_size > 10_000
