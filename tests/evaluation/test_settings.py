import pytest

from ssl_zoo.evaluation.protocols.settings import ProtocolSettings, describe, override


def test_parameters_change_and_the_original_stays():
    settings = ProtocolSettings()
    words = ["knn.k=1,5", "linear.learning_rates=0.1,0.3", "semi1.share=0.05", "semi1.frozen=true"]
    changed = override(settings, [*words, "clusters.num_clusters=7", "semi10.labelled_ids=ids.txt", "knn.k=2"])
    assert changed.knn.k == (2,)
    assert changed.linear.learning_rates == (0.1, 0.3)
    assert (changed.semi1.share, changed.semi1.frozen) == (0.05, True)
    assert changed.clusters.num_clusters == 7
    assert changed.semi10.labelled_ids == "ids.txt"
    assert override(changed, ["clusters.num_clusters=null"]).clusters.num_clusters is None
    assert settings == ProtocolSettings()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("knn.kk=1", r"'knn.kk=1' sets no parameter .* did you mean 'knn.k'\?"),
        ("k", "sets no parameter"),
        ("linear.epochs=1.5", "expected a whole number, got '1.5'"),
        ("semi1.frozen=maybe", "expected true or false, got 'maybe'"),
        ("knn.k=one", "expected a whole numbers, separated by commas, got 'one'"),
        ("linear.epochs=0", "`epochs` must be >= 1, got 0"),
        ("semi1.share=2", "`share` must be above 0"),
    ],
)
def test_what_is_no_parameter_or_no_value_is_said(word, message):
    with pytest.raises(ValueError, match=message):
        override(ProtocolSettings(), [word])


def test_the_description_names_all_parameters_on_a_line_each():
    lines = describe(ProtocolSettings()).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == list(vars(ProtocolSettings()))
    assert "k=1,10,20,100,200" in lines[0]
    assert "(45 values)" in lines[2]
