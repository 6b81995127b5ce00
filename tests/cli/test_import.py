from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def test_import_of_a_tensor_shows_its_tokens_digest_and_state(cli: Cli) -> None:
    shown = cli("import", cli.tensor(rows=3), "--prompt", "support").stdout
    digest = cli.json("show", "support@v1")["digest"]
    assert "support@v1 imported" in shown
    assert digest in shown
    assert "resident" in shown
    assert cli.json("show", "support@v1")["virtual_tokens"] == 3


def test_import_of_the_same_content_says_that_it_was_there(cli: Cli) -> None:
    cli("import", cli.tensor(), "-p", "support")
    assert "support@v1 was already there" in cli("import", cli.tensor(), "-p", "support").stdout


def test_import_of_other_content_under_the_same_name_is_an_error_with_its_code(cli: Cli) -> None:
    cli("import", cli.tensor(fill=0.1), "-p", "support", "--version", "a")
    failed = cli("import", cli.tensor(fill=0.2), "-p", "support", "--version", "a", fails=1)
    assert "immutable" in failed.stderr
    assert "version_exists" in failed.stderr
    assert not failed.stdout


def test_import_of_a_peft_folder_uploads_the_adapters_files_alone(cli: Cli) -> None:
    folder = cli.adapter(rows=4)
    (folder / "optimizer.pt").write_bytes(b"\x80pickle")
    assert cli.json("import", str(folder), "-p", "support")["virtual_tokens"] == 4


def test_import_of_a_folder_without_an_adapter_names_what_is_missing(cli: Cli) -> None:
    failed = cli("import", str(cli.folder), "-p", "support", fails=1)
    assert "adapter_config.json" in failed.stderr


def test_import_of_a_missing_file_is_an_error_before_any_call(cli: Cli) -> None:
    assert "can't be read" in cli("import", "nowhere.safetensors", "-p", "a", fails=1).stderr


def test_import_of_a_text_file_is_a_hard_version(cli: Cli) -> None:
    path = cli.folder / "text.txt"
    path.write_text("Answer in one word: ünïcode.\n")
    answer = cli.json("import", str(path), "-p", "support")
    assert (answer["kind"], answer["text"]) == ("hard", "Answer in one word: ünïcode.")


def test_import_of_a_tensor_with_a_text_is_a_soft_version_that_has_both(cli: Cli) -> None:
    answer = cli.json("import", cli.tensor(), "-p", "support", "--text", "And be brief.")
    assert (answer["kind"], answer["text"]) == ("soft", "And be brief.")


def test_import_of_keys_and_values_is_a_prefix(cli: Cli) -> None:
    cli("import", cli.prefix(rows=5), "-p", "support")
    shown = cli.json("show", "support@v1")
    assert (shown["kind"], shown["virtual_tokens"]) == ("prefix", 5)


def test_import_as_a_kind_that_the_tensor_is_not_is_an_error_with_its_code(cli: Cli) -> None:
    failed = cli("import", cli.prefix(), "-p", "support", "--kind", "soft", fails=1)
    assert "invalid_upload" in failed.stderr


def test_import_of_the_base_needs_no_file(cli: Cli) -> None:
    assert cli.json("import", "-p", "support", "--kind", "base")["kind"] == "base"


def test_import_of_nothing_says_what_could_be_given(cli: Cli) -> None:
    assert ".safetensors" in cli("import", "-p", "support", fails=1).stderr


def test_import_takes_text_or_text_file_but_not_both(cli: Cli) -> None:
    failed = cli("import", "-p", "a", "--text", "x", "--text-file", "y", fails=1)
    assert "not both" in failed.stderr


def test_import_with_an_alias_points_it_at_the_new_version(cli: Cli) -> None:
    answer = cli.json("import", cli.tensor(), "-p", "support", "--alias", "production")
    assert answer["aliases"] == ["production"]


def test_import_stores_the_release_record(cli: Cli) -> None:
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"dataset": "tickets", "seed": 7}))
    answer = cli.json("import", cli.tensor(), "-p", "support", "--record", str(record))
    assert (answer["record"]["dataset"], answer["record"]["seed"]) == ("tickets", 7)


def test_import_with_a_bad_record_names_the_field(cli: Cli) -> None:
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"colour": "blue"}))
    failed = cli("import", cli.tensor(), "-p", "support", "--record", str(record), fails=1)
    assert "colour" in failed.stderr
    assert "invalid_record" in failed.stderr


def test_a_tensor_of_several_megabytes_is_uploaded_whole(cli: Cli) -> None:
    path = cli.tensor(rows=200_000)
    failed = cli("import", path, "-p", "support", fails=1)
    assert "artifact_too_many_rows" in failed.stderr  # so it was read to its end


def test_show_says_where_a_training_curve_began_and_ended(cli: Cli) -> None:
    curve = [{"step": step, "loss": 4.0 / (step + 1)} for step in range(0, 400, 100)]
    record = cli.folder / "record.json"
    record.write_text(json.dumps({"training_curve": curve}))
    cli("import", cli.tensor(), "-p", "support", "--record", str(record))
    shown = cli("show", "support@v1").stdout
    assert "4 points: step 0, loss 4 → step 300, loss 0.013289" in shown
