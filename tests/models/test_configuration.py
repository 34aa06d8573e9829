"""Arguments that aren't fields are refused with the nearest name; what transformers and timm write still loads."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, TimmWrapperConfig

import ssl_zoo
from ssl_zoo.models.registry import config_class_of, method_names


ROOT = Path(__file__).resolve().parents[2]
SMALL = {"architecture": "resnet18", "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}}
GIVEN_TO_ANY = {
    "num_labels": 3,
    "problem_type": "single_label_classification",
    "torch_dtype": "float32",
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "architectures": ["MiraModel"],
    "auto_map": {"AutoConfig": "configuration_mira.MiraConfig"},
    "transformers_version": "5.0.0",
    "model_type": "mira",
    "name_or_path": "org/name",
    "_name_or_path": "org/name",
    "attn_implementation": "eager",
    "pretraining_subfolder": "pretraining",
    "num_classes": 0,
    "global_pool": "avg",
    "label_names": ["a"],
}


@pytest.mark.parametrize("method", method_names())
def test_an_argument_that_is_no_field_is_refused_with_the_nearest_name(method):
    config_class = config_class_of(method)
    with pytest.raises(TypeError, match=rf"^{config_class.__name__}: there is no field `architectur`.*'architecture'"):
        config_class(architectur="resnet18")
    with pytest.raises(TypeError, match=r"no field `backbone`; the fields are architecture, model_args, .*"):
        config_class(backbone="vit_small_patch16_224")
    with pytest.raises(TypeError, match="no field `nonsense`"):
        AutoConfig.for_model(method, nonsense=3)


def test_a_methods_own_fields_are_proposed():
    with pytest.raises(TypeError, match=r"no field `betta`; did you mean 'beta'\?"):
        ssl_zoo.MiraConfig(betta=3)
    with pytest.raises(TypeError, match=r"no field `num_label`; did you mean 'num_labels'\?"):
        ssl_zoo.SelaConfig(num_label=3)


@pytest.mark.parametrize("name", GIVEN_TO_ANY)
def test_what_transformers_takes_and_timm_writes_is_taken(name):
    ssl_zoo.MiraConfig(**{name: GIVEN_TO_ANY[name]})


def test_a_configuration_is_rebuilt_from_its_own_dictionary():
    config = ssl_zoo.MiraConfig(**GIVEN_TO_ANY)
    assert type(config)(**config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("file", sorted((ROOT / "space" / "models").rglob("config.json")), ids=str)
def test_every_published_configuration_loads_without_a_warning(file, caplog):
    written = json.loads(file.read_text(encoding="utf-8"))
    config = AutoConfig.from_pretrained(file.parent)
    assert {name: getattr(config, name) for name in ("architecture", "global_pool", "num_classes")} == {
        name: written[name] for name in ("architecture", "global_pool", "num_classes")
    }
    assert not caplog.records


def test_a_file_of_another_version_loads_with_a_warning(tmp_path, caplog):
    ssl_zoo.ByolModel(ssl_zoo.ByolConfig(**SMALL)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "momentun": 0.5}))
    assert AutoModel.from_pretrained(tmp_path).config.momentum == 0.996
    (record, *_) = caplog.records
    assert record.getMessage().startswith("ByolConfig: there is no field `momentun`; did you mean 'momentum'?")
    assert "_is_loaded" not in AutoConfig.from_pretrained(tmp_path).to_dict()


def test_overrides_of_a_loaded_model_work(tmp_path):
    ssl_zoo.ByolModel(ssl_zoo.ByolConfig(**SMALL)).save_pretrained(tmp_path)
    assert AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5).config.num_labels == 5
    assert AutoConfig.from_pretrained(tmp_path, momentum=0.5).momentum == 0.5
    _, unused = AutoConfig.from_pretrained(tmp_path, betta=3, return_unused_kwargs=True)
    assert unused == {"betta": 3}


def test_what_timms_wrapper_wrote_loads(tmp_path):
    TimmWrapperConfig(architecture="resnet18", num_labels=4, id2label=dict(enumerate("abcd"))).save_pretrained(
        tmp_path
    )
    config = ssl_zoo.MiraConfig.from_pretrained(tmp_path)
    assert (config.architecture, config.label_names) == ("resnet18", list("abcd"))
