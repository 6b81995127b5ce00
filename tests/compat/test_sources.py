"""Names found by reading files, on small packages made up for each case."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from compat_sources import NotFoundInSourcesError, Sources
from compat_uses import Use, missing, uses_of

from softprompt_serve.vllm_plugin.seam import Seam

ENGINE = """
    class Core:
        def __init__(self, config):
            self.config = config

        def step(self, batch, *, timeout=None):
            return self.config.run(batch)

        @property
        def idle(self): ...

        @classmethod
        def make(cls, config): ...


    class Engine(Core):
        def stop(self): ...
    """


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write(tmp_path, "engine.py", ENGINE)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / "made" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / "made" / "__init__.py").touch()
    path.write_text(dedent(text))


def seam(path: str, *parameters: str, mentions: str = "", attributes: str = "") -> Seam:
    return Seam(
        path,
        "step",
        "a hook",
        parameters or None,
        (mentions,) if mentions else (),
        tuple(attributes.split()),
    )


def how(root: Path, wanted: Seam) -> str | None:
    sources = Sources(root, "made")
    try:
        return wanted.difference(sources.find(wanted.path))
    except NotFoundInSourcesError as error:
        return missing(wanted.path, sources, error)


def test_what_is_as_needed_differs_in_nothing(package: Path) -> None:
    wanted = seam("made.engine:Core.step", "self", "batch", mentions="self.config.run")
    assert how(package, wanted) is None


def test_an_inherited_method_is_found(package: Path) -> None:
    assert how(package, seam("made.engine:Engine.step", "self", "batch", "timeout")) is None


def test_a_method_inherited_from_another_module_is_found(package: Path) -> None:
    write(package, "cpu.py", "from .engine import Engine as Base\n\nclass Cpu(Base):\n    x = 1\n")
    assert how(package, seam("made.cpu:Cpu.step", "self", "batch")) is None


def test_a_method_of_another_packages_base_class_is_not(package: Path) -> None:
    write(package, "cpu.py", "from torch import Module\n\nclass Cpu(Module): ...\n")
    assert how(package, seam("made.cpu:Cpu.forward")) == "gone: no forward in made.cpu.Cpu"


def test_a_class_that_moved_is_found_where_it_is_now(package: Path) -> None:
    (package / "made/engine.py").rename(package / "made/core.py")
    found = how(package, seam("made.engine:Core.step"))
    assert found == "gone: no module made.engine; there is one in made.core"


def test_a_class_that_moved_but_is_still_exported_is_as_needed(package: Path) -> None:
    (package / "made/engine.py").rename(package / "made/core.py")
    write(package, "engine.py", "from made.core import Core\n")
    assert how(package, seam("made.engine:Core.step", "self", "batch")) is None


def test_a_module_that_became_a_package_is_as_needed(package: Path) -> None:
    (package / "made/engine.py").unlink()
    write(package, "engine/__init__.py", "from .core import Core\n")
    write(package, "engine/core.py", ENGINE)
    assert how(package, seam("made.engine:Core.step", "self", "batch")) is None


def test_a_name_that_is_exported_lazily_is_found(package: Path) -> None:
    (package / "made/__init__.py").write_text('LAZY = {\n    "Core": ".engine:Core",\n}\n')
    assert how(package, seam("made:Core.step", "self", "batch")) is None


def test_exports_in_a_circle_are_not_followed_for_ever(package: Path) -> None:
    write(package, "a.py", "from made.b import Core\n")
    write(package, "b.py", "from made.a import Core\n")
    assert str(how(package, seam("made.a:Core"))).startswith("gone: no Core in made.")


def test_a_renamed_parameter_is_told(package: Path) -> None:
    found = how(package, seam("made.engine:Core.step", "self", "requests"))
    assert (
        found
        == "takes other parameters (('self', 'batch', 'timeout'), expected ('self', 'requests'))"
    )


def test_a_mention_that_is_gone_is_told(package: Path) -> None:
    found = how(package, seam("made.engine:Core.step", mentions="self.pool.run"))
    assert found == "does something else (no mention of `self.pool.run`)"


def test_a_mention_elsewhere_in_the_class_does_not_count(package: Path) -> None:
    assert how(package, seam("made.engine:Core.step", mentions="self.config = config"))


def test_attributes_are_those_of_the_class_its_bases_and_self(package: Path) -> None:
    assert how(package, seam("made.engine:Engine", attributes="config idle step stop")) is None
    found = how(package, seam("made.engine:Engine", attributes="config batch"))
    assert found == "has no attribute batch"


def test_fields_are_attributes(package: Path) -> None:
    write(package, "config.py", "class Config:\n    size: int\n    name: str = ''\n")
    assert how(package, seam("made.config:Config", attributes="size name")) is None


def test_a_class_method_is_called_without_its_class(package: Path) -> None:
    assert how(package, seam("made.engine:Core.make", "config")) is None


@pytest.mark.parametrize("around", ["if True:", "try:"])
def test_a_definition_under_a_condition_is_found(tmp_path: Path, around: str) -> None:
    text = f"{around}\n    def run(a): ...\n" + ("finally:\n    pass\n" if around == "try:" else "")
    write(tmp_path, "run.py", text)
    assert how(tmp_path, seam("made.run:run", "a")) is None


def ours(root: Path, text: str) -> list[Use]:
    file = root / "ours.py"
    file.write_text(dedent(text))
    return uses_of("made", [file])


def test_imports_attributes_and_calls_are_uses(tmp_path: Path) -> None:
    text = """
        import logging
        from made.engine import Core as Vllms, Engine
        from madeira import Wine

        def run():
            from made import Params

            Vllms.make(Params(size=3, name="a"))
            return Wine(year=1)
        """
    assert ours(tmp_path, text) == [
        Use("made.engine:Core", ("ours.py",)),
        Use("made.engine:Core.make", ("ours.py",)),
        Use("made.engine:Engine", ("ours.py",)),
        Use("made:Params", ("ours.py",), ("name", "size")),
    ]


def test_a_module_imported_whole_is_refused_as_nobody_sees_what_is_used_of_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"ours\.py, line 1: import names"):
        ours(tmp_path, "import made.engine")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Core(config=1)", None),
        ("Core(settings=1)", "takes no settings"),
        ("Engine(config=1)", None),
        ("Engine.make(config=1)", None),
        ("Engine.make(conf=1)", "takes no conf"),
    ],
)
def test_keywords_of_a_call_are_held_against_what_it_takes(
    package: Path, call: str, expected: str | None
) -> None:
    text = f"from made.engine import Core, Engine\n{call}\n"
    (use,) = (use for use in ours(package, text) if use.keywords)
    assert use.difference(Sources(package, "made")) == expected
