"""Fetching a model's files from the Hugging Face Hub, with a word on what will be fetched before it is."""

from pathlib import Path

import httpx2  # huggingface_hub's own client: its network errors are no OSError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
OTHERS = ["*.json", "*.txt", "*.model"]  # configuration and tokenizer: never pickle, never code


def fetch(repo_id: str) -> Path:
    """The folder with a Hub model's configuration, tokenizer and safetensors weights, downloaded where needed.

    Says on the screen which files will be downloaded, how big they are and where they are kept. Without a network, a
    copy that an earlier call left in the cache is used.

    Args:
        repo_id: a Hub id such as "Qwen/Qwen2.5-0.5B". The server is `HF_ENDPOINT`, the cache `HF_HOME`.

    Raises:
        FileNotFoundError: no such model, nothing but pickle weights, or no network and no copy.
        ConnectionError: the download broke off; a second call goes on where it stopped.
        PermissionError: the model is gated and needs `hf auth login`.
    """
    patterns = WEIGHTS + OTHERS
    try:
        plan = snapshot_download(repo_id, allow_patterns=patterns, ignore_patterns=["*/*"], dry_run=True)
    except GatedRepoError:
        raise PermissionError(f"{repo_id} is gated: accept its terms on the Hub, then run `hf auth login`.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise FileNotFoundError(
            f'There is no model "{repo_id}": not a folder here, and {constants.ENDPOINT} does not know it. '
            'Known by name: "minilm", "tiny".'
        ) from None
    except RemoteEntryNotFoundError as error:
        gone = str(error.response.url).rpartition("/")[2] if error.response is not None else "a file"
        raise FileNotFoundError(f"{repo_id} lists {gone}, and {constants.ENDPOINT} does not have it.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx2.HTTPError, OSError):
        return _cached(repo_id, patterns)
    files = [file.filename for file in plan]
    if "config.json" not in files:
        raise FileNotFoundError(f"{repo_id} has no config.json, so it is no transformers model.")
    if not any(name.endswith(".safetensors") for name in files):
        raise FileNotFoundError(
            f"{repo_id} has no .safetensors weights; pickle files are never loaded. Convert it first."
        )
    new = [file for file in plan if file.will_download]
    if new:
        size = sum(file.file_size or 0 for file in new)
        print(f"Downloading {repo_id}: {len(new)} files, {_size(size)}, from {constants.ENDPOINT} into the Hub cache.")
        for file in sorted(new, key=lambda f: -(f.file_size or 0)):
            print(f"  {_size(file.file_size or 0):>9}  {file.filename}")
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (EntryNotFoundError, HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"The download of {repo_id} broke off ({reason}). Call again: finished files are kept."
        ) from None


def _cached(repo_id: str, patterns: list[str]) -> Path:
    """The copy in the cache, for when the Hub does not answer."""
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        folder = None
    if folder is None or not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{constants.ENDPOINT} does not answer and there is no complete copy of {repo_id} on this machine: "
            'connect once to download it, or use "minilm" or "tiny", which need no network.'
        ) from None
    return folder


def _size(n_bytes: int) -> str:
    """Bytes in a unit that reads well."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
