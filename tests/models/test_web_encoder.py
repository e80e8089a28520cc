"""The text encoder of exported pages equals Python's, for captions in any script."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
import torch

import stackflower.models.web
from stackflower.errors import ConfigError
from stackflower.models.web import describe_encoder
from stackflower.text.base import split_words
from stackflower.text.encoders.multi_hot import MultiHotEncoder
from stackflower.text.encoders.ngram import NgramEncoder

CODE = Path(stackflower.models.web.__file__).parent / "web" / "ngram.js"
node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

RUN = """
const ngram = require(process.argv[1]);
const { options, captions } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const rows = captions.map((caption) => {
  const values = ngram.encode(caption, options);
  return [ngram.splitWords(caption, options.folds), [...values.entries()].filter(([, value]) => value)];
});
process.stdout.write(JSON.stringify(rows));
"""

# Scripts and symbols whose characters were assigned by Unicode 13.
RANGES = [
    *((0x0020, 0x024F), (0x0250, 0x02FF), (0x0300, 0x036F), (0x0370, 0x03FF), (0x0400, 0x052F), (0x0531, 0x0587)),
    *((0x05D0, 0x05EA), (0x0600, 0x06FF), (0x0900, 0x097F), (0x0E01, 0x0E5B), (0x0F40, 0x0F6C), (0x10A0, 0x10FF)),
    *((0x1100, 0x11FF), (0x13A0, 0x13FD), (0x1C90, 0x1CBF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F)),
    *((0x2070, 0x209C), (0x2100, 0x218B), (0x2460, 0x24FF), (0x2600, 0x27BF), (0x3000, 0x30FF), (0x3200, 0x33FF)),
    *((0x4E00, 0x4FFF), (0xA640, 0xA69F), (0xA722, 0xA787), (0xAB70, 0xABBF), (0xAC00, 0xADFF), (0xF900, 0xFAFF)),
    *((0xFB00, 0xFB4F), (0xFE70, 0xFEFF), (0xFF00, 0xFFEF), (0x10400, 0x1044F), (0x104B0, 0x104D3)),
    *((0x118A0, 0x118DF), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F), (0x1F100, 0x1F1FF), (0x1F300, 0x1F64F)),
]
HANDPICKED = [
    *("Straße STRASSE ẞ", "İstanbul ISTANBUL ıi", "ΟΔΟΣ Σ ΣΑΣ ς", "ﬁre ﬂower Ａｐｐｌｅ ｶﾞ", "한국어 꽃 ㅎㅏㄴ 각"),
    *("वनस्पति फूल क्षि", "وردة حمراء لا ﷺ", "🌹 a red 🌺🏽 flower 👩‍👩‍👧", "é é ñ ñ", "snake_case __init__ a_b"),
    *(
        "½ ² ⅷ ① ٣ ५",
        "a\u00a0b\u3000c\u1680d\x1ce\x85f\ufeffg\u200bh",
        "ŉ ǰ ΐ և ᾳ ῼ ᾈ",
        'it\'s "the" (one), of: all!',
        "",
    ),
    *("no, not without a stem", "…", "ꭰ Ꭰ Ა ა", "\U0001d4b6\U0001d7d9 \U00010400", "a" * 300, "x\ty\nz\r\n", "_", ""),
]


def write_captions(count: int) -> list[str]:
    """Return captions of random words: mostly of one script, some of several, some of common English words."""
    rng = random.Random(0)
    scripts = [
        [chr(code) for code in range(first, last + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
        for first, last in RANGES
    ]
    english = ["a", "the", "red", "Flower", "with", "no", "8", "petals,", "YELLOW", "ruffled", "and;", "(white)"]
    captions = list(HANDPICKED)
    while len(captions) < count:
        script = rng.choice(scripts)
        words = []
        for _ in range(rng.randint(1, 8)):
            letters = script if rng.random() < 0.8 else rng.choice(scripts)
            words.append(
                rng.choice(english) if rng.random() < 0.2 else "".join(rng.choices(letters, k=rng.randint(1, 7)))
            )
        captions.append(rng.choice((" ", " ", ", ", "  ", "_", "")).join(words))
    return captions


def run_javascript(encoder: NgramEncoder, captions: list[str]) -> tuple[list[list[str]], torch.Tensor]:
    """Return the words and the embeddings of captions as the page computes them."""
    request = json.dumps({"options": describe_encoder(encoder), "captions": captions})
    result = subprocess.run(
        ["node", "-e", RUN, str(CODE)], input=request.encode(), stdout=subprocess.PIPE, check=True, timeout=60
    )
    table = torch.zeros(len(captions), encoder.dim)
    rows = json.loads(result.stdout)
    for number, (_, entries) in enumerate(rows):
        for position, value in entries:
            table[number, position] = value
    return [words for words, _ in rows], table


@node
@pytest.mark.parametrize(
    "encoder",
    [NgramEncoder(), NgramEncoder(dim=97, window=1, characters=0.0, function_words=0.5)],
    ids=["default", "other"],
)
def test_the_encoder_of_pages_equals_pythons(encoder: NgramEncoder) -> None:
    captions = write_captions(1000)
    assert len({unicodedata.name(letter, "?").split()[0] for caption in captions for letter in caption}) > 40
    words, table = run_javascript(encoder, captions)
    for caption, mine in zip(captions, words, strict=True):
        assert mine == split_words(caption), repr(caption)
    expected = encoder.encode(captions)
    assert torch.equal(expected.abs() > 1e-6, table.abs() > 1e-6), "the same positions"
    assert (expected - table).abs().max() <= 1e-6
    assert expected.any(1).float().mean() > 0.9


@node
def test_every_letter_of_these_scripts_is_folded_as_in_python() -> None:
    letters = [chr(code) for first, last in RANGES for code in range(first, last + 1)]
    letters = [letter for letter in letters if unicodedata.category(letter) not in ("Cn", "Cs", "Co")]
    captions = [f"x{letter}x" for letter in letters]
    words, _ = run_javascript(NgramEncoder(dim=16), captions)
    wrong = {letter: mine for letter, mine in zip(letters, words, strict=True) if mine != split_words(f"x{letter}x")}
    assert len(captions) > 5000 and wrong == {}


def test_another_encoder_is_refused() -> None:
    class Other(NgramEncoder):
        pass

    with pytest.raises(ConfigError, match=r"text encoder multi-hot, but a web page can only use ngram.*`format=onnx`"):
        describe_encoder(MultiHotEncoder())
    with pytest.raises(ConfigError, match="ngram"):
        describe_encoder(Other())
