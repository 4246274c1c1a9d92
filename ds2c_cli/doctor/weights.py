"""Encoders and their weights: the folder of the hub's client, the hub, and which encoders are here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .answers import Answer, Asked, one_line
from .places import place_of

HUB_SECONDS = 3.0


def weights_folder(asked: Asked) -> Answer:
    """Where the hub's client keeps weights."""
    from huggingface_hub import constants

    place = place_of(Path(constants.HF_HUB_CACHE))
    if place.error and not constants.HF_HUB_OFFLINE:
        found = f"{place}, cannot be written ({place.reason})"
        return Answer("warn", found, "Set HF_HOME to a folder that weights may be downloaded to.")
    return Answer("ok", str(place))


def hub(asked: Asked) -> Answer:
    """Whether the hub answers, and to whom; it is asked only with `--hub`, and never for long."""
    from huggingface_hub import HfApi, constants, get_session, get_token

    token = "a token is stored" if get_token() else "no token, so no gated encoder can be downloaded"
    if constants.HF_HUB_OFFLINE:
        return Answer("ok", f"offline as asked (HF_HUB_OFFLINE); {token}")
    if not asked.hub:
        return Answer("ok", f"not asked (`ds2c doctor --hub` asks); {token}")
    (reply,) = _within(HUB_SECONDS, lambda: get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS))
    said = one_line(reply) if isinstance(reply, Exception) else f"answers {reply.status_code}"
    if isinstance(reply, Exception) or reply.status_code in (403, 407) or reply.status_code >= 500:
        return Answer(
            "warn",
            f"{constants.ENDPOINT} cannot be reached ({said}); {token}",
            "Without network set HF_HUB_OFFLINE=1, copy weights here and pass them with --weights; behind a proxy set "
            "HTTPS_PROXY, for a mirror HF_ENDPOINT.",
        )
    if not get_token():
        return Answer("ok", f"{constants.ENDPOINT} answers; {token}")
    (account,) = _within(HUB_SECONDS, lambda: HfApi().whoami())
    if isinstance(account, Exception):  # whose text might hold the token
        return Answer(
            "warn",
            f"{constants.ENDPOINT} answers, but not to the stored token ({type(account).__name__})",
            "Log in again with `hf auth login`, or correct HF_TOKEN.",
        )
    return Answer("ok", f"{constants.ENDPOINT} answers to {account.get('name', 'the stored token')}")


def gated_encoders(asked: Asked) -> Answer | None:
    """Of the gated encoders whose weights are not here yet, which ones the stored token may download."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError  # GatedRepoError is one of these

    from ..encoders import RECIPES
    from ..encoders.weights import here

    if not asked.hub or constants.HF_HUB_OFFLINE or not get_token():
        return None
    gated = [
        recipe
        for recipe in RECIPES.values()
        if recipe.access == "gated" and asked.encoder in ("", recipe.name) and not here(recipe)
    ]
    api = HfApi()
    replies = _within(HUB_SECONDS, *((lambda name=one.repository: api.auth_check(name)) for one in gated))
    answers = list(zip(gated, replies, strict=True))
    granted = [one.name for one, reply in answers if reply is None]
    refused = [one for one, reply in answers if isinstance(reply, RepositoryNotFoundError)]
    unknown = [one.name for one, reply in answers if reply is not None and one not in refused]
    parts = (("access", granted), ("no access", [one.name for one in refused]), ("no answer", unknown))
    found = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    if refused:
        pages = ", ".join(f"{constants.ENDPOINT}/{one.repository}" for one in refused)
        return Answer("warn", found, f"To use one, accept its licence on its page: {pages}.")
    if unknown:
        return Answer("warn", found, "See the line above, or try again.")
    return Answer("ok", found) if gated else None


def _within(seconds: float, *calls: Callable[[], Any]) -> list[Any]:
    """Make all calls at once, and give what each returns or its exception: TimeoutError if it is not back in time.

    In threads that nobody waits for: a name server that is silent keeps a call for longer than any timeout of its own.
    """
    results: list[Any] = [TimeoutError(f"no answer within {seconds:g} s")] * len(calls)

    def make(number: int) -> None:
        try:
            results[number] = calls[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=make, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return list(results)


def encoders(asked: Asked) -> Answer:
    """Which encoders have their weights here; the one of `--encoder` must."""
    from ..encoders import RECIPES, recipe_of, weights
    from ..project import Project
    from ..settings import Embedding

    held = f"weights here: {', '.join(name for name, recipe in RECIPES.items() if weights.here(recipe))}"
    if not asked.encoder:
        return Answer("ok", held)
    recipe = recipe_of(asked.encoder)
    given = Project(asked.project).settings(Embedding, {"encoder": asked.encoder}).weights
    if given or recipe.access not in ("open", "gated"):
        return Answer("ok", f"{asked.encoder}: {weights.find(recipe, given).weights or 'needs no weights'}; {held}")
    if not recipe.repository:
        recipe = replace(recipe, repository=weights._timm_repository(recipe))
    if not weights.here(recipe):
        raise weights._explained(recipe, FileNotFoundError(recipe.repository))
    return Answer("ok", f"{asked.encoder}: {recipe.repository} is here; {held}")
