"""Recipes are read strictly: an unknown key is an error that names the key and the nearest valid one."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
import yaml

from ssl_zoo.models.registry import method_names
from ssl_zoo.settings import strict_yaml
from ssl_zoo.settings.declare import documented_fields
from ssl_zoo.settings.hints import WrongTypeError, check_value
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.plan import derive_plan
from ssl_zoo.training.recipe import SECTIONS, Recipe, describe_keys, load_recipe, recipe_from_dict


ROOT = Path(__file__).resolve().parents[2]
METHODS = ", ".join(method_names())


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def error(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, text, *overrides)
    return str(caught.value)


def test_a_key_that_is_left_out_gets_its_default(tmp_path: Path) -> None:
    recipe = read(tmp_path, "method: mira\noptim:\n  weight_decay: 0.5\n")
    assert recipe.optim.weight_decay == 0.5
    assert recipe.optim.momentum == 0.9
    assert recipe.model["num_prototypes"] == 3000
    assert recipe.model["projector_hidden_features"] == [2048, 2048]
    assert recipe.train.output_dir == "runs/mira-some"
    assert recipe.model_config().num_prototypes == 3000


def test_a_saved_recipe_is_complete_and_reads_back_equal(tmp_path: Path) -> None:
    text = """
method: mira
model: {num_prototypes: 7, beta: 0.1, beta_end: 0, model_args: {drop_path_rate: 0.1, act_layer: '1e-3'}}
data: {revision: '12345e6', name: 'null', path: 'true', split: '1_0'}
optim: {learning_rate: 1e-3, weight_decay: 1.5e-06}
train: {trackers: [], epochs: 12}
"""
    recipe = read(tmp_path, text)
    assert recipe.optim.learning_rate == 0.001
    assert recipe.data.revision == "12345e6"
    saved = tmp_path / "saved.yaml"
    recipe.save(saved)
    assert load_recipe(saved) == recipe
    content = yaml.safe_load(saved.read_text(encoding="utf-8"))
    for section, cls in SECTIONS.items():
        assert set(content[section]) == {field.name for field in dataclasses.fields(cls)}
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_results_in_the_recipe_of_an_older_run_are_dropped(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    recipe = read(tmp_path, "method: mira\nresults: [{metric: knn_top1, value: 0.5, date: 2025-01-02}]\n")
    assert recipe == read(tmp_path, "method: mira\n")
    assert "results" not in recipe.to_yaml()
    assert not recwarn.list


@pytest.mark.parametrize("file", sorted(ROOT.glob("space/models/*/recipe.yaml")), ids=lambda file: file.parent.name)
def test_the_recipe_of_a_published_model_loads(file: Path) -> None:
    assert "\nresults:" in file.read_text(encoding="utf-8"), "the form of repositories that exist"
    assert load_recipe(file).method == file.parent.name.partition("-")[0]


@pytest.mark.parametrize("section", [*SECTIONS, "model"])
def test_every_key_survives_the_round_trip_by_itself(tmp_path: Path, section: str) -> None:
    recipe = read(tmp_path, "method: mira\n")
    for name, value in recipe.to_dict()[section].items():
        if isinstance(value, dict):
            continue
        override = f"{section}.{name}={strict_yaml.dump({'x': value})[3:].strip()}"
        assert read(tmp_path, "method: mira\n", override) == recipe, override


@pytest.mark.parametrize(
    ("text", "place", "nearest"),
    [
        ("method: mira\noptim:\n  learning_rat: 1\n", "line 3", "`optim.learning_rate`"),
        ("method: mira\noptim:\n  lr: 1\n", "line 3", "`optim.learning_rate`"),
        ("method: mira\noptim:\n  epochs: 1\n", "line 3", "`train.epochs`"),
        ("method: mira\nmodel:\n  tempertaure: 1\n", "line 3", "`model.teacher_temperature`"),
        ("method: mira\nviews:\n  global_crop: 1\n", "line 3", "`views.global_crops`"),
        ("method: mira\ndata:\n  brightness: 1\n", "line 3", "`data` has: path, name"),
        ("method: mira\noptin: {}\n", "line 2", "`optim`"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest_valid_key(
    tmp_path: Path, text: str, place: str, nearest: str
) -> None:
    message = error(tmp_path, text)
    assert message.startswith(f"some.yaml, {place}: unknown key ")
    assert nearest in message


def test_no_misspelling_of_any_key_is_accepted(tmp_path: Path) -> None:
    recipe = read(tmp_path, "method: mira\n")
    for section, content in recipe.to_dict().items():
        if not isinstance(content, dict):
            continue
        for name in content:
            wrong = name[:-1] + ("x" if name[-1] != "x" else "y")
            assert f"the nearest valid key is `{section}." in error(tmp_path, "method: mira\n", f"{section}.{wrong}=1")


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("optim", "learning_rate: fast", "expected float, got 'fast' (a str)"),
        ("optim", "learning_rate: true", "expected float, got true"),
        ("optim", "learning_rate: null", "expected float, got null"),
        ("optim", "learning_rate: .inf", "expected float, got inf"),
        ("optim", "learning_rate: '0.1'", "expected float, got '0.1' (a str)"),
        ("optim", "nesterov: yes", "expected true or false, got 'yes' (a str)"),
        ("optim", "nesterov: 1", "expected true or false, got 1 (an int)"),
        ("optim", "name: adam", "expected one of sgd, lars, got 'adam'"),
        ("optim", "clip_grad_norm: [1]", "expected float or null, got [1]"),
        ("train", "seed: true", "expected int, got true"),
        ("train", "seed: 1.0", "expected int, got 1.0 (a float)"),
        ("train", "micro_batch_size: 1.5", "expected int or null, got 1.5"),
        ("train", "trackers: tensorboard", "expected list of strs, got 'tensorboard'"),
        ("train", "trackers: [1]", "`train.trackers[0]`: expected str, got 1"),
        ("views", "global_scale: [0.1, x]", "`views.global_scale[1]`: expected float, got 'x'"),
        ("views", "global_scale: [0.1, 0.2, 0.3]", "`views.global_scale` must be [smallest, largest]"),
        ("views", "color_jitter: []", "`views.color_jitter` must be 4 numbers"),
        ("model", "num_prototypes: 1e3", "expected int, got 1000.0"),
        ("model", "model_args: 3", "expected mapping or null, got 3"),
        ("model", "student_temperature: -1", "`student_temperature` must be > 0, got -1"),
        ("optim", "weight_decay: -1", "`weight_decay` must be >= 0, got -1"),
        ("train", "global_batch_size: 0", "`global_batch_size` must be > 0, got 0"),
        ("optim", "warmup_epochs: 1000", "must be at most train.epochs = 100.0, got 1000"),
    ],
)
def test_a_wrong_value_names_its_place_and_what_was_expected(
    tmp_path: Path, section: str, line: str, expected: str
) -> None:
    message = error(tmp_path, f"method: mira\n{section}:\n  {line}\n")
    assert message.startswith("some.yaml, line 3: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"`method` is missing; one of {METHODS}"),
        ("method: mora\n", f"line 1: `method` must be one of {METHODS}, got 'mora'"),
        ("method: [mira]\n", f"`method` must be one of {METHODS}"),
        ("- method\n", "expected sections (method, model,"),
        ("method: mira\noptim: 3\n", "line 2: `optim` is a section of keys, got 3"),
        ("method: mira\nmethod: mira\n", "line 2: `method` is given a second time (first in line 1)"),
        ("method: mira\noptim:\n  momentum: 0.1\n  momentum: 0.2\n", "line 4: `momentum` is given a second time"),
        ("method: mira\noptim: [\n", "line 3: not valid YAML"),
        ("method: mira\noptim: &a {momentum: 0.1}\nmodel: *a\n", "line 3: write the value out instead of `*a`"),
        ("method: mira\ntrain: !!python/name:os.system x\n", "line 2: not valid YAML"),
        ("method: mira\n---\nmethod: mira\n", "not valid YAML"),
        ("method: mira\n1: 2\n", "unknown key `1`"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    message = error(tmp_path, text)
    assert message.startswith("some.yaml")
    assert expected in message


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "embedded.yaml").write_text("method: mira\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"no recipe file '.*embeded.yaml'; the nearest .*embedded.yaml"):
        load_recipe(tmp_path / "embeded.yaml")
    (tmp_path / "latin.yaml").write_bytes("method: mirá\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin.yaml: a recipe is a UTF-8 text file"):
        load_recipe(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim", "expected dotted.key=value"),
        ("=3", "expected dotted.key=value"),
        ("optim..momentum=3", "expected dotted.key=value"),
        ("--optim.momentum=3", "unknown key `--optim.momentum`; the nearest valid key is `optim.momentum`"),
        ("optim=3", "`optim` is a section; set its keys"),
        ("results=[]", "unknown key `results`"),
        ("optm.momentum=0", "the nearest valid key is `optim.momentum`"),
        ("optim.momentum=[", "not valid YAML"),
        ("optim.momentum=", "expected float, got null"),
        ("optim.momentum=x", "expected float, got 'x'"),
        ("views.global_scale=0.2,x", "`views.global_scale[1]`: expected float, got 'x'"),
        ("optim.momentum.x=1", "expected float"),
        ("method=mora", f"`method` must be one of {METHODS}"),
    ],
)
def test_a_wrong_override_is_quoted(tmp_path: Path, override: str, expected: str) -> None:
    message = error(tmp_path, "method: mira\noptim:\n  momentum: 0.5\n", override)
    assert message.startswith(f"override '{override}': ")
    assert expected in message


def test_overrides_win_in_order_and_reach_into_mappings(tmp_path: Path) -> None:
    overrides = ("optim.momentum=0.1", "optim.momentum=0", "model.model_args.drop_rate=0.5", "optim.name=sgd")
    recipe = read(tmp_path, "method: mira\noptim:\n  momentum: 0.5\n", *overrides)
    assert recipe.optim.momentum == 0.0
    assert recipe.model["model_args"] == {"drop_rate": 0.5}
    assert recipe.optim.name == "sgd"


@pytest.mark.parametrize("value", ["1234567", "12e5", "true", "a: b", "~/images", "no"])
def test_an_override_of_a_string_is_taken_as_typed(tmp_path: Path, value: str) -> None:
    assert read(tmp_path, "method: mira\n", f"data.path={value}").data.path == value


@pytest.mark.parametrize("value", ["0.2,1", "[0.2, 1.0]", " .2, 1"])
def test_a_list_may_leave_its_brackets_out(tmp_path: Path, value: str) -> None:
    recipe = read(tmp_path, "method: mira\n", f"views.global_scale={value}", "model.projector_hidden_features=64")
    assert recipe.views.global_scale == [0.2, 1.0]
    assert recipe.model["projector_hidden_features"] == [64]
    assert read(tmp_path, "method: mira\n", "train.trackers=").train.trackers == []


def test_an_override_can_be_null_where_that_is_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, "method: mira\ndata: {revision: x}\n", "data.revision=null").data.revision is None


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (1, float, 1.0),
        (1, float | int, 1),
        (1, float | None, 1.0),
        (None, float | None, None),
        ([1, 2], list[float], [1.0, 2.0]),
        ([1, 2], tuple[float, int], (1.0, 2)),
        ([1, 2, 3], tuple[float, ...], (1.0, 2.0, 3.0)),
        ([], tuple[int, ...], ()),
        ({"a": [1]}, dict[str, list[float]], {"a": [1.0]}),
        ("sgd", Literal["sgd"], "sgd"),
        (object, Any, object),
    ],
)
def test_check_value_accepts(value: Any, hint: Any, result: Any) -> None:
    checked = check_value(value, hint)
    assert checked == result
    assert type(checked) is type(result)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        (1, bool),
        (0, Literal[False]),
        (1.0, int),
        (math.nan, float),
        (None, str),
        ([1], list[str]),
        ([1], tuple[int, int]),
        ([1, "2"], tuple[int, ...]),
        ({1: 2}, dict[str, int]),
        ((1,), list[int]),
    ],
)
def test_check_value_refuses(value: Any, hint: Any) -> None:
    with pytest.raises(WrongTypeError):
        check_value(value, hint)


@pytest.mark.parametrize("text", ["1e-3", "1E3", "1.", ".5", "-0", "010", "1_000", "+3", "1.5e+3"])
def test_numbers_are_read_as_written(text: str) -> None:
    value, _ = strict_yaml.parse(text)
    assert value == float(text)
    assert isinstance(value, int | float)


@pytest.mark.parametrize("text", ["1e", "0x10", "1:30", "2025-01-02", "yes", "off", "<<", "1.2.3", "-", "e5", "."])
def test_other_scalars_are_strings(text: str) -> None:
    value, _ = strict_yaml.parse(f"{text!r}" if text == "-" else text)
    assert value == text


def test_help_documents_every_key() -> None:
    text = describe_keys()
    for section, cls in SECTIONS.items():
        for name in get_type_hints(cls):
            assert f"  {section}.{name}: " in text
            assert documented_fields(cls).get(name), f"{section}.{name} has no help"
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  ") and not line.startswith("   "):
            assert lines[number + 1].startswith("      "), line
            assert lines[number + 1].strip(), f"no help for {line}"
    assert "model.num_prototypes: 3000    (int)" in text


def test_plan(tmp_path: Path) -> None:
    text = "method: mira\ntrain: {global_batch_size: 32, micro_batch_size: 4, epochs: 10}\noptim: {warmup_epochs: 2}\n"
    plan = derive_plan(read(tmp_path, text, "train.max_steps=7"), num_rows=72, num_processes=2)
    assert (plan.micro_batch_size, plan.accumulation_steps) == (4, 4)
    assert (plan.steps_per_epoch, plan.total_steps, plan.stop_step, plan.warmup_steps) == (2.25, 22, 7, 4.5)
    assert plan.peak_learning_rate == pytest.approx(0.3 * 32 / 256)
    assert "7 of 22" in plan.describe()
    with pytest.raises(RecipeError, match="can't be split evenly over 3"):
        derive_plan(read(tmp_path, text), num_rows=72, num_processes=3)
    with pytest.raises(RecipeError, match=r"train.num_processes asks for 2, but 1 run"):
        derive_plan(read(tmp_path, text, "train.num_processes=2"), num_rows=72, num_processes=1)
