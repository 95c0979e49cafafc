"""Dictionary folders on the Hugging Face hub: up, and down into the hub's local cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.core.errors import DictionaryError, reason_of
from interp.dictionaries.files import FILES, read_dictionary
from interp.dictionaries.formats import FORMATS, find_format


def upload(folder: Path, repo_id: str, subfolder: str | None = None, private: bool = True) -> str:
    """Put a dictionary into a model repository, made when it is not there, in one commit; returns the commit's address.

    Raises `DictionaryError` for a folder that is no dictionary, for a repository that is there and public where `private` is
    asked for (or the other way round), and when the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder).expanduser()
    _, config = read_dictionary(folder)
    if not all((folder / name).is_file() for name in FILES):
        raise DictionaryError(f"{folder} is in another library's format. Load it and save it here first: load_dictionary(…).save(…).")
    hub = HfApi()
    with _in_a_sentence(f"Cannot upload {folder} to {repo_id}"):
        hub.create_repo(repo_id, private=private, exist_ok=True)
        if bool(hub.repo_info(repo_id).private) != private:
            there, flag = ("public", "private=False") if private else ("private", "private=True")
            raise DictionaryError(f"The repository {repo_id} is there already and is {there}. Pass {flag}, or choose another repository.")
        operations = [CommitOperationAdd(_inside(subfolder, name), folder / name) for name in FILES]
        message = f"Add a dictionary ({config['architecture']}, {config['metadata']['hook_name'] or 'no hook point'})"
        # upload_folder may spread its files over several commits, and half a dictionary is none
        return str(hub.create_commit(repo_id, operations, commit_message=message).commit_url)


def download(repo_id: str, subfolder: str | None = None, revision: str | None = None) -> Path:
    """The dictionary's folder in the hub's cache, fetched where it is not there yet; without a network the cached one.

    Raises `DictionaryError` when there is no such repository, revision or dictionary, or it can neither be reached nor found.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # lazily exported

    if not sys.stderr.isatty():
        disable_progress_bars()
    with _in_a_sentence(f"Cannot get the dictionary {repo_id}{f'/{subfolder}' if subfolder else ''}"):
        names = [*FILES, *(name for known in FORMATS for name in (known.weights, known.config) if name and "*" not in name)]
        patterns = [*(_inside(subfolder, name) for name in names), *([subfolder] if subfolder else [])]
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns)) / (subfolder or "")
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if lacking and find_format(folder) is None:
        place = f"The folder {subfolder} of the repository {repo_id}" if subfolder else f"The repository {repo_id}"
        raise DictionaryError(f"{place} has no {lacking[0]}. Name the folder that holds {' and '.join(FILES)}: hub:OWNER/REPO/FOLDER.")
    return folder


def _inside(subfolder: str | None, name: str) -> str:
    return f"{subfolder.strip('/')}/{name}" if subfolder else name


@contextmanager
def _in_a_sentence(what: str) -> Iterator[None]:
    """The hub's many exceptions as one sentence each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise DictionaryError(f"{what}: access is granted by its owners only. Ask for it on its page, then run 'hf auth login'.") from error
    except errors.RevisionNotFoundError as error:
        raise DictionaryError(f"{what}: the repository has no such revision. Give a branch, tag or commit that it has.") from error
    except errors.RepositoryNotFoundError as error:
        raise DictionaryError(
            f"{what}: there is no such repository, or it is private and you are not logged in. Check the name, or run 'hf auth login'."
        ) from error
    except (errors.LocalTokenNotFoundError, errors.HFValidationError) as error:
        raise DictionaryError(f"{what}: {reason_of(error)}. Give OWNER/REPO, and log in with 'hf auth login'.") from error
    except errors.LocalEntryNotFoundError as error:
        raise DictionaryError(
            f"{what}: the hub cannot be reached, and it is not in the local cache. Connect to the network (and unset HF_HUB_OFFLINE)."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise DictionaryError(f"{what}: the network is switched off. Unset HF_HUB_OFFLINE.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise DictionaryError(f"{what}: the hub does not let you. Run 'hf auth login' with a token that may write there.") from error
        raise DictionaryError(f"{what}: {reason_of(error)}. Try again later.") from error
    except network_errors() as error:
        raise DictionaryError(f"{what}: {reason_of(error)}. Check the network.") from error


def network_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises when the network or the disk fails, or an answer makes no sense."""
    from huggingface_hub import errors

    return (errors.HTTPError, OSError, ValueError)  # type: ignore[attr-defined]  # of httpx or httpx2, whichever the client was built on
