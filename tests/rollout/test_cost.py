from __future__ import annotations

import pytest
from rollout.events import event

from softprompt_serve.errors import SoftpromptError
from softprompt_serve.rollout.cost import Prices
from softprompt_serve.settings import Settings, load_settings

PRICES = Prices(input=2.0, cached_input=0.5, virtual=1.0, output=8.0)


def test_each_sort_of_tokens_has_its_price() -> None:
    cost = PRICES.cost(event(visible_tokens=100, virtual_tokens=20, output_tokens=50))
    assert cost == pytest.approx((100 * 2.0 + 20 * 1.0 + 50 * 8.0) / 1e6)


def test_the_prefix_cache_has_virtual_tokens_first() -> None:
    cost = PRICES.cost(event(visible_tokens=100, virtual_tokens=20, cached_tokens=32))
    assert cost == pytest.approx((88 * 2.0 + 32 * 0.5 + 50 * 8.0) / 1e6)
    cost = PRICES.cost(event(visible_tokens=100, virtual_tokens=20, cached_tokens=16))
    assert cost == pytest.approx((100 * 2.0 + 16 * 0.5 + 4 * 1.0 + 50 * 8.0) / 1e6)


def test_without_a_tariff_a_cost_is_absent() -> None:
    assert Prices().cost(event()) is None
    assert Prices(input=2.0, output=8.0).cost(event(virtual_tokens=20)) is None


def test_a_price_that_is_not_needed_is_not_missed() -> None:
    assert Prices(input=2.0, output=8.0).cost(event(virtual_tokens=0)) is not None


def test_a_request_without_tokens_costs_nothing_only_where_all_has_a_price() -> None:
    nothing = event(visible_tokens=0, virtual_tokens=0, output_tokens=0)
    assert PRICES.cost(nothing) == 0.0
    assert Prices().cost(nothing) is None
    assert Prices(input=2.0).cost(nothing) is None


def test_a_price_of_zero_is_a_price() -> None:
    assert Prices(0.0, 0.0, 0.0, 0.0).cost(event()) == 0.0


def test_prices_are_complete_when_every_answer_has_a_cost() -> None:
    assert PRICES.complete
    assert not Prices(input=2.0, output=8.0).complete


def test_prices_come_from_the_settings() -> None:
    settings = Settings(price_input=2.0, price_output=8.0)
    assert Prices.of(settings) == Prices(input=2.0, output=8.0)


def test_a_base_model_may_have_prices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_PRICE_INPUT", "9")
    monkeypatch.setenv("SOFTPROMPT_PRICES", '{"small": {"input": 0.5, "output": 2}}')
    settings = load_settings()
    assert Prices.of(settings, ["other", "small"]) == Prices(input=0.5, output=2)
    assert Prices.of(settings, ["other"]) == Prices(input=9)


@pytest.mark.parametrize("given", ['{"small": {"inptu": 1}}', '{"small": {"input": -1}}', "[1]"])
def test_a_tariff_that_means_nothing_is_refused(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPT_PRICES", given)
    with pytest.raises(SoftpromptError, match="SOFTPROMPT_PRICES"):
        load_settings()
