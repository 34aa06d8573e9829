"""Sources: every format streams with the same rows, and every mistake of a user gets its own message."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from photographs import photographs, write_photographs
from PIL import Image
from tiny_sets import CLASSES, UNEVEN, encoded, row_image, write_imagefolder, write_parquet, write_webdataset

from ssl_zoo.data import DataConfig, DataError, ImageSource, counts, decode_image, open_source
from ssl_zoo.data.source import Row


NUM_ROWS = sum(UNEVEN)


def shown(row: Row) -> tuple[int, int]:
    """(id, row number in the pixels)."""
    red, green, _ = decode_image(row.image).getpixel((0, 0))  # type: ignore[misc]
    return row.sample_id, int(red) + 256 * int(green)


def all_rows(source: ImageSource) -> list[tuple[int, int, int]]:
    """(id, row that the pixels show, label) of every shard, in order."""
    return [
        (*shown(row), row.label)
        for shard in range(source.num_shards)
        for row in source.rows(shard, 0, int(source.shard_lengths[shard]))
    ]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    return {
        "parquet": write_parquet(root / "parquet"),
        "imagefolder": write_imagefolder(root / "imagefolder"),
        "webdataset": write_webdataset(root / "webdataset"),
    }


class TestFormats:
    @pytest.mark.parametrize("streaming", [True, False])
    @pytest.mark.parametrize(
        ("kind", "lengths", "image", "label", "classes"),
        [
            ("parquet", list(UNEVEN), "image", "label", list(CLASSES)),
            ("imagefolder", [NUM_ROWS], "image", "label", list(CLASSES)),
            ("webdataset", list(UNEVEN), "png", "cls", None),
        ],
    )
    def test_rows_ids_and_labels(
        self,
        sets: dict[str, Path],
        kind: str,
        lengths: list[int],
        image: str,
        label: str,
        classes: list[str] | None,
        streaming: bool,
    ) -> None:
        source = open_source(DataConfig(path=str(sets[kind]), streaming=streaming))
        assert source.shard_lengths.tolist() == (lengths if streaming else [1] * NUM_ROWS)
        assert (source.image_column, source.label_column, source.class_names) == (image, label, classes)
        assert (source.num_rows, source.revision, source.streaming) == (NUM_ROWS, None, streaming)
        by_class = kind == "imagefolder"
        assert all_rows(source) == [(row, row, row // 14 if by_class else row % 3) for row in range(NUM_ROWS)]

    @pytest.mark.parametrize("kind", ["parquet", "imagefolder", "webdataset"])
    def test_reading_may_start_anywhere(self, sets: dict[str, Path], kind: str) -> None:
        source = open_source(DataConfig(path=str(sets[kind])))
        shard = int(source.shard_lengths.argmax())
        first, length = int(source.offsets[shard]), int(source.shard_lengths[shard])
        for start in range(length):
            shown_rows = [shown(row) for row in source.rows(shard, start, length)]
            assert shown_rows == [(row, row) for row in range(first + start, first + length)]

    def test_reading_may_start_in_any_table_of_a_long_shard(self, tmp_path: Path) -> None:
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", (5, 300)))))
        for start in (0, 5, 127, 128, 129, 256, 299):
            shown_rows = [shown(row) for row in source.rows(1, start, 300)]
            assert shown_rows == [(row, row) for row in range(5 + start, 305)]

    def test_a_reader_opens_a_shard_once_for_reads_that_follow_each_other(
        self, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = open_source(DataConfig(path=str(sets["parquet"])))
        opened: list[tuple[int, int]] = []
        open_shard = source.open_shard

        def counted(shard: int, start: int) -> Iterator[tuple[Any, Any]]:
            opened.append((shard, start))
            return open_shard(shard, start)

        monkeypatch.setattr(source, "open_shard", counted)
        reader = source.reader()
        for start in range(0, 20, 5):
            assert [row.sample_id for row in reader.read(3, start, start + 5)] == list(range(15 + start, 20 + start))
        assert opened == [(3, 0)]
        assert [row.sample_id for row in reader.read(3, 2, 4)] == [17, 18]
        assert opened == [(3, 0), (3, 2)]

    @pytest.mark.parametrize("streaming", [True, False])
    def test_max_rows_takes_the_first(self, sets: dict[str, Path], streaming: bool) -> None:
        source = open_source(DataConfig(path=str(sets["parquet"]), max_rows=16, streaming=streaming))
        assert source.num_rows == 16
        assert [row for row, _, _ in all_rows(source)] == list(range(16))

    def test_photographs_of_a_thousand_classes(self, tmp_path: Path) -> None:
        contents = photographs()
        for shard in range(4):
            write_photographs(tmp_path / f"train-{shard}.parquet", len(contents), num_classes=1000)
        source = open_source(DataConfig(path=str(tmp_path)))
        assert source.num_rows == 4 * len(contents)
        assert (source.image_column, len(source.class_names or [])) == ("image", 1000)
        images = [decode_image(row.image) for row in source.rows(2, 0, len(contents))]
        assert {image.mode for image in images} == {"RGB"}
        assert [image.size for image in images] == [decode_image(content).size for content in contents]


class TestCounts:
    def test_a_count_is_kept_until_a_file_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        passes: list[int] = []
        count = counts._pass_counts

        def counted(dataset: datasets.IterableDataset) -> Iterator[int]:
            passes.append(1)
            return count(dataset)

        monkeypatch.setattr(counts, "_pass_counts", counted)
        folder = write_webdataset(tmp_path / "set")
        for _ in range(2):
            assert open_source(DataConfig(path=str(folder))).shard_lengths.tolist() == list(UNEVEN)
        assert len(passes) == 1
        shutil.rmtree(folder)
        write_webdataset(folder, (3, 11, 2, 19, 7))
        assert open_source(DataConfig(path=str(folder))).shard_lengths.tolist() == [3, 11, 2, 19, 7]
        assert len(passes) == 2

    def test_parquet_needs_no_pass(self, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counts, "_pass_counts", None)
        assert open_source(DataConfig(path=str(sets["parquet"]))).num_rows == NUM_ROWS


def save(folder: Path, columns: dict[str, list[Any]], features: dict[str, Any]) -> str:
    folder.mkdir()
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(folder / "train.parquet")
    return str(folder)


IMAGES = [{"bytes": encoded(row_image(row)), "path": None} for row in range(3)]


class TestColumns:
    def test_several_images_must_be_chosen_from(self, tmp_path: Path) -> None:
        path = save(tmp_path / "set", {"a": IMAGES, "b": IMAGES}, {"a": datasets.Image(), "b": datasets.Image()})
        with pytest.raises(DataError, match=r"several columns of images \(\['a', 'b'\]\).*`data\.image_column`"):
            open_source(DataConfig(path=path))
        assert open_source(DataConfig(path=path, image_column="b")).image_column == "b"

    def test_no_image_and_misspelt_columns(self, tmp_path: Path) -> None:
        path = save(
            tmp_path / "set",
            {"text": ["a"], "number": [1]},
            {"text": datasets.Value("string"), "number": datasets.Value("int64")},
        )
        with pytest.raises(DataError, match=r"no column of images; .*one of \['text', 'number'\]"):
            open_source(DataConfig(path=path))
        with pytest.raises(DataError, match=r"`data\.image_column` is 'txt', .*; did you mean 'text'\?"):
            open_source(DataConfig(path=path, image_column="txt"))
        with pytest.raises(DataError, match=r"`data\.label_column` is 'numbr', .*; did you mean 'number'\?"):
            open_source(DataConfig(path=path, label_column="numbr"))

    def test_a_column_of_bare_bytes_can_be_named(self, tmp_path: Path) -> None:
        contents = [image["bytes"] for image in IMAGES]
        path = save(tmp_path / "set", {"raw": contents}, {"raw": datasets.Value("binary")})
        source = open_source(DataConfig(path=path, image_column="raw"))
        assert all_rows(source) == [(row, row, -1) for row in range(3)]

    def test_labels_are_found_by_type_and_may_be_missing(self, tmp_path: Path) -> None:
        image, classes = datasets.Image(), datasets.ClassLabel(names=["x", "y"])
        plain = save(tmp_path / "plain", {"image": IMAGES}, {"image": image})
        assert open_source(DataConfig(path=plain)).label_column is None
        columns: dict[str, list[Any]] = {"image": IMAGES, "kind": [0, None, 1]}
        features: dict[str, Any] = {"image": image, "kind": classes}
        named = open_source(DataConfig(path=save(tmp_path / "named", columns, features)))
        assert (named.label_column, named.class_names) == ("kind", ["x", "y"])
        assert [label for _, _, label in all_rows(named)] == [0, -1, 1]
        columns, features = {**columns, "sort": [0, 1, 1]}, {**features, "sort": classes}
        path = save(tmp_path / "two", columns, features)
        with pytest.warns(UserWarning, match=r"several columns of classes .*`data\.label_column`"):
            assert open_source(DataConfig(path=path)).label_column is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_source(DataConfig(path=path, label_column="sort")).label_column == "sort"


class TestMistakes:
    @pytest.mark.parametrize("streaming", [True, False])
    def test_a_misspelt_split_lists_the_valid_ones(self, sets: dict[str, Path], streaming: bool) -> None:
        with pytest.raises(
            DataError, match=r"no split 'trian', only \['train'\]: .*data\.split`; did you mean 'train'\?"
        ):
            open_source(DataConfig(path=str(sets["parquet"]), split="trian", streaming=streaming))

    def test_a_misspelt_folder_names_the_nearest(self, sets: dict[str, Path]) -> None:
        with pytest.raises(DataError, match=r"no such folder .*; did you mean '.*/parquet'\?"):
            open_source(DataConfig(path=str(sets["parquet"].with_name("parqet"))))

    def test_a_revision_of_a_folder(self, sets: dict[str, Path]) -> None:
        with pytest.raises(DataError, match=r"`data\.revision` is 'main', but .* local folder.*data\.revision=null"):
            open_source(DataConfig(path=str(sets["parquet"]), revision="main"))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be opened"):
            open_source(DataConfig(path=str(tmp_path)))

    def test_a_set_without_rows(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"Split 'train' of .* has no rows.*`data\.split`"):
            open_source(DataConfig(path=str(write_parquet(tmp_path / "set", (0,)))))

    def test_a_file_that_is_no_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "train.parquet").write_bytes(b"not parquet")
        with pytest.raises(DataError, match="cannot be opened"):
            open_source(DataConfig(path=str(tmp_path)))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("num_workers", -1),
            ("shuffle_buffer", 0),
            ("max_rows", 0),
            ("max_corrupt_share", 1.5),
            ("path", ""),
            ("split", ""),
        ],
    )
    def test_bad_values_are_named(self, key: str, value: Any) -> None:
        with pytest.raises(DataError, match=rf"`data\.{key}`"):
            DataConfig(**{key: value})

    def test_every_key_has_a_help_text(self) -> None:
        assert all(field.metadata["help"] for field in DataConfig.__dataclass_fields__.values())


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers like the Hub for a gated set, a set with one branch, and whatever does not exist."""

    SHA = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self) -> None:
        if "/api/datasets/org/" not in self.path and "/datasets/org/" not in self.path:
            self._answer(404, "RepoNotFound")
        elif "org/misspelt" in self.path:
            self._answer(401, "RepoNotFound")  # as for a private set: the Hub does not tell whether it exists
        elif "/revision/no-such-tag" in self.path:
            self._answer(404, "RevisionNotFound")
        elif self.path.startswith("/api/datasets/org/gated") and "/tree/" not in self.path:
            self._answer(200, body={"id": "org/gated", "sha": self.SHA, "gated": "manual", "siblings": []})
        else:
            self._answer(401 if not self.headers.get("Authorization") else 403, "GatedRepo")

    do_HEAD = do_POST = do_GET

    def _answer(self, status: int, code: str | None = None, body: dict[str, Any] | None = None) -> None:
        content = json.dumps(body or {"error": code}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


OPEN_ALL = """
import json, sys
from ssl_zoo.data import DataConfig, DataError, open_source
for options in json.loads(sys.argv[1]):
    try:
        open_source(DataConfig(**options))
        print(json.dumps("opened"))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def open_in_new_process(endpoint: str, cases: list[dict[str, Any]], cwd: Path) -> list[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(cwd / "home"),
    }
    command = [sys.executable, "-c", OPEN_ALL, json.dumps(cases)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.hub
class TestHub:
    def test_gated_misspelt_and_unknown_revisions(self, hub: str, tmp_path: Path) -> None:
        gated, misspelt, revision, embedded = open_in_new_process(
            hub,
            [
                {"path": "org/gated"},
                {"path": "org/misspelt"},
                {"path": "org/gated", "revision": "no-such-tag"},
                {"path": "embeded"},
            ],
            tmp_path,
        )
        assert "'org/gated' cannot be opened; it is gated" in gated
        assert "huggingface.co/datasets/org/gated" in gated
        assert "`hf auth login`" in gated
        assert "HF_TOKEN" in gated
        assert "no such folder" in misspelt
        assert "Nor is there a data set of that name on the Hub; if it is private, log in" in misspelt
        assert "`data.revision` is 'no-such-tag', but 'org/gated' has no such commit, branch or tag" in revision
        assert "did you mean 'embedded'?" in embedded

    def test_no_network(self, tmp_path: Path) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"  # bound, but nobody listens
            (sentence,) = open_in_new_process(endpoint, [{"path": "org/any"}], tmp_path)
        assert "The Hub cannot be reached" in sentence
        assert "Check the network, or set data.path to a local folder, or to 'embedded'" in sentence


def test_images_are_found_by_path_too(tmp_path: Path) -> None:
    """A parquet file may only name image files."""
    file = tmp_path / "image.png"
    Image.new("RGB", (4, 4), (5, 0, 77)).save(file)
    path = save(tmp_path / "set", {"image": [{"bytes": None, "path": str(file)}]}, {"image": datasets.Image()})
    assert all_rows(open_source(DataConfig(path=path))) == [(0, 5, -1)]
