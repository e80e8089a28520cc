"""Names of models: a folder, a shipped model or an id on the Hub, which a stub of the Hub stands for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from stackflower.errors import ModelError
from stackflower.models import hub
from stackflower.models.finding import find_model, list_shipped
from stackflower.pipeline import Pipeline


class Hub:
    """A Hub in a folder. `problem` is raised by every call."""

    def __init__(self, root: Path) -> None:
        self.root, self.problem, self.pushed, self.sizes = root, None, [], {}
        self.user: str | None = "ada"

    def _check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def whoami(self) -> dict[str, str]:
        self._check()
        if self.user is None:
            raise errors.LocalTokenNotFoundError("no token")
        return {"name": self.user}

    def model_info(self, model: str, revision: str | None = None, files_metadata: bool = False) -> SimpleNamespace:
        self._check()
        folder = self.root / model
        if not folder.is_dir():
            raise errors.RepositoryNotFoundError(
                "404", response=SimpleNamespace(status_code=404, headers={}, request=None)
            )
        if revision not in (None, "main", "abc"):
            raise errors.RevisionNotFoundError(
                "404", response=SimpleNamespace(status_code=404, headers={}, request=None)
            )
        files = [
            SimpleNamespace(
                rfilename=path.relative_to(folder).as_posix(), size=self.sizes.get(path.name, path.stat().st_size)
            )
            for path in folder.rglob("*")
            if path.is_file()
        ]
        return SimpleNamespace(sha="abc", siblings=files)

    def create_repo(self, model: str, private: bool, exist_ok: bool) -> str:
        self._check()
        (self.root / model).mkdir(parents=True, exist_ok=exist_ok)
        self.pushed.append((model, private))
        return f"https://hub/{model}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: object) -> None:
        self._check()
        for name in huggingface_hub.utils.filter_repo_objects(
            [path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*") if path.is_file()],
            allow_patterns=allow_patterns,
        ):
            (self.root / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder_path) / name, self.root / repo_id / name)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A stub of the Hub, with a cache that stays after the Hub is gone."""
    stub, cache = Hub(tmp_path / "hub"), tmp_path / "hub-cache"
    hub.download.cache_clear()

    def snapshot_download(
        model: str, revision: str | None = None, allow_patterns: list[str] | None = None, local_files_only: bool = False
    ) -> str:
        folder = cache / model
        if local_files_only:
            if not folder.is_dir():
                raise errors.LocalEntryNotFoundError("nothing in the cache")
            return str(folder)
        names = [
            path.relative_to(stub.root / model).as_posix() for path in (stub.root / model).rglob("*") if path.is_file()
        ]
        for name in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stub.root / model / name, folder / name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return stub


def test_what_is_pushed_is_loaded_by_its_id(remote: Hub, trained: Path, stackflower, tmp_path: Path) -> None:
    pipeline = Pipeline.from_run(trained, "cpu")
    assert pipeline.push_to_hub("ada/flowers", private=True) == "https://hub/ada/flowers"
    assert remote.pushed == [("ada/flowers", True)]
    names = sorted(path.name for path in (remote.root / "ada/flowers").iterdir())
    assert names == ["README.md", "config.json", "generator.safetensors", "samples.jpg"]
    assert "# ada/flowers" in (remote.root / "ada/flowers" / "README.md").read_text()
    (remote.root / "ada/flowers" / "huge.bin").write_bytes(b"1")  # is not downloaded
    images = pipeline("a red flower", per_caption=2)
    again = Pipeline.from_pretrained("ada/flowers", "cpu", revision="main")
    assert [one.tobytes() for one in again("a red flower", per_caption=2)] == [one.tobytes() for one in images]
    assert not (find_model("ada/flowers") / "huge.bin").exists()
    remote.problem = ConnectionError("no route to host")
    assert find_model("ada/flowers", "main").is_dir()  # asked once per process
    hub.download.cache_clear()
    assert Pipeline.from_pretrained("ada/flowers", "cpu").resolution == 16  # from the cache
    stackflower("sample", "ada/flowers", "a red flower", "--out", "x.png")
    with pytest.raises(ModelError, match=r"ada/other is not a local folder, and .* can't be reached \(no route"):
        find_model("ada/other")


def test_commands_push(remote: Hub, trained: Path, stackflower) -> None:
    assert "https://hub/ada/a" in stackflower("push", trained, "ada/a", "--half", "--caption", "a rose").output
    assert "a rose" in (remote.root / "ada/a" / "config.json").read_text()
    remote.user = None
    assert "hf auth login" in stackflower("push", trained, "ada/a", code=2).output
    assert "write OWNER/NAME" in stackflower("push", trained, "flowers", code=2).output


