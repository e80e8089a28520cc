"""What evaluation does with a run and with data, beyond the formulas."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_NETWORKS, settings

from stackflower import registry
from stackflower.commands.train_classifier import SHIPPED, labelled, own_classifier
from stackflower.data.prepared import Prepared, prepare
from stackflower.data.source import Rows
from stackflower.errors import DataError
from stackflower.evaluation import image_files
from stackflower.evaluation.classifier import DomainClassifier, load_classifier, save_classifier
from stackflower.evaluation.classifier_training import Labelled, measured
from stackflower.evaluation.image_files import ImageFiles
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.scoring import missed
from stackflower.utils.cache import cache_folder
from stackflower.utils.progress import silent


def real(rows: Rows) -> Reference:
    return Reference(None, "validation", Prepared(torch.zeros(len(rows), 8, 8, 3, dtype=torch.uint8), rows, ""), 8)  # type: ignore[arg-type]


def test_an_attribute_is_asked_for_by_whole_words() -> None:
    rows = Rows(captions=[["a colored flower, covered in dew", "Red, indeed"]], attributes={"colour": ["red"]})
    assert real(rows).mentioned_attributes(0, 0) == {} and real(rows).mentioned_attributes(0, 1) == {"colour": "red"}


def test_what_a_caption_states_is_taken_from_the_data_where_it_is_there() -> None:
    rows = Rows(
        captions=[["yellow centre"]],
        attributes={"colour": ["yellow"], "centre": ["yellow"]},
        mentioned_attributes=[[["centre"]]],
    )
    assert real(rows).mentioned_attributes(0, 0) == {"centre": "yellow"}


def test_pictures_are_chosen_once_each_before_any_comes_again() -> None:
    rows = Rows(captions=[["a", "b"]] * 10)
    pictures, numbers = real(rows).choose(25, seed=0)
    assert sorted(pictures[:10]) == sorted(pictures[10:20]) == list(range(10)) and set(numbers) == {0, 1}
    assert pictures != sorted(pictures) and real(rows).choose(25, seed=0) == (pictures, numbers)
    assert len(real(rows).choose(None, seed=0)[0]) == 10


def test_real_pictures_that_lie_class_by_class_are_shuffled(stackflower, tmp_path: Path) -> None:
    """Splits of class-sorted pictures would hold one class each, and a perfect classifier's real score would be 1."""
    from PIL import Image

    colours = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
    for split, count in (("train", 40), ("validation", 20)):
        rows = []
        for label, (name, colour) in enumerate(colours.items()):
            for number in range(count):
                path = tmp_path / "data" / split / f"{name}{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 24), tuple(max(0, part - number) for part in colour)).save(path)  # type: ignore[arg-type]
                rows.append({"file_name": path.name, "text": f"a {name} square", "label": label})
        (tmp_path / "data" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stackflower("train", "--data", "data", "--images", 16, "--out", "run", *TINY_NETWORKS)
    classifier = ["--resolution", 16, "--network", "plain", "--epochs", 60]
    stackflower("train-classifier", "--data", "data", "--out", "c.safetensors", *classifier)
    scoring = ["--extractor", "domain", "--weights", "c.safetensors", "--splits", 4, "--metrics", "is", "--json"]
    scores = json.loads(stackflower("eval", "run", *scoring).stdout)
    assert scores["real_inception_score_mean"] > 2.5, "near 4, not 1"
    assert scores["protocol"]["data"] == "data" and scores["protocol"]["real_crop"] == "central 16 of 64 px"
    folder = json.loads(stackflower("eval", "--images", "data/validation", "--data", "data", *scoring).stdout)
    assert folder["inception_score_mean"] == pytest.approx(folder["real_inception_score_mean"], rel=0.5)
    assert folder["real_inception_score_mean"] > 2.5


def test_scores_are_of_the_test_split_unless_another_is_named(stackflower, tmp_path: Path, trained: Path) -> None:
    stackflower("data", "make", "synthetic-flowers", "--out", "d", "--count", 40, "--validation", 24, "--test", 20)
    small = ["--resolution", 16, "--network", "plain", "--epochs", 1]
    stackflower("train-classifier", "--data", "d", "--out", "c.safetensors", *small)
    scoring = ["--extractor", "domain", "--weights", "c.safetensors", "--splits", 2, "--metrics", "is", "--json"]
    for data in ([], ["--data", "d"]):
        protocol = json.loads(stackflower("eval", trained, *data, *scoring).stdout)["protocol"]
        assert protocol["split"] == "test" and protocol["images"] == (20 if data else 16)
    named = json.loads(stackflower("eval", trained, "--data", "d", "--split", "validation", *scoring).stdout)[
        "protocol"
    ]
    assert named["split"] == "validation" and named["images"] == 24
    (tmp_path / "d" / "test").rename(tmp_path / "elsewhere")
    output = stackflower("eval", trained, "--data", "d", "--split", "test", *scoring, code=2).output
    assert "There is no split 'test'; this data has: train, validation" in output


def test_the_reported_split_is_the_last_that_there_is() -> None:
    from stackflower.data.synthetic.source import SyntheticFlowers

    assert SyntheticFlowers().reported() == "test" and SyntheticFlowers().held_out() == "validation"


def test_extractors_and_processes_share_the_work(trained: Path) -> None:
    """Shares of images, put together again, are the same as all at once."""
    from types import SimpleNamespace

    from stackflower.commands.held_out import Workers
    from stackflower.evaluation.classifier import DomainClassifier, save_classifier
    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.extractors.domain import DomainExtractor

    path = trained.parent / "shares.safetensors"
    save_classifier(DomainClassifier(heads={"label": ("a", "b")}, resolution=16), path)
    extractor = DomainExtractor(weights=str(path))
    extractor.to("cpu")
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    parts = []
    for index in range(3):
        worker = Workers(extractor, SimpleNamespace(process_index=index, num_processes=3))  # type: ignore[arg-type]
        worker.gathered = lambda batches: Extracted.concatenate([extractor(one) for one in batches])  # type: ignore[method-assign]
        parts.append(worker(images))
    whole = extractor(images)
    assert torch.allclose(Extracted.concatenate(parts).logits, whole.logits, atol=1e-5)


def test_the_package_has_the_classifier_of_the_drawn_flowers() -> None:
    """Its accuracy on flowers drawn anew is what its file states."""
    data = registry.create("data", "synthetic-flowers").classifier_data()
    path = own_classifier(data, 64, silent)
    assert path.parent == SHIPPED and path.stat().st_size < 2e6
    model = load_classifier(path)
    drawn = prepare(
        registry.create("data", "synthetic-flowers", count=8, validation=600, seed=77), "validation", 66, silent
    )
    found = measured(model, labelled(drawn, model.heads, list(range(len(model.heads["label"])))))["accuracy"]
    for head in ("colour", "shape", "centre"):
        assert found[head] == pytest.approx(model.held_out["accuracy"][head], abs=0.02), head


def test_images_without_a_value_do_not_count_in_the_accuracy() -> None:
    model = DomainClassifier(heads={"label": ("a", "b")}, resolution=16, width=4).eval()
    images = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    heads = model(images.permute(0, 3, 1, 2).float() / 127.5 - 1).heads
    target = heads["label"].argmax(1)
    target[:2] = -1
    assert measured(model, Labelled(images, {"label": target}))["accuracy"] == {"label": 1.0}
    assert math.isnan(measured(model, Labelled(images, {"label": torch.full((6,), -1)}))["accuracy"]["label"])


def test_features_of_real_images_are_kept(trained: Path, judged: list[str], stackflower, monkeypatch) -> None:
    from stackflower.commands.held_out import Workers

    command = ["eval", trained, *judged[2:], "--metrics", "is,fid", "--splits", 2]
    called: list[int] = []
    once = Workers.statistics

    def counted(self: Workers, batches, total: int, protocol) -> object:
        called.append(total)
        return once(self, batches, total, protocol)

    monkeypatch.setattr(Workers, "statistics", counted)
    first = json.loads(stackflower(*command).stdout)
    again = json.loads(stackflower(*command).stdout)
    assert first == again and called == [48, 48, 48], "real and generated ones, then generated ones"
    for path in cache_folder("features").glob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert json.loads(stackflower(*command).stdout) == first and len(called) == 5
    stackflower(*command, "--seed", 1)
    assert len(called) == 7, "other images, or in another order"


def test_limits_of_scores_set_the_exit_code(stackflower, tmp_path: Path, trained: Path) -> None:
    torch.manual_seed(0)
    save_classifier(DomainClassifier(heads={"label": ("a", "b")}, resolution=16, width=4), tmp_path / "c.safetensors")
    scoring = ["--extractor", "domain", "--set", "extractor.weights=c.safetensors", "--splits", 2]
    scoring += ["--metrics", "is,fid", "--split", "validation", "--set", "data.count=48"]
    stackflower("eval", trained, *scoring, "--fail-under", "is=1", "--fail-over", "fid=1e9")
    output = stackflower("eval", trained, *scoring, "--fail-under", "is=3", "--fail-over", "fid=-1", code=1).output
    assert "is under 3." in output and "is over -1." in output and "Inception Score" in output
    for wrong, said in (
        ("is", "METRIC=VALUE"),
        ("is=nan", "METRIC=VALUE"),
        (
            "similar=1",
            "no score that can have a limit; allowed are is, fid, kid, prdc, precision, recall, density, coverage, captions",
        ),
        ("recall=1", "--metrics is,fid,prdc"),
        ("kid=1", "--metrics is,fid,kid"),
    ):
        assert said in stackflower("eval", trained, *scoring, "--fail-under", wrong, code=2).output, wrong
    for wrong in ("generator.channels=4", "extractor", "extractor.=3"):
        assert (
            "extractor.OPTION=VALUE or data.OPTION=VALUE" in stackflower("eval", trained, "--set", wrong, code=2).output
        )


def test_features_judge_and_have_no_inception_score(stackflower, tmp_path: Path, trained: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "w.pt")
    options = ("network=torchvision", "model=shufflenet_v2_x0_5", "size=64")
    judge = ["--extractor", "features", *settings(*(f"extractor.{option}" for option in options)), "--weights", "w.pt"]
    scores = json.loads(stackflower("eval", trained, *judge, "--json").stdout)
    assert math.isfinite(scores["frechet_distance"]) and "inception_score_mean" not in scores
    assert scores["protocol"]["extractor"] == "features (torchvision shufflenet_v2_x0_5)"
    assert "has no classes" in stackflower("eval", trained, *judge, "--metrics", "is", code=2).output


@pytest.mark.extras
def test_scores_by_the_2015_inception_are_torch_fidelitys(stackflower, tmp_path: Path, trained: Path) -> None:
    """Of the same two folders, torch-fidelity's own command and `eval --images` say the same."""
    fidelity = pytest.importorskip("torch_fidelity")
    from test_components import save_inception_2015

    save_inception_2015(tmp_path / "w.pth")
    stackflower(
        "data",
        "make",
        "synthetic-flowers",
        "--out",
        "d",
        "--count",
        24,
        "--validation",
        24,
        "--test",
        2,
        "--resolution",
        64,
    )
    (tmp_path / "fake").mkdir()
    for path in (tmp_path / "d" / "validation").glob("*.png"):
        path.rename(tmp_path / "fake" / path.name)
    data = ["--data", "d", "--split", "train", "--extractor", "inception-2015", "--weights", "w.pth", "--json"]
    (tmp_path / "d" / "validation" / "metadata.jsonl").unlink()
    (tmp_path / "d" / "validation").rmdir()
    scores = json.loads(stackflower("eval", "--images", "fake", *data, "--metrics", "fid,kid").stdout)
    assert "frechet_distance_is_fid" not in scores, "random weights are not those of FID"
    theirs = fidelity.calculate_metrics(
        input1=str(tmp_path / "fake"), input2=str(tmp_path / "d" / "train"), cuda=False, verbose=False, fid=True, kid=True,
        feature_extractor_weights_path=str(tmp_path / "w.pth"), kid_subset_size=12, save_cpu_ram=True, cache=False,
    )  # fmt: skip
    assert scores["frechet_distance"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert scores["kernel_distance_mean"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=0.5)


@pytest.fixture
def judged(stackflower, tmp_path: Path) -> list[str]:
    """A data set of 24 images, and the flags that score a folder beside it by a classifier of random weights."""
    torch.manual_seed(0)
    save_classifier(DomainClassifier(heads={"label": ("a", "b")}, resolution=16, width=4), tmp_path / "c.safetensors")
    stackflower("data", "make", "synthetic-flowers", "--out", "data", "--count", 24, "--validation", 2, "--test", 2)
    return ["--data", "data", "--split", "train", "--extractor", "domain", "--weights", "c.safetensors", "--json"]


def drawn(folder: Path, count: int, size: tuple[int, int] = (20, 20)) -> None:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{size[0]}-{number:03d}.png")


def test_a_folder_of_images_that_cannot_all_be_read(stackflower, tmp_path: Path, judged: list[str]) -> None:
    folder = tmp_path / "mine"
    drawn(folder, 12)
    (folder / "broken.png").write_bytes((folder / "20-000.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    said = stackflower("eval", "--images", "mine", *judged, code=2).output
    assert "2 of 14 images" in said and "broken.png" in said and "it is empty" in said and "--skip-bad" in said
    scores = json.loads(stackflower("eval", "--images", "mine", *judged, "--skip-bad").stdout)
    assert scores["protocol"]["images"] == 12 and scores["scored"]["left_out"] == 2
    assert "2 of 14 images can't be read" in scores["warnings"][0]
    drawn(folder, 3, (48, 31))
    sizes = json.loads(stackflower("eval", "--images", "mine", *judged, "--skip-bad").stdout)["scored"]["image_sizes"]
    assert sizes == "2 sizes from 20×20 to 48×31"


def test_scores_of_a_folder_do_not_depend_on_batches_and_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(tmp_path / "mine", 11)
    files = ImageFiles.of(tmp_path / "mine", 16)
    whole = torch.cat([batch for _, batch in files.batches()])
    monkeypatch.setattr(image_files, "BATCH", 2)
    placed = [pair for share in range(3) for pair in files.batches((share, 3))]
    assert whole.shape == (11, 3, 16, 16) and torch.equal(whole, torch.cat([batch for _, batch in placed]))
    assert torch.cat([places for places, _ in placed]).tolist() == list(range(11))


@pytest.mark.parametrize("kept", [5, 40, 41, 44, 100])
def test_files_that_cannot_be_read_do_not_move_others(tmp_path: Path, kept: int) -> None:
    """Rows, splits and captions are the same of one process and of three."""
    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.statistics import Statistics

    drawn(tmp_path / "mine", 45)
    for number in (0, 7, 8, 31, 44):
        (tmp_path / "mine" / f"20-{number:03d}.png").write_bytes(b"damaged")
    found = []
    for count in (1, 3):
        files = ImageFiles.of(tmp_path / "mine", 16)
        workers = []
        for index in range(count):
            worker = Statistics(45, 4, kept)
            for places, batch in files.batches((index, count)):
                pixels = batch.flatten(1).float()
                worker.add(Extracted.of(pixels[:, :6], pixels[:, 6:9] / 100), places)
            workers.append(worker)
        workers[0].merge(workers[1:])
        found.append((workers[0], files))
    (one, files), (three, _) = found
    assert one.count == three.count == 40 and len(files.bad) == 5
    assert torch.equal(one.rows.features, three.rows.features)
    assert one.classes is not None and three.classes is not None
    assert torch.equal(one.classes.count, three.classes.count) and one.classes.count.sum() == 40
    left = [place for place in range(45) if place not in files.bad]
    for row, place in enumerate(left[: len(one.rows.features)]):
        from stackflower.data.images import load_square

        pixels = torch.tensor(load_square(files.files[place], 16)).permute(2, 0, 1).flatten().float()
        assert torch.equal(one.rows.features[row], pixels[:6]), "row i is the i-th file that can be read"


def test_too_few_images_are_named_metric_by_metric(stackflower, tmp_path: Path, judged: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert "has no images" in stackflower("eval", "--images", "mine", *judged, code=2).output
    drawn(tmp_path / "mine", 1)
    assert (
        "1 image that can be read; scores need at least 2"
        in stackflower("eval", "--images", "mine", *judged, code=2).output
    )
    drawn(tmp_path / "mine", 3)
    scores = json.loads(stackflower("eval", "--images", "mine", *judged).stdout)
    assert scores["metrics"] == ["fid"] and "10 splits of 3 images" in scores["omitted"]["is"]
    assert "needs 4 images" in scores["omitted"]["kid"] and "more than 5" in scores["omitted"]["prdc"]
    said = stackflower("eval", "--images", "mine", *judged[:-1]).output
    assert "10 splits of 3 images" in said and "needs 4 images" in said
    for metric, reason in (("is", "10 splits of 3 images"), ("kid, prdc", "needs 4 images")):
        assert reason in stackflower("eval", "--images", "mine", *judged, "--metrics", metric, code=2).output
    for flag, value in (("--truncation", 1), ("--checkpoint", "best"), ("--samples", 5)):
        assert flag in stackflower("eval", "--images", "mine", *judged, flag, value, code=2).output


def test_scores_are_kept_and_compared_only_where_their_protocol_is_the_same(
    stackflower, tmp_path: Path, trained: Path, judged: list[str]
) -> None:
    shutil.rmtree(trained / "scores", ignore_errors=True)  # of other tests
    scoring = ["eval", trained, *judged[2:], "--metrics", "is,fid", "--splits", 2]
    first = json.loads(stackflower(*scoring).stdout)
    (kept,) = (trained / "scores").glob("train-domain-*.json")
    assert json.loads(kept.read_text()) == first
    again = json.loads(stackflower(*scoring, "--compare", kept, "--out", "mine.json").stdout)
    assert (
        again["compared"]["frechet_distance"]["difference"] == 0
        and json.loads((tmp_path / "mine.json").read_text())["metrics"]
    )
    flags = [flag for flag in scoring if flag != "--json"]
    assert (
        "frechet_distance"
        in stackflower(*flags, "--compare", "mine.json").stdout.partition("compared with mine.json")[2]
    )

    said = stackflower(*scoring, "--seed", 1, "--samples", 12, "--compare", kept, code=2).output
    assert "frechet_distance" in said, "the scores are printed all the same"
    listed = said.rpartition("protocols differ:")[2]
    assert "seed: 1 here, 0 there" in listed and "images: 12 here, 48 there" in listed and "extractor" not in listed
    folder = ["eval", "--images", "mine", "--metrics", "fid", *judged]
    drawn(tmp_path / "mine", 8)
    assert "don't compare" in stackflower(*folder, "--compare", kept, code=2).output
    for wrong, content in (
        ("none.json", None),
        ("empty.json", ""),
        ("other.json", '{"protocol": 3}'),
        ("list.json", "[]"),
    ):
        if content is not None:
            (tmp_path / wrong).write_text(content)
        assert wrong in stackflower(*scoring, "--compare", wrong, code=2).output
    (tmp_path / "taken").write_text("")
    for wrong in ("taken/scores.json", "data"):
        assert "can't be written" in stackflower(*scoring, "--out", wrong, code=2).output


def test_scores_that_cannot_be_kept_are_printed(stackflower, trained: Path, judged: list[str]) -> None:
    shutil.rmtree(trained / "scores", ignore_errors=True)
    (trained / "scores").write_text("in the way")
    try:
        scores = json.loads(stackflower("eval", trained, *judged[2:], "--metrics", "fid").stdout)
        assert scores["frechet_distance"] >= 0 and "can't be written" in scores["warnings"][0]
    finally:
        (trained / "scores").unlink()


def test_limits_of_scores_within_a_group() -> None:
    scores = {"precision": 0.4, "caption_accuracy": {"all_mentioned": 0.3, "all_mentioned_interval": [0.2, 0.4]}}
    scores |= {"diversity_within_caption": {"value": 0.9}}
    assert not missed(scores, {"precision": 0.4, "captions": 0.3, "diversity": 0.8}, {})
    assert len(missed(scores, {"precision": 0.5, "captions": 0.4}, {"diversity": 0.8})) == 3


def test_a_score_that_is_no_number_misses_its_limit() -> None:
    assert missed({"frechet_distance": math.nan}, {}, {"fid": 40}) and missed(
        {"frechet_distance": math.nan}, {"fid": 1}, {}
    )
    assert not missed({"frechet_distance": 3.0}, {"fid": 3}, {"fid": 3})


# ---- what can be scored


@pytest.fixture
def judge(stackflower, tmp_path: Path) -> list[str]:
    """A data set of 120 validation images, and the flags of a classifier of random weights that compares images with captions."""
    torch.manual_seed(0)
    heads = {"label": ("a", "b", "c"), "colour": ("red", "blue")}
    model = DomainClassifier(heads=heads, resolution=16, width=4, text={"name": "ngram", "dim": 32}, text_dim=32)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(layer.weight, 4)  # so that scores are no rounding errors
    save_classifier(model, tmp_path / "j.safetensors")
    counts = ("--count", 40, "--validation", 120, "--test", 30, "--resolution", 64)
    stackflower("data", "make", "synthetic-flowers", "--out", "data", *counts)
    return ["--data", "data", "--split", "validation", "--extractor", "domain", "--weights", "j.safetensors"]


def test_several_runs_and_checkpoints_side_by_side(stackflower, tmp_path: Path, judge: list[str]) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        stackflower("train", "--out", name, "--images", 32, "--seed", seed, *TINY_NETWORKS, "--data", "data",
                    *settings("output.checkpoint_every=16", "output.keep_last=5", "text.dim=64"))  # fmt: skip
    scoring = [*judge, "--metrics", "is,fid", "--splits", 2]
    both = json.loads(stackflower("eval", "one", "two", *scoring, "--json").stdout)["scores"]
    alone = json.loads(stackflower("eval", "two", *scoring, "--json").stdout)
    assert [scores["scored"]["run"] for scores in both] == ["one", "two"] and both[1] == alone
    text = stackflower("eval", "one", "two", *scoring).stdout
    assert "1  one, averaged (EMA)" in text and "frechet_distance" in text and text.count("held_out") == 1
    every = json.loads(stackflower("eval", "one", "--checkpoint", "all", *scoring, "--json").stdout)["scores"]
    assert [scores["scored"]["images_seen"] for scores in every] == [16, 32]
    assert every[1]["frechet_distance"] == pytest.approx(both[0]["frechet_distance"], rel=1e-6)
    assert every[0]["frechet_distance"] != pytest.approx(every[1]["frechet_distance"], rel=1e-3)
    stackflower("sample", "one", "a flower", "--checkpoint", "16", "--out", "early.png")
    said = stackflower("eval", "one", "--checkpoint", "17", *scoring, code=2).output
    assert "one has no checkpoint 17; it has: 0, 16, 32." in said
    stackflower("eval", "one", "two", *scoring, "--out", "both.json")
    assert len(json.loads((tmp_path / "both.json").read_text())["scores"]) == 2


def test_real_images_in_the_place_of_generated_ones(stackflower, tmp_path: Path, judge: list[str]) -> None:
    scoring = [*judge, "--resolution", 16, "--splits", 2, "--json"]
    other = json.loads(stackflower("eval", "--real", "test", *scoring).stdout)
    assert other["scored"] == {"real_images_of": "test"} and other["protocol"]["images"] == 30
    same = json.loads(stackflower("eval", "--real", "validation", *scoring).stdout)
    assert (
        same["protocol"]["images"] == same["protocol"]["real_images"] == 60
        and "half" in same["scored"]["real_images_of"]
    )
    assert same["frechet_distance"] > 0 and same["recall"] > 0.5, "they are different images of one kind"
    near = json.loads(stackflower("eval", "--real", "test", *scoring, "--metrics", "nearest").stdout)
    assert 0 <= near["copies"] <= 1 and near["training_images"] == 40
    copied = json.loads(stackflower("eval", "--real", "train", *scoring, "--metrics", "nearest").stdout)
    assert copied["copies"] == 1 and copied["real_copies"] < 0.5, "training images are copies of themselves"
    assert "There is no split 'nowhere'" in stackflower("eval", "--real", "nowhere", *scoring, code=2).output
    assert (
        "the training split"
        in stackflower("eval", "--real", "test", *scoring, "--split", "train", "--metrics", "nearest", code=2).output
    )


def test_a_function_is_scored_as_a_run(tmp_path: Path, judge: list[str], stackflower, trained: Path) -> None:
    from stackflower import Pipeline, scores_of

    def noise(captions: list[str], seed: int) -> torch.Tensor:
        pixels = torch.rand(len(captions), 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        return (255 * pixels).to(torch.uint8)

    options = {"extractor": "domain", "options": {"weights": "j.safetensors"}, "split": "validation", "splits": 2}
    found = scores_of(noise, data="data", resolution=16, **options)
    again = scores_of(noise, data="data", resolution=16, **options)
    assert found == again and found["protocol"]["images"] == 120 and "noise" in found["scored"]["function"]
    assert {"is", "fid", "kid", "prdc", "r-precision", "similarity", "cosine", "diversity"} <= set(found["metrics"])
    run = scores_of(trained, data="data", **options)
    assert set(run["metrics"]) >= set(found["metrics"]) - {"captions"} and run["scored"]["run"] == str(trained)
    pipeline = Pipeline.from_run(trained)

    def drawn_again(captions: list[str], seed: int) -> torch.Tensor:
        return torch.cat(list(pipeline.generate(captions, seed=seed))).permute(0, 3, 1, 2)

    other = scores_of(drawn_again, data="data", resolution=16, **options)
    assert other["frechet_distance"] == pytest.approx(run["frechet_distance"], rel=0.5), "but for noise and crop"
    with pytest.raises(DataError, match=r"gave torch.float32 \(64, 3, 16, 16\) for 64 captions; wanted"):
        scores_of(lambda captions, seed: torch.zeros(len(captions), 3, 16, 16), data="data", resolution=16, **options)


def test_a_folder_with_captions_is_scored_with_them(
    stackflower, tmp_path: Path, judge: list[str], trained: Path
) -> None:
    captions = [
        json.loads(line)["text"][0] for line in (tmp_path / "data/validation/metadata.jsonl").read_text().splitlines()
    ]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    stackflower("sample", trained, "--captions", "captions.txt", "--out", "drawn")
    scoring = [*judge, "--resolution", 16, "--splits", 2, "--json"]
    found = json.loads(stackflower("eval", "--images", "drawn", *scoring).stdout)
    assert {"captions", "cosine", "r-precision", "similarity"} <= set(found["metrics"])
    assert "diversity" not in found["metrics"] and found["scored"]["image_sizes"] == "16×16"
    rows = [json.loads(line) for line in (tmp_path / "drawn/metadata.jsonl").read_text().splitlines()]
    text = [{**row, "text": f"{row['text']} indeed"} for row in rows]
    (tmp_path / "drawn/metadata.jsonl").write_text("\n".join(map(json.dumps, text)))
    other = json.loads(stackflower("eval", "--images", "drawn", *scoring).stdout)
    assert "r-precision" in other["metrics"] and "captions" not in other["metrics"] and "cosine" in other["omitted"]
    (tmp_path / "drawn/metadata.jsonl").unlink()
    (tmp_path / "drawn/00000-00.txt").write_text("a red flower")
    some = json.loads(stackflower("eval", "--images", "drawn", *scoring).stdout)
    assert "119 of 120 images have no caption" in some["warnings"][0] and "r-precision" not in some["metrics"]
    asked = stackflower("eval", "--images", "drawn", *scoring, "--metrics", "r-precision", code=2).output
    assert "119 of 120 images have no caption" in asked
    (tmp_path / "drawn/metadata.jsonl").write_text('{"file_name": "gone.png", "text": "a"}')
    assert "there is no such image" in stackflower("eval", "--images", "drawn", *scoring, code=2).output


def test_the_competitions_files_in_and_its_table_out(stackflower, tmp_path: Path, judge: list[str]) -> None:
    from PIL import Image

    folder = tmp_path / "inference"
    folder.mkdir()
    files = [
        json.loads(line)["file_name"] for line in (tmp_path / "data/validation/metadata.jsonl").read_text().splitlines()
    ]
    for name in files[:90]:  # the real images themselves
        number = int("".join(filter(str.isdigit, Path(name).stem)))
        Image.open(tmp_path / "data/validation" / name).save(folder / f"inference_{number:04d}.png")
    scoring = ["eval", "--images", "inference", *judge, "--resolution", 16, "--protocol", "competition"]
    found = json.loads(stackflower(*scoring, "--json", "--out", "score.csv").stdout)
    assert set(found["metrics"]) == {"is", "cosine"} and found["protocol"]["protocol"] == "competition"
    assert found["cosine_distance"] < found["cosine_distance_to_another"], "of themselves but for the crop"
    rows = (tmp_path / "score.csv").read_text().splitlines()
    assert rows[0] == "score,id" and len(rows) == 91
    mean = sum(float(row.split(",")[0]) for row in rows[1:]) / 90
    assert mean == pytest.approx(found["cosine_distance"], abs=1e-5)
    assert sorted(row.split(",")[1] for row in rows[1:])[0] in {path.stem[10:] for path in folder.iterdir()}
    (folder / "another.png").write_bytes(next(folder.glob("*.png")).read_bytes())
    assert (
        "1 of 91 files, such as another.png, have no number of an image of the split validation, as inference_"
        in stackflower(*scoring, code=2).output
    )
    assert "--protocol competition" in stackflower(*scoring[:-2], "--out", "score.csv", code=2).output


def test_a_protocol_of_unseen_classes_wants_them(stackflower, judge: list[str], trained: Path) -> None:
    flags = [*judge[:2], *judge[4:]]
    said = stackflower("eval", trained, *flags, "--protocol", "stackgan-birds", code=2).output
    assert "150 training classes and 50 other ones" in said and "leave out --protocol" in said
    assert (
        "says --splits 10"
        in stackflower("eval", trained, *flags, "--protocol", "stackgan-flowers", "--splits", 5, code=2).output
    )


def test_runs_and_folders_side_by_side_compare(stackflower, tmp_path: Path, judge: list[str], trained: Path) -> None:
    captions = [
        json.loads(line)["text"][0] for line in (tmp_path / "data/validation/metadata.jsonl").read_text().splitlines()
    ]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    stackflower("sample", trained, "--captions", "captions.txt", "--out", "drawn")
    scoring = [*judge, "--resolution", 16, "--load-size", 64, "--splits", 2, "--metrics", "is,fid,prdc"]
    both = json.loads(stackflower("eval", trained, "--images", "drawn", *scoring, "--json").stdout)["scores"]
    assert [next(iter(scores["scored"])) for scores in both] == ["run", "folder"]
    assert both[0]["protocol"]["real_crop"] == both[1]["protocol"]["real_crop"]
    assert both[0]["frechet_distance"] == pytest.approx(both[1]["frechet_distance"], rel=0.5)
    stackflower(
        "eval", trained, *judge, "--load-size", 64, "--splits", 2, "--metrics", "is,fid,prdc", "--out", "run.json"
    )
    compared = json.loads(stackflower("eval", "--images", "drawn", *scoring, "--compare", "run.json", "--json").stdout)
    assert {"frechet_distance", "recall"} <= set(compared["compared"])
    said = stackflower(
        "eval", "--images", "drawn", *judge, "--resolution", 16, "--metrics", "fid", "--compare", "run.json", code=2
    ).output
    assert "real_crop" in said and "splits: 10 here, 2 there" in said and "captions:" not in said


def test_captions_in_folders_of_a_folder(stackflower, tmp_path: Path, judge: list[str]) -> None:
    for part in ("a", "b"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        drawn(tmp_path / "mine" / part, 60)
        rows = [
            {"file_name": path.name, "text": f"flower {part} {path.stem}"}
            for path in (tmp_path / "mine" / part).glob("*.png")
        ]
        (tmp_path / "mine" / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scoring = ["eval", "--images", "mine", *judge, "--resolution", 16, "--splits", 2, "--json"]
    found = json.loads(stackflower(*scoring).stdout)
    assert "r-precision" in found["metrics"] and "of no real images" in found["omitted"]["cosine"]
    (tmp_path / "mine" / "b" / "metadata.jsonl").unlink()
    assert "60 of 120 images have no caption" in stackflower(*scoring, "--metrics", "r-precision", code=2).output


def test_real_images_that_are_all_the_same_leave_diversity_out(stackflower, tmp_path: Path, trained: Path) -> None:
    from PIL import Image

    for split in ("train", "validation"):
        (tmp_path / "grey" / split).mkdir(parents=True)
        rows = [{"file_name": f"{number}.png", "text": f"grey {number}", "label": number % 2} for number in range(12)]
        for row in rows:
            Image.new("RGB", (24, 24), (120, 120, 120)).save(tmp_path / "grey" / split / row["file_name"])
        (tmp_path / "grey" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    save_classifier(DomainClassifier(heads={"label": ("a", "b")}, resolution=16, width=4), tmp_path / "c.safetensors")
    scoring = ["eval", trained, "--data", "grey", "--extractor", "domain", "--weights", "c.safetensors", "--splits", 2]
    found = json.loads(stackflower(*scoring, "--json").stdout)
    assert "all the same" in found["omitted"]["diversity"] and "fid" in found["metrics"]


@pytest.mark.parametrize(
    "change",
    [{"text": {}}, {"text": {"name": "ngram", "dim": 8}}, {"network": "resnet999"}, {"heads": 3}, {"width": "x"}],
)
def test_a_classifier_with_damaged_metadata_is_refused(
    stackflower, tmp_path: Path, judge: list[str], change: dict
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "j.safetensors"
    with safe_open(path, "pt") as handle:
        known = json.loads(handle.metadata()["domain_classifier"])
    save_file(load_file(path), path, {"domain_classifier": json.dumps({**known, **change})})
    scoring = ["eval", "--real", "test", *judge, "--resolution", 16, "--metrics", "r-precision,fid"]
    said = stackflower(*scoring, code=2).output
    assert "is not a classifier written by" in said or "it is damaged" in said


def test_subjects_do_not_mix(stackflower, trained: Path) -> None:
    for arguments, said in (
        ([trained, "--images", "."], "--images: name the data to compare with"),
        ([trained, "--load-size", 15], "--load-size"),
        (["--real", "test", "--data", "synthetic-flowers", "--load-size", 60], "it can't be less"),
        (["--real", "test"], "--real: name the data"),
        ([trained, "--resolution", 16], "--resolution is for images that are not a run's"),
        (["--real", "test", "--data", "synthetic-flowers", "--checkpoint", "best"], "--checkpoint is for a run"),
        ([trained, "--kept", 1], "--kept"),
    ):
        assert said in stackflower("eval", *arguments, code=2).output, arguments


def test_several_images_a_caption(stackflower, judge: list[str], trained: Path) -> None:
    found = json.loads(
        stackflower(
            "eval", trained, *judge, "--per-caption", 3, "--samples", 20, "--metrics", "is,fid", "--json"
        ).stdout
    )
    assert found["protocol"]["images"] == 60 and found["protocol"]["real_images"] == 20
    assert found["protocol"]["per_caption"] == 3


def test_a_classifier_of_captions_alone(stackflower, tmp_path: Path, judge: list[str]) -> None:
    """Data without labels: it compares images with captions, and has no classes."""
    for split in ("train", "validation", "test"):
        path = tmp_path / "data" / split / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps({"file_name": row["file_name"], "text": row["text"]}) for row in rows))
    small = ["--resolution", 16, "--network", "plain", "--epochs", 1]
    assert (
        "--text ngram"
        in stackflower("train-classifier", "--data", "data", "--out", "c.safetensors", *small, code=2).output
    )
    found = json.loads(
        stackflower(
            "train-classifier", "--data", "data", "--out", "c.safetensors", *small, "--text", "ngram", "--json"
        ).stdout
    )
    assert found["accuracy"] == {} and 0 <= found["r_precision"] <= 1
    assert (
        "fitted on captions"
        in stackflower(
            "train-classifier", "--data", "data", "--out", "c.safetensors", *small, "--text", "rnn", code=2
        ).output
    )
    scoring = [
        "--real",
        "validation",
        "--data",
        "data",
        "--split",
        "validation",
        "--extractor",
        "domain",
        "--weights",
        "c.safetensors",
    ]
    scores = json.loads(stackflower("eval", *scoring, "--resolution", 16, "--json").stdout)
    assert (
        "has no classes" in scores["omitted"]["is"]
        and scores["protocol"]["held_out"]["r_precision"] == found["r_precision"]
    )


def test_a_classifier_over_a_pretrained_network(stackflower, tmp_path: Path, judge: list[str]) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "w.pt")
    options = settings("features.model=shufflenet_v2_x0_5", "features.weights=w.pt")
    train = [
        "train-classifier",
        "--data",
        "data",
        "--out",
        "c.safetensors",
        "--resolution",
        32,
        "--epochs",
        2,
        "--text",
        "ngram",
    ]
    found = json.loads(stackflower(*train, "--features", "torchvision", *options, "--json").stdout)
    assert set(found["accuracy"]) > {"label", "colour"} and set(found["calibration_error"]) == set(found["accuracy"])
    model = load_classifier(tmp_path / "c.safetensors")
    assert model.pretrained is not None and not any("pretrained" in name for name in model.state_dict())
    scoring = [
        "--real",
        "validation",
        "--data",
        "data",
        "--split",
        "validation",
        "--extractor",
        "domain",
        "--weights",
        "c.safetensors",
    ]
    scores = json.loads(stackflower("eval", *scoring, "--json").stdout)
    assert scores["protocol"]["held_out"] == {
        name: found[name] for name in ("accuracy", "calibration_error", "r_precision")
    }
    assert "needs --features NAME" in stackflower(*train, *options, code=2).output
    assert "--fine-tune needs --features" in stackflower(*train, "--fine-tune", code=2).output
    stackflower(*train, "--features", "torchvision", *options, "--fine-tune", "--augmentation", "light")
    tuned = load_classifier(tmp_path / "c.safetensors")
    assert tuned.trunk is not None and tuned.pretrained is not None
    before = dict(tuned.pretrained.network(torch.device("cpu"), torch.float32).named_parameters())
    moved = [name for name, value in tuned.trunk.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(before), "the network has learnt too"
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    found, again = tuned(images), load_classifier(tmp_path / "c.safetensors")(images)
    assert torch.equal(found.features, again.features)
    assert json.loads(stackflower("eval", *scoring, "--json").stdout)["protocol"]["weights_sha256"]
