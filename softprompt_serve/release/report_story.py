"""The parts of a report that tell: what the version is, how it was made, what was done with it.

Pure: what the API answered in, plain values out. A field that a newer server adds is shown by its
name rather than left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from softprompt_serve.release.report_data import Ancestor, Curve, Event, Fact
from softprompt_serve.release.report_words import plain, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Data = Mapping[str, Any]

_EXACT: Final = ("sha256", "fingerprint", "digest", "training_code", "revision")
_ELSEWHERE: Final = frozenset({"notes", "training_curve", "trained_from"})
_LISTS: Final = frozenset({"win", "hold"})
_NESTED: Final = frozenset({"optimizer", "metrics"})
_ABOUT_ALL: Final = ("alias.", "rollout.", "policy.")
"""Changes that concern every version of a prompt."""

_TEXTS: Final = {
    "dataset": "data set",
    "dataset_version": "data set's version",
    "dataset_sha256": "data set's SHA-256",
    "base_model": "base model",
    "init": "initialised from",
    "chat_template_sha256": "chat template's SHA-256",
}


def _tensor(version: Data) -> tuple[Fact, ...]:
    n, dtype = version["virtual_tokens"], version["dtype"] or ""
    if version["kind"] == "prefix":
        found = f"{n} virtual tokens of every layer, {dtype}"
        return (Fact("keys and values", found, exact=True),)
    if version["kind"] == "soft":
        shape = f"[{n}, {version['hidden_size']}] {dtype}"
        return (Fact("tensor [virtual tokens, hidden size]", shape.strip(), exact=True),)
    return ()


def what_it_is(version: Data, server: Data) -> tuple[Fact, ...]:
    """The version's identity, and the base model that is served."""
    base = server.get("base_model") or {}
    served = " @ ".join(filter(None, (base.get("name"), base.get("revision")))) or None
    created = stamp(version["created_at"])
    if version["created_by"]:
        created = f"{created} by {version['created_by']}"
    return (
        Fact("kind", version["kind"]),
        Fact("digest", version["digest"], exact=True),
        *_tensor(version),
        Fact("aliases", ", ".join(version["aliases"]) or "none"),
        Fact("state", _state(version)),
        Fact("imported", created),
        Fact("served base model", served),
        Fact("its weights' fingerprint", base.get("fingerprint"), exact=True),
        Fact("its tokenizer's fingerprint", base.get("tokenizer_fingerprint"), exact=True),
        Fact("its chat template's SHA-256", base.get("chat_template_sha256"), exact=True),
    )


def _state(version: Data) -> str:
    said = [version["state"], *(["unverified"] if version.get("unverified") else [])]
    return ", ".join(said) + (f": {version['reason']}" if version.get("reason") else "")


def policy_facts(given: Data | None) -> tuple[Fact, ...]:
    """Who set the policy, and a line for each demand; nothing without a policy."""
    policy = (given or {}).get("policy")
    if given is None or policy is None:
        return ()
    origin = "the default, as nobody has set one"
    if not given["default"]:
        origin = f"set {stamp(given['updated_at'])} by {given['updated_by'] or 'nobody on record'}"
    facts = [Fact("origin", origin)]
    for name, value in policy.items():
        if name in _LISTS:
            facts += [Fact(f"{name} {n}", _demand(it)) for n, it in enumerate(value, 1)]
        elif value is not None:
            facts.append(Fact(name.replace("_", " "), _demand(value)))
    return tuple(facts)


def _demand(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if part is not None}
    return plain(value) or "none"


def training_facts(record: Data) -> tuple[Fact, ...]:
    """Every field of the release record that has no place of its own; None is not recorded."""
    facts: list[Fact] = []
    for name, value in record.items():
        if name in _ELSEWHERE:
            continue
        said = _TEXTS.get(name, name.replace("_", " "))
        if name in _NESTED and value:
            facts += [Fact(f"{said}: {key}", plain(part)) for key, part in value.items()]
            continue
        absent = value is None or value in ([], {})
        exact = any(part in name for part in _EXACT)
        facts.append(Fact(said, None if absent else plain(value), exact=exact))
    return tuple(facts)


def training_curves(record: Data) -> tuple[Curve, ...]:
    """A line for each value that ``training_curve`` has beside its steps."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in record.get("training_curve") or ():
        for name, value in point.items():
            if name != "step":
                lines.setdefault(name, []).append((float(point["step"]), float(value)))
    return tuple(Curve(name, tuple(points)) for name, points in lines.items())


def lineage(version: Data, versions: Iterable[Data]) -> tuple[Ancestor, ...]:
    """The version and what it was trained from, and so on, as far as the records say.

    Args:
        version: the version.
        versions: the versions that are known, of its own prompt or others.
    """
    known = {key: other for other in versions for key in (label_of(other), other["digest"])}
    chain = [Ancestor(label_of(version), version["digest"], _made(version))]
    seen, here = {version["digest"]}, version
    while parent := here["record"].get("trained_from"):
        found = known.get(parent)
        if found is None:
            digest = parent if "@" not in parent else None
            chain.append(Ancestor(parent, digest, "not among this prompt's versions"))
            break
        looped = found["digest"] in seen
        note = "again: the records go round in a circle" if looped else _made(found)
        chain.append(Ancestor(label_of(found), found["digest"], note))
        if looped:
            break
        seen.add(found["digest"])
        here = found
    return tuple(chain)


def label_of(version: Data) -> str:
    """``prompt@version``."""
    return f"{version['prompt']}@{version['version']}"


def _made(version: Data) -> str:
    record = version["record"]
    said = [version["kind"], record.get("method"), record.get("init") and f"init: {record['init']}"]
    return "; ".join(str(part) for part in said if part)


def history(version: Data, audit: Iterable[Data]) -> tuple[Event, ...]:
    """Changes to the version and to what decides over its traffic, newest first."""
    events = []
    for entry in audit:
        about = entry["subject"] == version["version"]
        if not about and not entry["action"].startswith(_ABOUT_ALL):
            continue
        detail = {k: v for k, v in entry["detail"].items() if v is not None}
        events.append(
            Event(
                at=stamp(entry["at"]),
                actor=entry["actor"],
                action=entry["action"],
                subject=entry["subject"] or "",
                detail=plain(detail),
                forced=bool(detail.get("force") or detail.get("forced")),
            )
        )
    return tuple(events)