def test_training_pushes_at_the_end_and_asks_for_access_before(remote: Hub, stackflower) -> None:
    from conftest import TINY

    remote.user = None
    flags = ["train", "--images", 8, "--out", "run", *TINY]
    assert "hf auth login" in stackflower(*flags, "--push-to-hub", "ada/new", code=2).output
    assert not Path("run").exists()
    remote.user = "ada"
    assert "Uploaded to https://hub/ada/new" in stackflower(*flags, "--push-to-hub", "ada/new").output
    assert Pipeline.from_pretrained("ada/new", "cpu").resolution == 16


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (errors.OfflineModeIsEnabled("offline mode is enabled"), "can't be reached"),
        (OSError("disk on fire"), "disk on fire"),
        (ValueError("odd answer\nsecond line"), r"odd answer$"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(remote: Hub, problem: Exception, message: str) -> None:
    remote.problem = problem
    with pytest.raises(ModelError, match=message):
        find_model("ada/flowers")


def test_models_that_do_not_fit_are_refused(remote: Hub, trained: Path) -> None:
    Pipeline.from_run(trained, "cpu").push_to_hub("ada/flowers")
    with pytest.raises(ModelError, match="has no revision 'v2'"):
        find_model("ada/flowers", "v2")
    with pytest.raises(ModelError, match="does not exist on the Hugging Face Hub, or is private"):
        find_model("ada/none")
    remote.sizes["generator.safetensors"] = hub.LARGEST_MODEL + 1
    with pytest.raises(ModelError, match="at most 4 GiB are loaded"):
        find_model("ada/flowers")
    (remote.root / "ada/flowers" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="not that of a Stackflower model"):
        find_model("ada/flowers")
    (remote.root / "ada/flowers" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find_model("ada/flowers")


@pytest.mark.parametrize("name", ["big/", "gone.safetensors"])
def test_only_files_that_are_there_are_downloaded(remote: Hub, trained: Path, name: str) -> None:
    Pipeline.from_run(trained, "cpu").push_to_hub("ada/flowers")
    folder = remote.root / "ada/flowers"
    (folder / "big").mkdir()
    (folder / "big" / "blob").write_bytes(b"1")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "files": {**values["files"], name: "0"}}))
    with pytest.raises(ModelError, match=f"is incomplete: {name} is missing"):
        find_model("ada/flowers")


@pytest.mark.parametrize("name", ["config.json", "README.md", "samples.jpg"])
def test_every_downloaded_file_is_bounded(remote: Hub, trained: Path, name: str) -> None:
    Pipeline.from_run(trained, "cpu").push_to_hub("ada/flowers")
    remote.sizes[name] = hub.LARGEST_MODEL
    with pytest.raises(ModelError, match=r"too large|at most 4 GiB are loaded"):
        find_model("ada/flowers")


def test_other_repositories_are_not_overwritten(remote: Hub, trained: Path) -> None:
    (remote.root / "ada/bert").mkdir(parents=True)
    (remote.root / "ada/bert" / "config.json").write_text('{"model_type": "bert"}')
    pipeline = Pipeline.from_run(trained, "cpu")
    with pytest.raises(ModelError, match="already holds something else"):
        pipeline.push_to_hub("ada/bert")
    pipeline.push_to_hub("ada/flowers")
    assert pipeline.push_to_hub("ada/flowers", half=True)  # a model may be replaced


@pytest.mark.parametrize(
    "name",
    ["flower", "nothing", "a b/c", "x/y/z", "./x", "~/nothing-here", "runs/gone", "", "x" * 300, "~nobody-here/x"],
)
def test_names_of_nothing_get_a_sentence(name: str, remote: Hub, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        ModelError, match=r"does not exist|is not a folder, a shipped model or an id|is empty|not the name"
    ):
        find_model(name)


def test_a_folder_comes_before_a_shipped_model(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = next(iter(list_shipped()))
    assert find_model(name) == list_shipped()[name].folder
    shutil.copytree(trained, tmp_path / name)
    assert find_model(name) == Path(name)
    with pytest.raises(
        ModelError, match=f"`revision=main` applies to models on the Hugging Face Hub, and {name} is here"
    ):
        find_model(name, "main")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file"):
        find_model("file")


@pytest.mark.parametrize("name", sorted(list_shipped()))
def test_shipped_models_draw_from_their_name(name: str, stackflower, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(name, "cpu")
    assert pipeline.record is not None and pipeline.record.precision == "fp16" and pipeline.record.scores
    one, other = pipeline(["a red flower", "a blue flower"])
    red, blue = (np.asarray(image).reshape(-1, 3).sum(0) for image in (one, other))
    assert red[0] / red[2] > blue[0] / blue[2]  # the caption decides the colour
    stackflower("sample", name, "a red flower", "--out", "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert name in stackflower("ls", "models").output


def test_shipped_models_are_small() -> None:
    files = [path for model in list_shipped().values() for path in model.folder.rglob("*")]
    assert {"synthetic-flowers", "flowers"} <= list_shipped().keys()
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert all((model.folder / "README.md").exists() for model in list_shipped().values())
