"""Fine-tune Faster R-CNN on a pretrained backbone and measure it: COCO's average precisions.

accelerate launch recipes/detect.py MODEL --data ID_OR_FOLDER [--data ANOTHER] [--preset voc|coco] [--architecture fpn]

MODEL is a run's folder, org/name on the Hub, a name of timm (resnet50.tv_in1k), or none for random weights. The same
command continues a stopped run. Writes results.jsonl, metrics.jsonl, detections.png and
detector.safetensors. See docs/detection.md.
"""

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from accelerate import Accelerator
from safetensors.torch import save_file
from transformers.utils.logging import disable_progress_bar

from ssl_zoo.data.source import DataConfig, DataError
from ssl_zoo.detection.backbone import load_detection_backbone
from ssl_zoo.detection.boxes import BoxFormat, ObjectFields
from ssl_zoo.detection.coco import DetectionScores, score_detections
from ssl_zoo.detection.config import PRESETS, DetectionConfig
from ssl_zoo.detection.loop import LoopOptions, TrainingStopped, prepare_folder, train_detector
from ssl_zoo.detection.measure import detect_all
from ssl_zoo.detection.model import build_detector
from ssl_zoo.detection.report import describe_detection_data, draw_detections, make_results, render_scores
from ssl_zoo.detection.source import DetectionSource, open_detection_source
from ssl_zoo.evaluation.results import append_results
from ssl_zoo.loading.models import ModelLoadError
from ssl_zoo.settings.declare import documented_fields, plain
from ssl_zoo.settings.given import read_value
from ssl_zoo.settings.hints import SettingsError, WrongTypeError
from ssl_zoo.training.checkpoint import CheckpointError
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.processes import create_accelerator


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a run's folder, org/name on the Hub, a timm name, or none")
    parser.add_argument("--revision", help="commit, branch or tag of the model on the Hub")
    parser.add_argument("--random-init", action="store_true", help="take the model's architecture with fresh weights")
    parser.add_argument("--output", metavar="DIR", type=Path, help="the run's folder; runs/detect-... by default")

    data = parser.add_argument_group("data", "one value of a list serves all of --data, or give as many")
    data.add_argument("--data", metavar="PATH", action="append", required=True, help="org/name or folder; repeatable")
    data.add_argument("--train-split", metavar="SPLIT", nargs="+", default=["train"], help="of each --data (train)")
    data.add_argument("--data-name", metavar="NAME", nargs="+", help="configuration (subset) of each --data")
    data.add_argument("--data-revision", metavar="SHA", nargs="+", help="revision of each --data on the Hub")
    data.add_argument("--test-data", metavar="PATH", help="what is measured on; the first --data by default")
    data.add_argument("--test-split", default="test", help="split that is measured on (test)")
    data.add_argument("--test-name", metavar="NAME", help="configuration of the test data")
    data.add_argument("--test-revision", metavar="SHA", help="revision of the test data on the Hub")
    data.add_argument("--image-column", help="column of the images; found by its type by default")
    data.add_argument("--objects-column", default="objects", help="column of the annotations (objects)")
    data.add_argument("--bbox-field", default="bbox", help="its field of the boxes (bbox)")
    data.add_argument("--category-field", default="category", help="its field of the classes (category)")
    data.add_argument("--box-format", choices=get_args(BoxFormat), default="xywh", help="xywh as COCO's, or corners")
    data.add_argument("--num-classes", type=int, help="needed when the classes are integers without names")
    data.add_argument("--download", action="store_true", help="download before training instead of streaming")

    settings = parser.add_argument_group("settings", "what defines the result; the preset's where not given")
    settings.add_argument("--preset", choices=sorted(PRESETS), default="voc", help="published settings (voc)")
    add_options(settings, PRESETS)
    loop = parser.add_argument_group("speed and files", "these don't change the result")
    add_options(loop, {"default": LoopOptions()})
    return parser.parse_args()


def add_options(group: Any, defaults: dict[str, Any]) -> None:
    """An option for each setting, with its help and the values that apply where it isn't given."""
    kind = type(next(iter(defaults.values())))
    help_lines, hints = documented_fields(kind), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, values = hints[field.name], {name: plain(getattr(each, field.name)) for name, each in defaults.items()}
        shown = "; ".join(f"{name}: {json.dumps(value)}" for name, value in values.items())
        options: dict[str, Any] = {"help": f"{help_lines[field.name]} ({shown})".replace("%", "%%"), "default": None}
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = partial(read_option, hint=hint)
            options |= {"nargs": "*"} if get_origin(hint) is tuple else {}
            options |= {"choices": get_args(hint)} if get_origin(hint) is Literal else {}
        group.add_argument(f"--{field.name.replace('_', '-')}", **options)


def read_option(text: str, hint: Any) -> Any:
    """A value of a type, as recipes and protocols read it."""
    try:
        return read_value(text, hint)
    except (SettingsError, WrongTypeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def read_settings(arguments: argparse.Namespace, defaults: Any) -> Any:
    """The defaults with the values of the command line; a list may be given in several arguments."""
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(defaults)}
    given = {name: sum(value, ()) if isinstance(value, list) else value for name, value in given.items()}
    return dataclasses.replace(defaults, **{name: value for name, value in given.items() if value is not None})


