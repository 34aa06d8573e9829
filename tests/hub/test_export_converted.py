"""Converted checkpoints become the files of a repository: complete, marked, and the same each time."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

import ssl_zoo
from ssl_zoo.hub.export import ExportError, export_repo
from tests.hub.runs import CHECKPOINT_SHA256, make_conversion, make_run, result


pytestmark = pytest.mark.hub


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder, out):
    with pytest.raises(ExportError) as caught:
        export_repo(folder, out)
    assert not out.exists()
    assert not [path.name for path in out.parent.iterdir() if path.name.startswith(".")]
    return str(caught.value)


def change_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_pretraining_model(tmp_path):
    conversion = make_conversion(tmp_path)
    out = tmp_path / "out"
    files = {path.as_posix() for path in export_repo(conversion, out, repo_id="org/mira-resnet50")}
    assert files == set(contents(out))
    assert {"conversion.json", "README.md", "config.json", "pretraining/config.json", "modeling_mira.py"} < files
    assert not {"recipe.yaml", "metrics.jsonl", "results.jsonl"} & files

    saved = load_file(conversion / "model" / "model.safetensors")
    full, info = AutoModelForPreTraining.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in full.state_dict().items())
    backbone = AutoModel.from_pretrained(out)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in backbone.state_dict().items())

    told = json.loads((out / "conversion.json").read_text())
    assert set(told["result"]) == {"model.safetensors", "pretraining/model.safetensors"}
    for name, weights in told["result"].items():
        import hashlib

        data = (out / name).read_bytes()
        assert weights == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert str(tmp_path) not in json.dumps(told)
    for folder in (out, out / "pretraining"):
        assert AutoConfig.from_pretrained(folder).converted_from_sha256 == CHECKPOINT_SHA256


def test_a_backbone_alone(tmp_path):
    conversion = make_conversion(tmp_path, backbone_only=True)
    out = tmp_path / "out"
    export_repo(conversion, out)
    assert not (out / "pretraining").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["pretraining_subfolder"] is None
    assert "AutoModelForPreTraining" not in config["auto_map"]
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForImageClassification"}
    assert set(json.loads((out / "conversion.json").read_text())["result"]) == {"model.safetensors"}
    saved = load_file(conversion / "model" / "model.safetensors")
    model = AutoModel.from_pretrained(out)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    again = tmp_path / "again"
    export_repo(out, again)
    assert contents(again) == contents(out)


@pytest.mark.parametrize("make", [make_conversion, make_run])
def test_an_export_exports_to_the_same_files(tmp_path, make):
    export_repo(make(tmp_path), tmp_path / "first")
    export_repo(tmp_path / "first", tmp_path / "second")
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_results_measured_of_an_export_are_taken_over(tmp_path):
    export_repo(make_conversion(tmp_path), tmp_path / "out")
    (tmp_path / "out" / "results.jsonl").write_text(json.dumps(result(value=0.8125)) + "\n")
    (tmp_path / "out" / "labels").mkdir()
    (tmp_path / "out" / "labels" / "a.parquet").write_bytes(b"labels are a data set of their own")
    files = {path.as_posix() for path in export_repo(tmp_path / "out", tmp_path / "again")}
    assert "results.jsonl" in files
    assert not any(name.startswith("labels") for name in files)
    assert "0.8125" in (tmp_path / "again" / "README.md").read_text()


def test_the_mark_survives_transformers(tmp_path):
    """Loaded, saved and put into a run's folder, converted weights are still recognised."""
    export_repo(make_conversion(tmp_path, license_id=None), tmp_path / "out")
    run = make_run(tmp_path)
    shutil.rmtree(run / "model")
    AutoModelForPreTraining.from_pretrained(tmp_path / "out").save_pretrained(run / "model")
    said = refused(run, tmp_path / "run-out")
    assert f"(SHA-256 {CHECKPOINT_SHA256[:12]}...)" in said
    assert "no conversion.json" in said
    assert "recipes/convert.py" in said
    (tmp_path / "out" / "conversion.json").unlink()
    shutil.copyfile(run / "recipe.yaml", tmp_path / "out" / "recipe.yaml")
    assert "no conversion.json" in refused(tmp_path / "out", tmp_path / "a")


