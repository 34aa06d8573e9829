"""A compact repository leaves out what begins as a copy, and does all that a published model must."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ssl_zoo
from ssl_zoo.hub.export import export_repo
from tests.hub.runs import TINY, make_run
from tests.tolerances import SAME_NETWORK


pytestmark = pytest.mark.hub


def test_a_student_is_left_out_and_begins_as_the_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path)
    export_repo(run, tmp_path / "whole")
    export_repo(run, tmp_path / "small", compact=True)
    names = load_file(tmp_path / "small" / "pretraining" / "model.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"timm_model", "teacher_projector", "prototypes"}
    whole, small = (ssl_zoo.MiraForPreTraining.from_pretrained(tmp_path / name) for name in ("whole", "small"))
    assert not any("student" in record.getMessage() for record in caplog.records), "nothing is missing"
    images = torch.randn(4, 3, 64, 64)
    for one, other in zip(whole.pseudo_labels(images), small.pseudo_labels(images), strict=True):
        torch.testing.assert_close(one, other, **SAME_NETWORK)
    with torch.no_grad():
        torch.testing.assert_close(small.student_backbone(images), small.timm_model(images), **SAME_NETWORK)
        assert not torch.allclose(whole.student_backbone(images), whole.timm_model(images), **SAME_NETWORK)
    for name, tensor in small.student_projector.state_dict().items():
        assert torch.equal(tensor, small.teacher_projector.state_dict()[name]), name
    small_root, whole_root = (tmp_path / name / "model.safetensors" for name in ("small", "whole"))
    assert small_root.read_bytes() == whole_root.read_bytes()
    export_repo(tmp_path / "small", tmp_path / "again")  # a compact one can be published
    again = tmp_path / "again" / "pretraining" / "model.safetensors"
    assert load_file(again).keys() == names


@pytest.mark.parametrize(("supervision", "left_out"), [("self", True), ("semi", False)])
def test_a_target_that_labels_stays(supervision: str, left_out: bool) -> None:
    """CMSF's pseudo-labels are made by the target, so leaving it out would change them."""
    config = ssl_zoo.CmsfConfig(
        architecture="resnet18",
        model_args=TINY,
        supervision=supervision,
        projector_hidden_features=[16],
        predictor_hidden_features=[16],
        projection_features=8,
        bank_size=16,
        num_samples=8,
        num_supervised_classes=2,
        num_labelled=4,
    )
    parts = ssl_zoo.CmsfForPreTraining(config).rebuilt_parts
    assert parts == (("target_backbone", "target_projector") if left_out else ())
