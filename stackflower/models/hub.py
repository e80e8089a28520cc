"""Models on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stackflower.errors import ModelError, summarise_error
from stackflower.models.record import CONFIG_FILE, LARGEST_CONFIG, is_model, read_record

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LARGEST_MODEL = 4 << 30  # bytes of all files that are downloaded
CARD_FILES = ("README.md", "samples.jpg")
NEW_REPOSITORY = frozenset({".gitattributes", "README.md"})  # files that a new repository may have
LOGIN = "Log in with `hf auth login`, or set the environment variable HF_TOKEN."


def is_id(name: str) -> bool:
    """Return whether a name has the form of an id on the Hub: OWNER/NAME."""
    return ID.fullmatch(name) is not None


@cache
def download(model: str, revision: str | None = None) -> Path:
    """Download a model into the Hub's cache, or find it there without a network.

    Only the files that its ``config.json`` lists are downloaded. Nothing is loaded; `load_model` checks the files. The
    Hub is asked once per process, so that all parts of a command use the same version of the model.

    Args:
        model: id, OWNER/NAME.
        revision: branch, tag or commit; None: the newest.

    Returns:
        The folder of the model.

    Raises:
        ModelError: the model does not exist, can't be reached, is too large, or is not one of Stackflower.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _explaining_errors(model, revision):
        try:
            info = HfApi().model_info(model, revision=revision, files_metadata=True)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            try:
                return Path(snapshot_download(model, revision=revision, local_files_only=True))
            except LocalEntryNotFoundError:
                raise error from None
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if CONFIG_FILE not in sizes:
            raise ModelError(f"{model} on the Hub is not a Stackflower model: it has no {CONFIG_FILE}.")
        if sizes[CONFIG_FILE] > LARGEST_CONFIG:
            raise ModelError(f"{model} on the Hub is not a Stackflower model: its {CONFIG_FILE} is too large.")
        folder = Path(snapshot_download(model, revision=info.sha, allow_patterns=[CONFIG_FILE]))
        files = read_record(folder).files
        if missing := [name for name in files if name not in sizes]:
            raise ModelError(f"{model} on the Hub is incomplete: {missing[0]} is missing.")
        names = [CONFIG_FILE, *files, *(name for name in CARD_FILES if name in sizes)]
        total = sum(sizes[name] for name in names)
        if total > LARGEST_MODEL:
            raise ModelError(
                f"{model} on the Hub has {total / 2**30:.1f} GiB; at most {LARGEST_MODEL / 2**30:.0f} GiB are loaded."
            )
        return Path(snapshot_download(model, revision=info.sha, allow_patterns=[_escape(name) for name in names]))


def _escape(name: str) -> str:
    """Escape the characters of a file name that have a meaning in patterns."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def check_access(model: str) -> None:
    """Check that a model may be pushed: that the id has the right form, and that the user is logged in.

    Raises:
        ModelError: the id is wrong, the user is not logged in, or the Hub can't be reached.
    """
    from huggingface_hub import HfApi

    _check_id(model)
    with _explaining_errors(model, None):
        HfApi().whoami()


def push(folder: Path, model: str, private: bool = False) -> str:
    """Upload a model folder, and create its repository if it does not exist.

    Args:
        folder: folder that `Pipeline.save_pretrained` wrote.
        model: id, OWNER/NAME.
        private: create a private repository.

    Returns:
        The address of the model.

    Raises:
        ModelError: the folder is not a model, the user is not logged in or may not write, or the Hub can't be reached.
    """
    from huggingface_hub import HfApi

    _check_id(model)
    if not is_model(folder):
        raise ModelError(f"{folder} is not a model folder; write one with `Pipeline.save_pretrained`.")
    names = [CONFIG_FILE, *read_record(folder).files, *CARD_FILES]
    with _explaining_errors(model, None):
        api = HfApi()
        url = api.create_repo(model, private=private, exist_ok=True)
        present = {file.rfilename for file in api.model_info(model).siblings or []} - NEW_REPOSITORY
        if present and not _is_model_repository(model, present):
            raise ModelError(
                f"{model} on the Hub already holds something else than a Stackflower model; choose another id."
            )
        api.upload_folder(
            repo_id=model,
            folder_path=folder,
            allow_patterns=[_escape(name) for name in names],
            delete_patterns=["generator*.safetensors", "text/*"],  # files of an earlier version
            commit_message="Upload a Stackflower model",
        )
    return str(url)


def _is_model_repository(model: str, names: set[str]) -> bool:
    """Return whether a repository with these files holds a Stackflower model."""
    from huggingface_hub import snapshot_download

    return CONFIG_FILE in names and is_model(Path(snapshot_download(model, allow_patterns=[CONFIG_FILE])))


def _check_id(model: str) -> None:
    if not is_id(model):
        raise ModelError(f"{model!r} is not an id on the Hugging Face Hub; write OWNER/NAME, such as ada/flowers.")


def _is_unreachable(error: BaseException) -> bool:
    """Return whether an error means that the network is unavailable or disabled."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return True
    if isinstance(error, HfHubHTTPError):
        return getattr(error.response, "status_code", 0) in (502, 503, 504)
    is_network = type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))
    return is_network or isinstance(error, ConnectionError)


@contextmanager
def _explaining_errors(model: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the Hub in the block into a `ModelError` of one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except ModelError:
        raise
    except (errors.GatedRepoError, errors.LocalTokenNotFoundError) as error:
        raise ModelError(f"{model} on the Hub can't be used without an account that has access. {LOGIN}") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{model} on the Hub has no revision {revision!r}.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"{model} does not exist on the Hugging Face Hub, or is private. {LOGIN}") from error
    except Exception as error:
        raise ModelError(_explain(model, error)) from error


def _explain(model: str, error: Exception) -> str:
    code: Any = getattr(getattr(error, "response", None), "status_code", None)
    if code in (401, 403):
        return f"{model} on the Hub refused access ({code}). {LOGIN}"
    if _is_unreachable(error):
        return (
            f"{model} is not a local folder, and the Hugging Face Hub can't be reached ({summarise_error(error)}). "
            "Check the name or the network."
        )
    return f"{model} on the Hugging Face Hub: {summarise_error(error)}"
