"""Files that can't be written."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from stackflower.errors import DataError
from stackflower.utils.atomic import RESUME_ADVICE, reporting_write_errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(28, "No space left on device", "x"), "No space left on device"), (SafetensorError("torn."), "torn")],
)
def test_what_cannot_be_written_is_one_sentence(error: Exception, reason: str) -> None:
    with pytest.raises(DataError) as caught, reporting_write_errors("a/b.json", DataError, RESUME_ADVICE):
        raise error
    advice = "Free some disk space and rerun; it resumes where it stopped."
    assert str(caught.value) == f"a/b.json can't be written: {reason}. {advice}"
