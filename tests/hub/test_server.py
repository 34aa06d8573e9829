"""The local server answers unmodified clients as the Hub does; the other tests rely on it."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.hub.conftest import LocalHub
from tests.hub.server import HALF_REPLY, HALF_REQUEST, NO_REPLY, READ_TOKEN, STRANGER_TOKEN
from tests.hub.store import ApiError


pytestmark = pytest.mark.hub


def image_table(first: int, count: int) -> bytes:
    """Rows `first ... first + count - 1` of a tiny labelled image set, as a parquet file."""
    rows = []
    for row in range(first, first + count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (row, 0, 0)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{row}.png"})
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = pa.table({"image": rows, "label": [row % 2 for row in range(first, first + count)]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_client_round_trip(hub: LocalHub) -> None:
    hub.run(
        """
        import pathlib
        from huggingface_hub import HfApi, snapshot_download, hf_hub_download
        api = HfApi()
        assert api.whoami()["name"] == "owner"
        folder = pathlib.Path("folder/deep"); folder.mkdir(parents=True)
        (folder / "a b.txt").write_text("text"); (folder.parent / "w.safetensors").write_bytes(bytes(range(250)) * 400)
        (folder.parent / "README.md").write_text("---\\nlicense: mit\\n---\\n# A")
        for repo_type in ("model", "dataset", "space"):
            options = {"space_sdk": "gradio"} if repo_type == "space" else {}
            url = api.create_repo("org/name", repo_type=repo_type, private=True, **options)
            assert url.repo_id == "org/name" and url.repo_type == repo_type
            first = api.upload_folder(repo_id="org/name", repo_type=repo_type, folder_path="folder")
            again = api.upload_folder(repo_id="org/name", repo_type=repo_type, folder_path="folder")
            assert first.oid == again.oid, "nothing changed, so there is no second commit"
            assert len(api.list_repo_commits("org/name", repo_type=repo_type)) == 2
            names = set(api.list_repo_files("org/name", repo_type=repo_type))
            assert names == {".gitattributes", "README.md", "deep/a b.txt", "w.safetensors"}, names
            tree = {entry.path: entry for entry in api.list_repo_tree("org/name", repo_type=repo_type)}
            assert set(tree) == {".gitattributes", "README.md", "deep", "w.safetensors"} and tree["w.safetensors"].lfs
            got = pathlib.Path(snapshot_download("org/name", repo_type=repo_type))
            for name in names - {".gitattributes"}:
                assert (got / name).read_bytes() == (pathlib.Path("folder") / name).read_bytes()
            assert api.repo_info("org/name", repo_type=repo_type).private
        api.create_branch("org/name", branch="exp/one")
        name = "deep/a b.txt"
        api.upload_file(path_or_fileobj=b"on the branch", path_in_repo=name, repo_id="org/name", revision="exp/one")
        read = lambda **options: open(hf_hub_download("org/name", name, **options)).read()
        assert read() == "text" and read(revision="exp/one") == "on the branch"
        api.delete_file("w.safetensors", repo_id="org/name")
        assert not api.file_exists("org/name", "w.safetensors") and api.file_exists("org/name", "README.md")
        api.delete_repo("org/name")
        assert not api.repo_exists("org/name")
        """
    )


def test_refusals(hub: LocalHub) -> None:
    hub.server.add_repo("org/open", {"README.md": b"x"})
    hub.server.add_repo("org/private", {"README.md": b"x"}, private=True)
    hub.server.add_repo("org/gated", {"README.md": b"x"}, gated=True)
    hub.run(
        f"""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import *
        stranger, reader = HfApi(token={STRANGER_TOKEN!r}), HfApi(token={READ_TOKEN!r})
        nobody, wrong = HfApi(token=False), HfApi(token="hf_wrong")
        def refused(kind, status, call, *arguments, **options):
            try:
                call(*arguments, **options)
            except HfHubHTTPError as error:
                assert isinstance(error, kind) and error.response.status_code == status, repr(error)
            else:
                raise AssertionError((call, arguments))
        refused(RepositoryNotFoundError, 404, stranger.model_info, "org/private")
        refused(RepositoryNotFoundError, 401, nobody.model_info, "org/private")
        refused(RepositoryNotFoundError, 401, nobody.model_info, "org/missing")
        refused(RepositoryNotFoundError, 404, stranger.dataset_info, "missing")
        refused(GatedRepoError, 401, nobody.hf_hub_download, "org/gated", "README.md")
        refused(GatedRepoError, 403, stranger.hf_hub_download, "org/gated", "README.md")
        refused(RevisionNotFoundError, 404, stranger.model_info, "org/open", revision="nope")
        refused(RemoteEntryNotFoundError, 404, stranger.hf_hub_download, "org/open", "nope.txt")
        refused(HfHubHTTPError, 401, wrong.whoami)
        refused(HfHubHTTPError, 401, nobody.create_repo, "org/new")
        refused(HfHubHTTPError, 403, stranger.create_repo, "org/new")
        refused(HfHubHTTPError, 403, reader.create_repo, "org/new")
        refused(HfHubHTTPError, 403, reader.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id="org/open")
        refused(HfHubHTTPError, 409, HfApi().create_repo, "org/open")
        refused(HfHubHTTPError, 412, HfApi().upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id="org/open",
                parent_commit="0" * 40)
        """
    )
    assert [len(repo.commits) for repo in hub.server.repos.values()] == [2, 2, 2]


def test_ranges(hub: LocalHub) -> None:
    hub.server.add_repo("org/data", {"x.bin": bytes(range(100))}, repo_type="dataset")
    hub.run(
        """
        from huggingface_hub import HfFileSystem
        with HfFileSystem(block_size=16).open("datasets/org/data/x.bin", "rb") as file:
            file.seek(90); assert file.read() == bytes(range(90, 100))
            file.seek(10); assert file.read(5) == bytes(range(10, 15))
        """
    )
    assert any(status == 206 for _, _, status in hub.server.requests)


def test_streaming_dataset(hub: LocalHub) -> None:
    files = {f"data/train-{i:05d}-of-00002.parquet": image_table(10 * i, 10) for i in range(2)}
    files["data/test-00000-of-00001.parquet"] = image_table(20, 4)
    hub.server.add_repo("org/images", files, repo_type="dataset")
    hub.server.add_repo("org/gated", files, repo_type="dataset", gated=True)
    hub.run(
        """
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
        stream = load_dataset("org/images", split="train", streaming=True)
        assert stream.num_shards == 2
        rows = list(stream)
        assert [row["image"].getpixel((0, 0))[0] for row in rows] == list(range(20)), rows
        assert sum(1 for _ in load_dataset("org/images", split="test", streaming=True)) == 4
        for name in ("org/gated", "org/misspelt", "misspelt"):
            try:
                load_dataset(name, streaming=True, token=False)
            except DatasetNotFoundError as error:
                assert ("gated" in str(error)) == (name == "org/gated")
            else:
                raise AssertionError(name)
        """
    )


def test_a_commit_is_applied_whole_or_not_at_all(hub: LocalHub) -> None:
    repo = hub.server.add_repo("org/name", {"old.txt": b"x"})
    header = {"key": "header", "value": {"summary": "m"}}
    good = {"key": "file", "value": {"path": "new.txt", "content": "eA=="}}
    delete = {"key": "deletedFile", "value": {"path": "old.txt"}}
    bad = {"key": "lfsFile", "value": {"path": "w.safetensors", "oid": "0" * 64}}
    with pytest.raises(ApiError, match="was not uploaded"):
        repo.commit("main", [header, good, delete, bad], "owner")
    assert set(repo.resolve("main").tree) == {".gitattributes", "old.txt"}
    repo.commit("main", [header, good, delete], "owner")
    assert set(repo.resolve("main").tree) == {".gitattributes", "new.txt"}


@pytest.mark.parametrize("action", [403, HALF_REQUEST, HALF_REPLY, NO_REPLY])
def test_faults(hub: LocalHub, action: int | str) -> None:
    """Whatever goes wrong, a branch shows a whole commit or none; after `NO_REPLY` it is there unannounced."""
    hub.server.fail("POST", "/commit/", action)
    hub.run(
        """
        from huggingface_hub import HfApi, CommitOperationAdd
        api = HfApi()
        api.create_repo("org/name")
        operations = lambda: [CommitOperationAdd(f"{n}.safetensors", n.encode() * 100) for n in "ab"]
        try:
            api.create_commit("org/name", operations(), commit_message="m")
        except Exception:
            pass
        else:
            raise AssertionError("the fault did not strike")
        files = {n for n in api.list_repo_files("org/name") if n.endswith(".safetensors")}
        assert files in (set(), {"a.safetensors", "b.safetensors"}), files
        api.create_commit("org/name", operations(), commit_message="m")
        assert len(api.list_repo_commits("org/name")) == 2
        """
    )
    assert hub.server.faults[0].seen >= 1
