"""Promotion of model versions: one that validates better becomes the champion; a rollback restores the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from copytrace.errors import InputError
from tasks.mlflow_store import mlflow_errors
from tasks.registry import CHAMPION, find_version, newest_versions, open_registry, read_aliases

PREVIOUS = "previous"
"""Alias of the version that a rollback returns to."""


@dataclass(frozen=True)
class ValidatedVersion:
    """A model version with its validation figure, larger being better, and the digest of its validation set."""

    version: int
    figure: float | None
    validation_digest: str


@dataclass(frozen=True)
class Promotion:
    """The outcome of an attempt to make a version the champion, and its reason."""

    name: str
    version: int
    promoted: bool
    reason: str
    champion_before: int | None


def promote(
    name: str,
    version: int | None = None,
    *,
    metric: str | None = None,
    min_improvement: float = 0.0,
    force: bool = False,
) -> Promotion:
    """Make a version (None: the latest) the champion if it validates better than the champion does.

    It must beat the champion's `metric` (None: the score of the version's training) by at least `min_improvement`, on
    the same validation set; `force` moves the alias regardless. In either case tags of the version record the decision,
    its time and the figures. Raises `InputError` for an unknown model or version, or for a version without the figure,
    and `TrackingError`.
    """
    client, uri = open_registry()
    with mlflow_errors(uri):
        chosen, champion = find_version(client, name, version), _find_champion(client, name)
        metric = metric or chosen.tags.get("score", "")
        candidate, holder = _read_validation(chosen, metric), _read_validation(champion, metric) if champion else None
        if holder and holder.version == candidate.version:
            return Promotion(name, candidate.version, True, "it is the champion already", holder.version)
        if candidate.figure is None and not force:
            raise InputError(
                f"version {candidate.version} of {name} has no tag 'validation.{metric}', so nothing says how good it "
                "is; name another --metric, or use --force"
            )
        promoted, reason = decide(candidate, holder, min_improvement=min_improvement)
        if force and not promoted:
            promoted, reason = True, f"forced, although {reason}"
        before = holder.version if holder else None
        evidence = {
            "promotion": "promoted" if promoted else "refused",
            "promotion.reason": reason,
            "promotion.when": _now(),
            "promotion.metric": metric,
            "promotion.figure": str(candidate.figure),
            "promotion.champion_figure": str(holder.figure if holder else None),
            "promotion.min_improvement": str(min_improvement),
            "champion_before": str(before or ""),
            "validation_status": "approved" if promoted else "rejected",
        }
        # The tags come first: an attempt that dies before the alias moves is repeated with the same outcome.
        _tag(client, name, candidate.version, evidence)
        if promoted:
            _set_champion(client, name, candidate.version, before)
    return Promotion(name, candidate.version, promoted, reason, before)


def decide(
    candidate: ValidatedVersion, champion: ValidatedVersion | None, *, min_improvement: float
) -> tuple[bool, str]:
    """Return whether the candidate becomes the champion, and why."""
    if champion is None:
        return True, "there was no champion"
    if champion.figure is None or candidate.figure is None:
        lacking = champion if champion.figure is None else candidate
        return False, f"version {lacking.version} has no figure to compare"
    if not candidate.validation_digest or candidate.validation_digest != champion.validation_digest:
        return False, (
            f"it was validated on another set ({candidate.validation_digest or 'unknown'}) than the champion, version "
            f"{champion.version} ({champion.validation_digest or 'unknown'}), so their figures do not compare"
        )
    # Rounded, because 0.3 - 0.2 is slightly less than 0.1 in floating point.
    gain = round(candidate.figure - champion.figure, 9)
    better = gain > 0 and gain >= min_improvement
    return better, (
        f"{candidate.figure:.4f} against {champion.figure:.4f} of the champion, version {champion.version}, is "
        f"{gain:+.4f}; at least {min_improvement:+.4f} was asked for"
    )


def rollback(name: str) -> Promotion:
    """Make the champion's predecessor the champion again; another call goes back one more version.

    Raises `InputError` when there is none, and `TrackingError`.
    """
    client, uri = open_registry()
    with mlflow_errors(uri):
        aliases = read_aliases(client, name)
        if not {CHAMPION, PREVIOUS} <= aliases.keys():
            raise InputError(
                f"{name} has no champion before the present one to go back to; "
                f"`copytrace promote {name} VERSION --force` takes any version"
            )
        champion, target = aliases[CHAMPION], aliases[PREVIOUS]
        there = {str(version.version) for version in newest_versions(client, name)}
        earlier = find_version(client, name, target).tags.get("champion_before", "")
        reason = f"version {champion} was rolled back to version {target}"
        evidence = {"promotion.reason": reason, "promotion.when": _now()}
        _tag(client, name, champion, {"promotion": "rolled back", "validation_status": "rejected", **evidence})
        _tag(client, name, target, {"promotion": "restored", "validation_status": "approved", **evidence})
        _set_champion(client, name, target, int(earlier) if earlier in there else None)
    return Promotion(name, target, True, reason, champion)


def list_versions(pattern: str) -> list[tuple[ModelVersion, list[str]]]:
    """Return all versions of the models whose names match `pattern` (% stands for any text), with their aliases.

    The newest versions of a model come first. Raises `InputError` if no model was ever registered, and `TrackingError`.
    """
    client, uri = open_registry()
    found = []
    with mlflow_errors(uri):
        for model in client.search_registered_models(f"name LIKE '{pattern}'"):
            aliases = read_aliases(client, model.name)
            for version in newest_versions(client, model.name):
                own = sorted(alias for alias, target in aliases.items() if target == int(version.version))
                found.append((version, own))
    return found


def _find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    return find_version(client, name, CHAMPION) if CHAMPION in read_aliases(client, name) else None


def _read_validation(version: ModelVersion, metric: str) -> ValidatedVersion:
    figure = version.tags.get(f"validation.{metric}")
    digest = version.tags.get("validation_digest", "")
    return ValidatedVersion(int(version.version), None if figure is None else float(figure), digest)


def _set_champion(client: MlflowClient, name: str, version: int, before: int | None) -> None:
    # The champion is set last, so that a repeated attempt still finds the old one.
    if before:
        client.set_registered_model_alias(name, PREVIOUS, str(before))
    elif PREVIOUS in read_aliases(client, name):
        client.delete_registered_model_alias(name, PREVIOUS)
    client.set_registered_model_alias(name, CHAMPION, str(version))


def _tag(client: MlflowClient, name: str, version: int, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