def test_folders_that_mix_models(tmp_path):
    conversion = make_conversion(tmp_path)
    out = tmp_path / "out"
    export_repo(conversion, out)

    other = tmp_path / "other"
    shutil.copytree(out, other)
    source = json.loads((other / "conversion.json").read_text())["source"]
    change_json(other / "conversion.json", source={**source, "sha256": "ab" * 32})
    assert "no conversion.json" in refused(other, tmp_path / "a")

    changed = tmp_path / "changed"
    shutil.copytree(out, changed)
    weights = load_file(changed / "model.safetensors")
    weights["bn1.weight"] += 1
    save_file(weights, changed / "model.safetensors")
    assert "mixes two models" in refused(changed, tmp_path / "b")
    full = load_file(changed / "pretraining" / "model.safetensors")
    full["timm_model.bn1.weight"] += 1
    save_file(full, changed / "pretraining" / "model.safetensors")
    assert "other weights than the conversion made" in refused(changed, tmp_path / "c")

    (conversion / "recipe.yaml").write_text("method: mira\n")
    assert "recipe.yaml and conversion.json" in refused(conversion, tmp_path / "d")
    (conversion / "recipe.yaml").unlink()
    change_json(conversion / "conversion.json", method="sela")
    assert "of method 'sela', config.json of 'mira'" in refused(conversion, tmp_path / "e")
    change_json(conversion / "conversion.json", method="mira", license=None, source={"sha256": "x"})
    assert "lacks license and source.sha256" in refused(conversion, tmp_path / "f")


def test_damaged_folders(tmp_path):
    conversion = make_conversion(tmp_path)
    weights = conversion / "model" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    assert "missing or damaged" in refused(conversion, tmp_path / "a")
    weights.rename(weights.with_suffix(".bin"))
    assert "in this format only" in refused(conversion, tmp_path / "b")
    (conversion / "conversion.json").write_text("{")
    assert "is not valid JSON" in refused(conversion, tmp_path / "c")
    (conversion / "conversion.json").unlink()
    assert "holds no recipe.yaml or conversion.json" in refused(conversion, tmp_path / "d")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("optimizer.state.0.exp_avg", (3,)),
        ("bank.embeddings", (5, 8)),
        ("student_backbone.conv1.weight", None),
        ("prototypes.weight", (11, 8)),
    ],
)
def test_heads_are_those_of_the_method(tmp_path, name, shape):
    conversion = make_conversion(tmp_path)
    file = conversion / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(name, None)
    if shape:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, file, metadata={"format": "pt"})
    if shape is None:
        export_repo(conversion, tmp_path / "out")  # loading fills it from the teacher
        return
    said = refused(conversion, tmp_path / "out")
    assert "1 tensors are missing, unknown or of another shape" in said
    assert name in said


def test_the_bank_of_a_run_is_refused(tmp_path):
    run = make_run(tmp_path)
    config = ssl_zoo.MsfConfig(
        architecture="resnet18",
        model_args={"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]},
        bank_size=16,
        projection_features=8,
    )
    model = ssl_zoo.MsfForPreTraining(config)
    shutil.rmtree(run / "model")
    model.save_pretrained(run / "model")
    recipe = (run / "recipe.yaml").read_text().replace("method: mira", "method: msf")
    (run / "recipe.yaml").write_text(recipe)
    export_repo(run, tmp_path / "good")
    assert not [name for name in load_file(tmp_path / "good" / "pretraining" / "model.safetensors") if "bank" in name]
    save_file(dict(model.state_dict()), run / "model" / "model.safetensors", metadata={"format": "pt"})
    said = refused(run, tmp_path / "out")
    assert "5 tensors are missing, unknown" in said
    assert "bank.embeddings" in said


def test_a_backbone_with_heads_is_no_backbone(tmp_path):
    conversion = make_conversion(tmp_path)
    change_json(conversion / "model" / "config.json", architectures=["MiraModel"])
    assert "backbone alone" in refused(conversion, tmp_path / "out")
