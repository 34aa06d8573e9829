"""Importing the package is cheap: the frameworks come with the first model that is touched."""

import json
import subprocess
import sys

import pytest

from ssl_zoo.models.registry import method_names


HEAVY = ("torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "numpy", "PIL", "pyarrow")


def loaded_after(statements: str) -> set[str]:
    code = f"import sys\n{statements}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(result.stdout))


def test_import_ssl_zoo_loads_no_framework() -> None:
    assert loaded_after("import ssl_zoo").isdisjoint(HEAVY)


def test_listing_the_public_names_loads_no_framework() -> None:
    assert loaded_after("import ssl_zoo\ndir(ssl_zoo)").isdisjoint(HEAVY)


def test_the_package_shows_its_public_names_and_nothing_else() -> None:
    import ssl_zoo

    classes = {name for name in dir(ssl_zoo) if name[0].isupper()}
    assert set(dir(ssl_zoo)) - classes == {"list_models", "model_info"}
    assert classes == {
        f"{method.title().replace('_', '')}{ending}"
        for method in method_names()
        for ending in ("Config", "ForImageClassification", "ForPreTraining", "Model", "PreTrainingOutput")
    }
    for name in classes:
        assert getattr(ssl_zoo, name).__name__ == name


def test_what_a_method_declares_loads_no_framework() -> None:
    statements = "from ssl_zoo.models.registry import find_method, method_names"
    assert loaded_after(f"{statements}\n[find_method(name) for name in method_names()]").isdisjoint(HEAVY)


def test_import_ssl_zoo_loads_little_of_its_own() -> None:
    ours = {name for name in loaded_after("import ssl_zoo") if name.startswith("ssl_zoo")}
    assert not {name for name in ours if name.startswith(("ssl_zoo.data", "ssl_zoo.training", "ssl_zoo.nn"))}


def test_the_model_classes_load_nothing_that_only_training_needs() -> None:
    assert loaded_after("import ssl_zoo\nfrom transformers import AutoModel").isdisjoint(
        {"sklearn", "datasets", "pandas", "pyarrow"}
    )


SLOW = pytest.mark.slow(seconds=7)


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param("import ssl_zoo; ssl_zoo.MiraForPreTraining", marks=SLOW),
        "from transformers import AutoConfig, AutoModel; import ssl_zoo; AutoConfig.for_model('mira')",
        "import ssl_zoo; from transformers import AutoModel; from ssl_zoo.models.mira import MiraModel",
        pytest.param("from ssl_zoo.training.recipe import load_recipe; import ssl_zoo; ssl_zoo.MiraModel", marks=SLOW),
    ],
)
def test_every_order_of_imports_works(statements: str) -> None:
    loaded_after(statements)
