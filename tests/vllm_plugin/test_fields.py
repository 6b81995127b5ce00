"""A request's field is what pydantic would say it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import BaseModel, ConfigDict

from softprompt_serve.vllm_plugin.fields import field


class Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = "support"
    suffix: str | None = None


@pytest.mark.parametrize("name", ["model", "suffix", "user", "absent"])
def test_it_is_what_getattr_says(name: str) -> None:
    request = Request.model_validate({"model": "m", "user": "u"})
    assert field(request, name) == getattr(request, name, None)


def test_a_field_that_was_set_later_is_found() -> None:
    request = Request()
    request.suffix = "end"
    assert field(request, "suffix") == "end"


def test_a_model_that_takes_nothing_beyond_its_fields_has_no_others() -> None:
    class Strict(BaseModel):
        model: str = "m"

    assert field(Strict(), "user") is None


def test_a_plain_object_will_do() -> None:
    assert field(SimpleNamespace(user="u"), "user") == "u"
