from pathlib import Path

from softprompt_serve.release.fingerprints import (
    chat_template_hash,
    tokenizer_fingerprint,
    weights_fingerprint,
)


def test_nothing_to_read_gives_nothing(tmp_path: Path) -> None:
    assert weights_fingerprint(tmp_path) is None
    assert tokenizer_fingerprint(tmp_path) is None
    assert chat_template_hash(tmp_path) is None


def test_weights_differ_by_their_first_and_last_bytes_and_their_size(tmp_path: Path) -> None:
    seen = set()
    for content in (b"a" * 9, b"b" + b"a" * 8, b"a" * 8 + b"b", b"a" * 10):
        (tmp_path / "model.safetensors").write_bytes(content)
        seen.add(weights_fingerprint(tmp_path))
    assert len(seen) == 4


def test_every_shard_counts(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(b"one")
    one = weights_fingerprint(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    assert weights_fingerprint(tmp_path) != one


def test_another_tokenizer_or_template_is_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer, template = tokenizer_fingerprint(tmp_path), chat_template_hash(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0] }}")
    assert tokenizer_fingerprint(tmp_path) != tokenizer
    assert chat_template_hash(tmp_path) != template
