"""An OpenAPI document whose names are few, so that what is drawn from it meets what is there."""

from __future__ import annotations

import copy
import json
from typing import Any

from softprompt_serve.server.schemas import NAME

VERSIONS = ["v1", "v2", "v3", "v4", "production", "canary"]
_NAMES = {
    "name": ["support"],
    "prompt": ["support"],
    "alias": ["production", "canary"],
    "against": ["baseline", "base", "v1", "v2"],
    "baseline": ["baseline", *VERSIONS],
}
_SCHEMAS = "#/components/schemas/"
_WHOLE = "Whole"
_TAGS = ["*", '"0"', '"1"', '"2"', '"none"']


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """A copy in which a name is one of a few, and ``If-Match`` one that may match.

    Answers are as they were: what others have made has other names.
    """
    narrow = copy.deepcopy(document)
    _walk(narrow, "")
    schemas = narrow["components"]["schemas"]
    for name, schema in document["components"]["schemas"].items():
        schemas[f"{_WHOLE}{name}"] = _whole(schema)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            narrow["paths"][path][method]["responses"] = _whole(operation["responses"])
    return narrow


def _whole(node: Any) -> Any:
    """A copy that refers to what wasn't narrowed."""
    return json.loads(json.dumps(node).replace(_SCHEMAS, f"{_SCHEMAS}{_WHOLE}"))


def _walk(node: Any, key: str) -> None:
    if isinstance(node, list):
        for part in node:
            _walk(part, key)
    if not isinstance(node, dict):
        return
    if node.get("in") in {"path", "query", "header"}:
        key = str(node["name"])
        if key == "if-match":
            node["schema"] = {"type": "string", "enum": _TAGS}
    if node.get("pattern") == NAME:
        del node["pattern"]
        node["enum"] = _NAMES.get(key, VERSIONS)
    for name, part in node.items():
        # A composition's members are about the same field.
        _walk(part, key if name in {"schema", "anyOf", "items"} else name)
