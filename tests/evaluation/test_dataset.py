from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt_serve.demo import tickets
from softprompt_serve.errors import BadRequest
from softprompt_serve.evaluation.dataset import Dataset, load_dataset, parse_item

CHAT = [{"role": "user", "content": "Where is it?"}]


def written(folder: Path, *items: Any) -> Path:
    path = folder / "tickets.jsonl"
    lines = (i if isinstance(i, str) else json.dumps(i) for i in items)
    path.write_text("\n".join(lines))
    return path


def test_a_data_set_is_called_as_its_file_unless_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"messages": CHAT})
    assert load_dataset(path).name == "tickets"
    assert load_dataset(path, "other").name == "other"


def test_the_demos_files_can_be_read_as_they_are() -> None:
    found = load_dataset(tickets.DATA / "test.jsonl")
    assert len(found.items) == 160
    first = found.items[0]
    assert first.id == "test-0000"
    assert first.expected == "returns"
    assert first.metadata == {"split": "test"}
    assert first.messages == [{"role": "user", "content": tickets.load("test")[0].text}]


def test_an_id_that_is_not_given_comes_from_the_content() -> None:
    one, again = parse_item({"messages": CHAT}), parse_item({"messages": CHAT})
    other = parse_item({"messages": CHAT, "expected": "soon"})
    assert one.id == again.id
    assert one.id != other.id


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected a JSON object"),
        ({"expected": "x"}, "either `messages` or `prompt`"),
        ({"messages": CHAT, "prompt": "x"}, "either `messages` or `prompt`"),
        ({"messages": CHAT, "expcted": "x"}, "expcted"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": []}, "messages"),
        ({"prompt": "x", "tools": [{}]}, "tools"),
        ({"messages": CHAT, "cohort": "No Name"}, "cohort"),
        ({"messages": CHAT, "id": "two\nlines"}, "id"),
        ({"messages": CHAT, "context": [1]}, "context.0"),
        ('{"prompt": "x", "expected": NaN}', "not JSON compliant"),
        ('{"prompt": "x", "id": "i", "expected": NaN}', "not JSON compliant"),
        ('{"prompt": "\\ud800", "id": "i"}', "surrogates"),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_its_number(
    tmp_path: Path, line: Any, said: str
) -> None:
    path = written(tmp_path, {"messages": CHAT}, "", line)
    with pytest.raises(BadRequest) as refused:
        load_dataset(path)
    assert refused.value.code == "invalid_dataset"
    assert f"{path}:3: " in refused.value.message
    assert said in refused.value.message


def test_an_item_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"messages": CHAT}, {"messages": CHAT})
    with pytest.raises(BadRequest, match=r":2: .* in line 1 already"):
        load_dataset(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_no_data_set(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(BadRequest, match="0 items"):
        load_dataset(path)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        load_dataset(tmp_path / "nowhere.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRequest):
        load_dataset(tmp_path / "bytes")


ITEMS = st.lists(
    st.fixed_dictionaries(
        {"id": st.text("abc123", min_size=1, max_size=4), "prompt": st.text(min_size=1)},
        optional={"expected": st.text(), "metadata": st.dictionaries(st.text(), st.integers())},
    ),
    min_size=1,
    unique_by=lambda item: item["id"],
)


@given(ITEMS, st.randoms())
def test_the_hash_is_the_same_in_any_order_and_spelling(items: list[Any], random: Any) -> None:
    one = Dataset("one", tuple(parse_item(item) for item in items))
    respelt = [json.loads(json.dumps(dict(reversed(item.items())), indent=3)) for item in items]
    random.shuffle(respelt)
    other = Dataset("other", tuple(parse_item(item) for item in respelt))
    assert one.sha256 == other.sha256


@pytest.mark.parametrize(
    "change", [{"expected": "no"}, {"cohort": "regulated"}, {"metadata": {"a": 1}}, {"id": "j"}]
)
def test_the_hash_changes_with_the_content(change: dict[str, Any]) -> None:
    item = {"id": "i", "prompt": "x", "expected": "yes"}
    one, other = (Dataset("d", (parse_item(i),)) for i in (item, {**item, **change}))
    assert one.sha256 != other.sha256


def test_a_limit_takes_the_first_items_and_is_another_data_set(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "a"}, {"prompt": "b"})
    assert [item.prompt for item in load_dataset(path, limit=1).items] == ["a"]
    assert load_dataset(path, limit=1).sha256 != load_dataset(path).sha256


def test_the_question_is_what_the_user_said_last() -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert parse_item({"messages": [*said, {"role": "user", "content": "c"}]}).question == "c"
    assert parse_item({"prompt": "p"}).question == "p"
