"""Signatures of bundles: who signed is known, and nothing that was signed can be changed."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from softprompt_serve.artifact import Content
from softprompt_serve.errors import BadRequest
from softprompt_serve.release import signing
from softprompt_serve.release.bundle import Bundle, pack, unpack
from softprompt_serve.release.members import join, split
from softprompt_serve.release.records import BaseModelIdentity, ReleaseRecord

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
MADE = pack(Bundle("a", "v1", Content("hard", text="x"), ReleaseRecord(), BaseModelIdentity(), {}))


def private(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)


def code_of(data: bytes, key: bytes) -> str:
    with pytest.raises(BadRequest) as refused:
        signing.verify(data, key)
    return refused.value.code


def test_a_signed_bundle_is_still_the_bundle_and_names_its_signer() -> None:
    signed = signing.sign(MADE, private(KEY))
    fingerprint = hashlib.sha256(KEY.public_key().public_bytes_raw()).hexdigest()
    assert signing.verify(signed, public(KEY)) == fingerprint
    assert signing.signer(unpack(signed).signature) == fingerprint
    assert unpack(signed).content == unpack(MADE).content


def test_signed_again_with_the_same_key_it_is_the_same_bytes() -> None:
    signed = signing.sign(MADE, private(KEY))
    assert signing.sign(MADE, private(KEY)) == signed
    assert signing.sign(signing.sign(MADE, private(OTHER)), private(KEY)) == signed


def test_the_signature_is_one_of_the_manifests_bytes_that_any_tool_can_check() -> None:
    members = split(signing.sign(MADE, private(KEY)))
    signature = base64.b64decode(json.loads(members["signature.json"])["signature"])
    KEY.public_key().verify(signature, members["manifest.json"])


def test_an_unsigned_bundle_is_not_taken_for_a_signed_one() -> None:
    assert signing.signer(unpack(MADE).signature) is None
    assert code_of(MADE, public(KEY)) == "bundle_not_signed"


def test_a_signature_by_another_key_does_not_hold() -> None:
    assert code_of(signing.sign(MADE, private(OTHER)), public(KEY)) == "bundle_signature"


def test_a_signature_of_another_bundle_does_not_hold() -> None:
    members = split(signing.sign(MADE, private(KEY)))
    moved = split(
        pack(Bundle("b", "v1", Content("base"), ReleaseRecord(), BaseModelIdentity(), {}))
    ) | {"signature.json": members["signature.json"]}
    assert code_of(join(moved), public(KEY)) == "bundle_signature"


def test_another_key_cannot_sign_in_the_name_of_the_expected_one() -> None:
    members = split(signing.sign(MADE, private(OTHER)))
    claimed = json.loads(members["signature.json"])
    claimed["key"] = hashlib.sha256(KEY.public_key().public_bytes_raw()).hexdigest()
    members["signature.json"] = json.dumps(claimed).encode()
    assert code_of(join(members), public(KEY)) == "bundle_signature"


@pytest.mark.parametrize("said", [b"", b"{}", b'{"algorithm": "none", "key": "", "signature": ""}'])
def test_a_signature_of_another_format_is_refused(said: bytes) -> None:
    assert code_of(join(split(MADE) | {"signature.json": said}), public(KEY)) == "invalid_bundle"


def test_a_signature_that_is_not_base64_does_not_hold() -> None:
    members = split(signing.sign(MADE, private(KEY)))
    claimed = json.loads(members["signature.json"]) | {"signature": "!"}
    broken = join(members | {"signature.json": json.dumps(claimed).encode()})
    assert code_of(broken, public(KEY)) == "bundle_signature"


@pytest.mark.parametrize("key", [b"", b"-----BEGIN PUBLIC KEY-----\n", public(KEY)])
def test_a_key_that_cannot_sign_is_refused(key: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        signing.sign(MADE, key)
    assert refused.value.code == "invalid_key"


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(BadRequest, match="Ed25519") as refused:
        signing.sign(MADE, private(ec.generate_private_key(ec.SECP256R1())))
    assert refused.value.code == "invalid_key"


def test_a_private_key_does_not_verify() -> None:
    assert code_of(signing.sign(MADE, private(KEY)), private(KEY)) == "invalid_key"


def test_without_the_library_signing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(signing.importlib, "import_module", missing)
    with pytest.raises(BadRequest, match="`cryptography`") as refused:
        signing.sign(MADE, private(KEY))
    assert refused.value.code == "signing_unavailable"


def test_what_is_no_bundle_can_not_be_signed() -> None:
    with pytest.raises(BadRequest, match=r"manifest\.json") as refused:
        signing.sign(join({"record.json": b"{}"}), private(KEY))
    assert refused.value.code == "invalid_bundle"
