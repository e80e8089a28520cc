"""What can be scored: runs, checkpoints, folders of images, functions, real images."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import TINY_NETWORKS, settings, write_random_images

from stackflower.errors import DataError
from stackflower.evaluation.classifier.files import save_classifier
from stackflower.evaluation.classifier.network import DomainClassifier


def test_several_runs_and_checkpoints_are_scored_side_by_side(
    stackflower, tmp_path: Path, domain_flags: list[str]
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        stackflower("train", "--out", name, "--images", 32, "--seed", seed, *TINY_NETWORKS, "--data", "data",
                    *settings("output.checkpoint_every=16", "output.keep_last=5", "text.dim=64"))  # fmt: skip
    scoring = [*domain_flags, "--metrics", "is,fid", "--splits", 2]
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


def test_real_images_are_scored_in_the_place_of_generated_ones(
    stackflower, tmp_path: Path, domain_flags: list[str]
) -> None:
    scoring = [*domain_flags, "--resolution", 16, "--splits", 2, "--json"]
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
    assert "The data have no split 'nowhere'" in stackflower("eval", "--real", "nowhere", *scoring, code=2).output
    assert (
        "the training split"
        in stackflower("eval", "--real", "test", *scoring, "--split", "train", "--metrics", "nearest", code=2).output
    )


def test_weights_without_an_extractor_say_which_one_reads_them(
    stackflower, tmp_path: Path, domain_flags: list[str]
) -> None:
    scoring = ["eval", "--real", "test", *domain_flags, "--resolution", 16, "--metrics", "fid", "--samples", 20]
    sentence = "Reading j.safetensors as the extractor domain; for weights of another one, set --extractor."
    assert sentence not in stackflower(*scoring).output
    flag = scoring.index("--extractor")
    assert sentence in stackflower(*scoring[:flag], *scoring[flag + 2 :]).output


def test_a_function_is_scored_as_a_run(tmp_path: Path, domain_flags: list[str], stackflower, trained: Path) -> None:
    from stackflower import Pipeline, evaluate

    def noise(captions: list[str], seed: int) -> torch.Tensor:
        pixels = torch.rand(len(captions), 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        return (255 * pixels).to(torch.uint8)

    options = {"extractor": "domain", "options": {"weights": "j.safetensors"}, "split": "validation", "splits": 2}
    found = evaluate(noise, data="data", resolution=16, **options)
    again = evaluate(noise, data="data", resolution=16, **options)
    assert found == again and found["protocol"]["images"] == 120 and "noise" in found["scored"]["function"]
    assert {"is", "fid", "kid", "prdc", "r-precision", "similarity", "cosine", "diversity"} <= set(found["metrics"])
    run = evaluate(trained, data="data", **options)
    assert set(run["metrics"]) >= set(found["metrics"]) - {"captions"} and run["scored"]["run"] == str(trained)
    pipeline = Pipeline.from_run(trained)

    def drawn_again(captions: list[str], seed: int) -> torch.Tensor:
        return torch.cat(list(pipeline.generate(captions, seed=seed))).permute(0, 3, 1, 2)

    other = evaluate(drawn_again, data="data", resolution=16, **options)
    assert other["frechet_distance"] == pytest.approx(run["frechet_distance"], rel=0.5), "but for noise and crop"
    with pytest.raises(DataError, match=r"returned torch.float32 \(64, 3, 16, 16\) for 64 captions; expected a uint8"):
        evaluate(lambda captions, seed: torch.zeros(len(captions), 3, 16, 16), data="data", resolution=16, **options)


def test_a_folder_with_captions_is_scored_with_them(
    stackflower, tmp_path: Path, domain_flags: list[str], trained: Path
) -> None:
    captions = [
        json.loads(line)["text"][0] for line in (tmp_path / "data/validation/metadata.jsonl").read_text().splitlines()
    ]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    stackflower("sample", trained, "--captions", "captions.txt", "--out", "drawn")
    scoring = [*domain_flags, "--resolution", 16, "--splits", 2, "--json"]
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
    assert "which does not exist" in stackflower("eval", "--images", "drawn", *scoring, code=2).output


def test_the_competitions_files_are_scored_and_its_table_written(
    stackflower, tmp_path: Path, domain_flags: list[str]
) -> None:
    from PIL import Image

    folder = tmp_path / "inference"
    folder.mkdir()
    files = [
        json.loads(line)["file_name"] for line in (tmp_path / "data/validation/metadata.jsonl").read_text().splitlines()
    ]
    for name in files[:90]:  # the real images themselves
        number = int("".join(filter(str.isdigit, Path(name).stem)))
        Image.open(tmp_path / "data/validation" / name).save(folder / f"inference_{number:04d}.png")
    scoring = ["eval", "--images", "inference", *domain_flags, "--resolution", 16, "--protocol", "competition"]
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
        "1 of 91 files, such as another.png, do not match an image of the split validation by number; expected names "
        "such as inference_" in stackflower(*scoring, code=2).output
    )
    assert "--protocol competition" in stackflower(*scoring[:-2], "--out", "score.csv", code=2).output


def test_a_protocol_of_unseen_classes_wants_them(stackflower, domain_flags: list[str], trained: Path) -> None:
    flags = [*domain_flags[:2], *domain_flags[4:]]
    said = stackflower("eval", trained, *flags, "--protocol", "stackgan-birds", code=2).output
    assert "requires 150 training classes and 50 other classes" in said and "Leave out --protocol" in said
    assert (
        "fixes --splits 10"
        in stackflower("eval", trained, *flags, "--protocol", "stackgan-flowers", "--splits", 5, code=2).output
    )


def test_runs_and_folders_side_by_side_can_be_compared(
    stackflower, tmp_path: Path, domain_flags: list[str], trained: Path
) -> None:
    captions = [
        json.loads(line)["text"][0] for line in (tmp_path / "data/validation/metadata.jsonl").read_text().splitlines()
    ]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    stackflower("sample", trained, "--captions", "captions.txt", "--out", "drawn")
    scoring = [*domain_flags, "--resolution", 16, "--load-size", 64, "--splits", 2, "--metrics", "is,fid,prdc"]
    both = json.loads(stackflower("eval", trained, "--images", "drawn", *scoring, "--json").stdout)["scores"]
    assert [next(iter(scores["scored"])) for scores in both] == ["run", "folder"]
    assert both[0]["protocol"]["real_crop"] == both[1]["protocol"]["real_crop"]
    assert both[0]["frechet_distance"] == pytest.approx(both[1]["frechet_distance"], rel=0.5)
    stackflower(
        "eval",
        trained,
        *domain_flags,
        "--load-size",
        64,
        "--splits",
        2,
        "--metrics",
        "is,fid,prdc",
        "--out",
        "run.json",
    )
    compared = json.loads(stackflower("eval", "--images", "drawn", *scoring, "--compare", "run.json", "--json").stdout)
    assert {"frechet_distance", "recall"} <= set(compared["compared"])
    said = stackflower(
        "eval",
        "--images",
        "drawn",
        *domain_flags,
        "--resolution",
        16,
        "--metrics",
        "fid",
        "--compare",
        "run.json",
        code=2,
    ).output
    assert "real_crop" in said and "splits: 10 here, 2 there" in said and "captions:" not in said


def test_captions_in_folders_of_a_folder_are_found(stackflower, tmp_path: Path, domain_flags: list[str]) -> None:
    for part in ("a", "b"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        write_random_images(tmp_path / "mine" / part, 60)
        rows = [
            {"file_name": path.name, "text": f"flower {part} {path.stem}"}
            for path in (tmp_path / "mine" / part).glob("*.png")
        ]
        (tmp_path / "mine" / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scoring = ["eval", "--images", "mine", *domain_flags, "--resolution", 16, "--splits", 2, "--json"]
    found = json.loads(stackflower(*scoring).stdout)
    assert "r-precision" in found["metrics"] and "do not belong to real images" in found["omitted"]["cosine"]
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
    assert "all have the same features" in found["omitted"]["diversity"] and "fid" in found["metrics"]


def test_flags_for_another_subject_are_refused(stackflower, trained: Path) -> None:
    for arguments, said in (
        ([trained, "--images", "."], "--images: name the data to compare with"),
        ([trained, "--load-size", 15], "--load-size"),
        (["--real", "test", "--data", "synthetic-flowers", "--load-size", 60], "real images can't have fewer"),
        (["--real", "test"], "--real: name the data"),
        ([trained, "--resolution", 16], "--resolution applies to images that do not come from a run"),
        (["--real", "test", "--data", "synthetic-flowers", "--checkpoint", "best"], "--checkpoint applies to a run"),
        ([trained, "--kept", 1], "--kept"),
    ):
        assert said in stackflower("eval", *arguments, code=2).output, arguments


def test_several_images_a_caption_are_scored(stackflower, domain_flags: list[str], trained: Path) -> None:
    found = json.loads(
        stackflower(
            "eval", trained, *domain_flags, "--per-caption", 3, "--samples", 20, "--metrics", "is,fid", "--json"
        ).stdout
    )
    assert found["protocol"]["images"] == 60 and found["protocol"]["real_images"] == 20
    assert found["protocol"]["per_caption"] == 3


def score_images(stackflower, images: str, domain_flags: list[str], *flags: object) -> dict:
    scoring = [*domain_flags, "--resolution", 16, "--splits", 2, "--json", *flags]
    return json.loads(stackflower("eval", "--images", images, *scoring).stdout)


def test_hidden_copies_are_not_scored_in_a_folder_or_an_archive(
    stackflower, tmp_path: Path, domain_flags: list[str]
) -> None:
    folder = tmp_path / "mine"
    write_random_images(folder, 12)
    alone = score_images(stackflower, "mine", domain_flags)
    for hidden in (".ipynb_checkpoints/a-checkpoint.png", "._b.png", "__MACOSX/mine/c.png", "@eaDir/d.png"):
        (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "20-000.png", folder / hidden)
    (folder / "Thumbs.db").write_bytes(b"")
    for kind, archive in (("zip", "packed.zip"), ("tar", "packed.tar"), ("gztar", "packed.tar.gz")):
        shutil.make_archive("packed", kind, tmp_path, "mine")
        packed = score_images(stackflower, archive, domain_flags)
        assert packed["scored"].pop("folder") == archive
        assert packed == {**alone, "scored": {key: alone["scored"][key] for key in packed["scored"]}}
    assert score_images(stackflower, "mine", domain_flags) == alone


def test_grids_are_not_scored(stackflower, tmp_path: Path, trained: Path, domain_flags: list[str]) -> None:
    stackflower("sample", trained, "a red flower", "a blue flower", "--per-caption", 4, "--out", "drawn")
    alone = score_images(stackflower, "drawn", domain_flags)
    for flags in (["--grid"], ["--interpolate", 3]):
        stackflower("sample", trained, "a red flower", "--per-caption", 2, "--out", "drawn", *flags)
        stackflower("sample", trained, "a red flower", "--out", f"drawn/my{flags[0]}.jpg", *flags)
    (grid, *_) = (trained / "samples").glob("*.png")
    shutil.copy(grid, "drawn/samples.png")
    scored = score_images(stackflower, "drawn", domain_flags)
    assert scored.pop("warnings") == [*alone.pop("warnings"), "5 image grids that Stackflower drew are not scored."]
    assert scored == alone and scored["protocol"]["images"] == 8
    stackflower("sample", trained, "a red flower", "--grid", "--out", "grids")
    said = stackflower("eval", "--images", "grids", *domain_flags, code=2).output
    assert "grids contains only image grids" in said


def test_images_are_scored_whatever_their_names(stackflower, tmp_path: Path, domain_flags: list[str]) -> None:
    write_random_images(tmp_path / "mine", 12)
    alone = score_images(stackflower, "mine", domain_flags)
    for number, path in enumerate(sorted((tmp_path / "mine").iterdir())):
        path.rename(path.with_suffix(("", ".jfif", ".image")[number % 3]))
    assert score_images(stackflower, "mine", domain_flags) == alone


def test_files_of_an_archive_that_are_not_read_are_named(stackflower, tmp_path: Path, domain_flags: list[str]) -> None:
    write_random_images(tmp_path / "mine", 12)
    with zipfile.ZipFile("mine.zip", "w") as archive:
        for path in sorted((tmp_path / "mine").iterdir()):
            archive.write(path, path.name)
        archive.write(path, "../../outside.png")
    said = stackflower("eval", "--images", "mine.zip", *domain_flags, code=2).output
    assert "outside.png leads out of the archive" in said and "--skip-bad" in said
    scores = score_images(stackflower, "mine.zip", domain_flags, "--skip-bad")
    assert scores["protocol"]["images"] == 12 and "1 other files were left out" in scores["warnings"][0]
    (tmp_path / "note.zip").write_text("no archive")
    assert "can't be read as a zip archive" in stackflower("eval", "--images", "note.zip", *domain_flags, code=2).output
