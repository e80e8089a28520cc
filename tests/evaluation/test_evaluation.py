"""What evaluation does with a run and with data, beyond the formulas."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY_NETWORKS, settings, write_random_images

from stackflower.data.prepared import Prepared
from stackflower.data.source import Rows
from stackflower.evaluation import image_files
from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.network import DomainClassifier
from stackflower.evaluation.image_files import ImageFiles
from stackflower.evaluation.reference import Reference
from stackflower.evaluation.scoring import find_missed_limits
from stackflower.utils.cache import make_cache_folder


def real(rows: Rows) -> Reference:
    return Reference(None, "validation", Prepared(torch.zeros(len(rows), 8, 8, 3, dtype=torch.uint8), rows, ""), 8)  # type: ignore[arg-type]


def test_an_attribute_is_asked_for_by_whole_words() -> None:
    rows = Rows(captions=[["a colored flower, covered in dew", "Red, indeed"]], attributes={"colour": ["red"]})
    assert real(rows).find_mentioned_attributes(0, 0) == {} and real(rows).find_mentioned_attributes(0, 1) == {
        "colour": "red"
    }


def test_what_a_caption_states_is_taken_from_the_data_where_it_is_there() -> None:
    rows = Rows(
        captions=[["yellow centre"]],
        attributes={"colour": ["yellow"], "centre": ["yellow"]},
        mentioned_attributes=[[["centre"]]],
    )
    assert real(rows).find_mentioned_attributes(0, 0) == {"centre": "yellow"}


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
    assert "The data have no split 'test'; choose one of train, validation" in output


def test_the_reported_split_is_the_last_that_there_is() -> None:
    from stackflower.data.synthetic.source import SyntheticFlowers

    assert SyntheticFlowers().get_reported_split() == "test" and SyntheticFlowers().get_held_out_split() == "validation"


def test_extractors_and_processes_share_the_work(trained: Path) -> None:
    """Shares of images, put together again, are the same as all at once."""
    from types import SimpleNamespace

    from stackflower.evaluation.classifier.files import save_classifier
    from stackflower.evaluation.classifier.network import DomainClassifier
    from stackflower.evaluation.extraction import DistributedExtractor
    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.extractors.domain import DomainExtractor
    from stackflower.evaluation.processes import Processes

    path = trained.parent / "shares.safetensors"
    save_classifier(DomainClassifier(heads={"label": ("a", "b")}, resolution=16), path)
    extractor = DomainExtractor(weights=str(path))
    extractor.to("cpu")
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    parts = []
    for index in range(3):
        processes = Processes(SimpleNamespace(process_index=index, num_processes=3))  # type: ignore[arg-type]
        processes.gather = lambda items: items  # type: ignore[method-assign]
        parts.append(DistributedExtractor(extractor, processes).extract(images))
    whole = extractor(images)
    assert torch.allclose(Extracted.concatenate(parts).logits, whole.logits, atol=1e-5)


def test_features_of_real_images_are_kept(trained: Path, judged: list[str], stackflower, monkeypatch) -> None:
    from stackflower.evaluation.extraction import DistributedExtractor

    command = ["eval", trained, *judged[2:], "--metrics", "is,fid", "--splits", 2]
    called: list[int] = []
    once = DistributedExtractor.compute_statistics

    def counted(self: DistributedExtractor, batches, total: int, protocol) -> object:
        called.append(total)
        return once(self, batches, total, protocol)

    monkeypatch.setattr(DistributedExtractor, "compute_statistics", counted)
    first = json.loads(stackflower(*command).stdout)
    again = json.loads(stackflower(*command).stdout)
    assert first == again and called == [48, 48, 48], "real and generated ones, then generated ones"
    for path in make_cache_folder("features").glob("*.safetensors"):
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
            "Unknown score 'similar' for a limit; use one of is, fid, kid, prdc, precision, recall, density, "
            "coverage, captions",
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
    from tiny_parts import save_inception_2015

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
        input1=str(tmp_path / "fake"),
        input2=str(tmp_path / "d" / "train"),
        feature_extractor_weights_path=str(tmp_path / "w.pth"),
        fid=True,
        kid=True,
        kid_subset_size=12,
        cuda=False,
        verbose=False,
        save_cpu_ram=True,
        cache=False,
    )
    assert scores["frechet_distance"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert scores["kernel_distance_mean"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=0.5)


@pytest.fixture
def judged(stackflower, tmp_path: Path) -> list[str]:
    """A data set of 24 images, and the flags that score a folder beside it by a classifier of random weights."""
    torch.manual_seed(0)
    save_classifier(DomainClassifier(heads={"label": ("a", "b")}, resolution=16, width=4), tmp_path / "c.safetensors")
    stackflower("data", "make", "synthetic-flowers", "--out", "data", "--count", 24, "--validation", 2, "--test", 2)
    return ["--data", "data", "--split", "train", "--extractor", "domain", "--weights", "c.safetensors", "--json"]


def test_images_of_a_folder_that_cannot_be_read_are_named(stackflower, tmp_path: Path, judged: list[str]) -> None:
    folder = tmp_path / "mine"
    write_random_images(folder, 12)
    (folder / "broken.png").write_bytes((folder / "20-000.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    said = stackflower("eval", "--images", "mine", *judged, code=2).output
    assert "2 of 14 images" in said and "broken.png" in said and "it is empty" in said and "--skip-bad" in said
    scores = json.loads(stackflower("eval", "--images", "mine", *judged, "--skip-bad").stdout)
    assert scores["protocol"]["images"] == 12 and scores["scored"]["left_out"] == 2
    assert "2 of 14 images can't be read" in scores["warnings"][0]
    write_random_images(folder, 3, (48, 31))
    sizes = json.loads(stackflower("eval", "--images", "mine", *judged, "--skip-bad").stdout)["scored"]["image_sizes"]
    assert sizes == "2 sizes from 20×20 to 48×31"


def test_scores_of_a_folder_do_not_depend_on_batches_and_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_images(tmp_path / "mine", 11)
    files = ImageFiles.of(tmp_path / "mine", 16)
    whole = torch.cat([batch for _, batch in files.iterate_batches()])
    monkeypatch.setattr(image_files, "BATCH_SIZE", 2)
    placed = [pair for share in range(3) for pair in files.iterate_batches((share, 3))]
    assert whole.shape == (11, 3, 16, 16) and torch.equal(whole, torch.cat([batch for _, batch in placed]))
    assert torch.cat([places for places, _ in placed]).tolist() == list(range(11))


@pytest.mark.parametrize("kept", [5, 40, 41, 44, 100])
def test_files_that_cannot_be_read_do_not_move_others(tmp_path: Path, kept: int) -> None:
    """Rows, splits and captions are the same of one process and of three."""
    from stackflower.evaluation.extractors.base import Extracted
    from stackflower.evaluation.statistics import Statistics

    write_random_images(tmp_path / "mine", 45)
    for number in (0, 7, 8, 31, 44):
        (tmp_path / "mine" / f"20-{number:03d}.png").write_bytes(b"damaged")
    found = []
    for count in (1, 3):
        files = ImageFiles.of(tmp_path / "mine", 16)
        workers = []
        for index in range(count):
            worker = Statistics(45, 4, kept)
            for places, batch in files.iterate_batches((index, count)):
                pixels = batch.flatten(1).float()
                worker.add(Extracted.of(pixels[:, :6], pixels[:, 6:9] / 100), places)
            workers.append(worker)
        workers[0].merge(workers[1:])
        found.append((workers[0], files))
    (one, files), (three, _) = found
    assert one.count == three.count == 40 and len(files.unreadable) == 5
    assert torch.equal(one.rows.features, three.rows.features)
    assert one.classes is not None and three.classes is not None
    assert torch.equal(one.classes.count, three.classes.count) and one.classes.count.sum() == 40
    left = [place for place in range(45) if place not in files.unreadable]
    for row, place in enumerate(left[: len(one.rows.features)]):
        from stackflower.data.images import load_square

        pixels = (
            torch.tensor(load_square(tmp_path / "mine" / files.files[place], 16)).permute(2, 0, 1).flatten().float()
        )
        assert torch.equal(one.rows.features[row], pixels[:6]), "row i is the i-th file that can be read"


def test_too_few_images_are_named_metric_by_metric(stackflower, tmp_path: Path, judged: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert "has no images" in stackflower("eval", "--images", "mine", *judged, code=2).output
    write_random_images(tmp_path / "mine", 1)
    assert (
        "1 image that can be read; scores need at least 2"
        in stackflower("eval", "--images", "mine", *judged, code=2).output
    )
    write_random_images(tmp_path / "mine", 3)
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
    write_random_images(tmp_path / "mine", 8)
    assert "are not comparable" in stackflower(*folder, "--compare", kept, code=2).output
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


def test_a_limit_can_name_a_score_within_a_group() -> None:
    scores = {"precision": 0.4, "caption_accuracy": {"all_mentioned": 0.3, "all_mentioned_interval": [0.2, 0.4]}}
    scores |= {"diversity_within_caption": {"value": 0.9}}
    assert not find_missed_limits(scores, {"precision": 0.4, "captions": 0.3, "diversity": 0.8}, {})
    assert len(find_missed_limits(scores, {"precision": 0.5, "captions": 0.4}, {"diversity": 0.8})) == 3


def test_a_score_that_is_no_number_misses_its_limit() -> None:
    assert find_missed_limits({"frechet_distance": math.nan}, {}, {"fid": 40}) and find_missed_limits(
        {"frechet_distance": math.nan}, {"fid": 1}, {}
    )
    assert not find_missed_limits({"frechet_distance": 3.0}, {"fid": 3}, {"fid": 3})