def open_sources(arguments: argparse.Namespace) -> tuple[DetectionSource, DetectionSource]:
    """Training and test images.

    Raises:
        DataError: They can't be opened, or don't fit together.
    """
    fields = ObjectFields(
        arguments.objects_column, arguments.bbox_field, arguments.category_field, arguments.box_format
    )

    def of_each(option: str, values: Sequence[str] | None) -> list[str | None]:
        values = values or []
        if len(values) not in (0, 1, len(arguments.data)):
            raise DataError(f"{option} has {len(values)} values, but there are {len(arguments.data)} --data")
        return list(values) if len(values) > 1 else [*values, None][:1] * len(arguments.data)

    def config(path: str, split: str | None, name: str | None, revision: str | None) -> DataConfig:
        return DataConfig(
            path=path,
            split=split or "",
            name=name,
            revision=revision,
            image_column=arguments.image_column,
            streaming=not arguments.download,
        )

    train = [
        config(*values)
        for values in zip(
            arguments.data,
            of_each("--train-split", arguments.train_split),
            of_each("--data-name", arguments.data_name),
            of_each("--data-revision", arguments.data_revision),
            strict=True,
        )
    ]
    path = arguments.test_data or arguments.data[0]
    same = path == arguments.data[0]  # then name and revision are those of the training data, unless others are given
    test = config(
        path,
        arguments.test_split,
        arguments.test_name or (train[0].name if same else None),
        arguments.test_revision or (train[0].revision if same else None),
    )
    sources = [
        open_detection_source(configs, fields, num_classes=arguments.num_classes) for configs in (train, [test])
    ]
    if sources[0].class_names != sources[1].class_names:
        raise DataError(
            f"Training and test data have other classes: {sources[0].class_names} and {sources[1].class_names}"
        )
    return sources[0], sources[1]


def detect(arguments: argparse.Namespace, accelerator: Accelerator, output: Path) -> DetectionScores:
    """Train, measure, write."""
    config: DetectionConfig = read_settings(arguments, PRESETS[arguments.preset])
    options: LoopOptions = read_settings(arguments, LoopOptions())
    backbone = load_detection_backbone(
        arguments.model, revision=arguments.revision, random_init=arguments.random_init, seed=config.seed
    )
    with accelerator.main_process_first():  # the first process downloads and counts, the others find it done
        train, test = open_sources(arguments)
        data = describe_detection_data(train, test)
        settings = {"model": Path(arguments.model).name, "model_revision": arguments.revision}
        settings |= {"random_init": arguments.random_init, **config.to_dict()}
        all_settings = settings | {f"data.{name}": value for name, value in data.items()}
        prepare_folder(output, all_settings, create=accelerator.is_main_process)
    start = time.perf_counter()
    detector = build_detector(
        backbone.resnet, config, num_classes=train.num_classes, mean=backbone.mean, std=backbone.std
    )
    detector = train_detector(detector, train, config, accelerator=accelerator, run=output, options=options)
    table = detect_all(
        detector,
        test,
        num_workers=options.num_workers,
        max_corrupt_share=options.max_corrupt_share,
        device=accelerator.device,
    )
    scores = score_detections(table, num_classes=test.num_classes)
    if accelerator.is_main_process:
        processes = {"num_processes": accelerator.num_processes, "micro_batch_size": options.micro_batch_size}
        results = make_results(
            scores,
            subject="trained" if backbone.trained else "random_init",
            protocol={"name": "faster_rcnn", "preset": arguments.preset, **settings, **processes},
            data=data,
            seed=config.seed,
            wall_seconds=round(time.perf_counter() - start, 2),
        )
        append_results(output / "results.jsonl", results)
        weights = {name: value.contiguous() for name, value in detector.state_dict().items()}
        save_file(weights, output / "detector.safetensors")
        draw_detections(output / "detections.png", test, table, scores)
    return scores


def main() -> None:
    """Run, or say why not."""
    # Python puts this folder first on the path, where `import evaluate` would find a recipe instead of the library.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bar()  # transformers' own, of reading a file
    accelerator = create_accelerator()
    fresh = "-random" if arguments.random_init else ""
    default = f"detect-{Path(arguments.model).name}{fresh}-{arguments.architecture or 'c4'}"
    output = arguments.output or Path("runs") / default
    try:
        scores = detect(arguments, accelerator, output)
    except TrainingStopped as stopped:
        if accelerator.is_main_process:
            print(f"\nThe run {stopped}.")
        accelerator.end_training()
        sys.exit(0)
    except (CheckpointError, DataError, ModelLoadError, RecipeError, ValueError) as error:
        sys.exit(f"Not measured. {error}")
    if accelerator.is_main_process:
        print(f"\n{render_scores(scores)}\n\nWritten to {output}/")
    accelerator.end_training()


if __name__ == "__main__":
    main()
