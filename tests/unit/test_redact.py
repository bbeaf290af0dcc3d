"""No output holds a secret, whether cut, wrapped, split or spelled otherwise; and the output stays readable."""

import base64
import gc
import hashlib
import json
import random
import string
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import START

from rotator.core.secrets import Secret
from rotator.providers import answers
from rotator.providers.respan.settings import TRAITS
from rotator.runtime.redact import (
    HIDDEN,
    MAX_QUOTE,
    Scrubber,
    hide_pattern,
    quoted,
    register,
    scrub,
    scrub_lines,
    scrub_name,
)
from rotator.runtime.spellings import FRAGMENT
from rotator.stores.vault import responses as vault_answers

RESPAN = TRAITS.key_pattern or ""


def knowing_respan() -> Scrubber:
    scrubber = Scrubber()
    scrubber.hide_pattern(RESPAN)
    return scrubber


@pytest.fixture(autouse=True, scope="module")
def _respans_keys_are_known() -> None:
    hide_pattern(RESPAN)


def test_a_pattern_hides_what_it_finds_and_no_more() -> None:
    scrubber = Scrubber()
    assert scrubber("acme-12345678 is not hidden yet") == "acme-12345678 is not hidden yet"

    scrubber.hide_pattern("acme-[0-9]{8}")
    scrubber.hide_pattern("x*")

    assert scrubber("the key acme-12345678, and acme-1234") == f"the key {HIDDEN}, and acme-1234"


KEY = "a1b2c3d4.Zx9-_kQpR7tUvWxYz0123456789abcdef"
ORGANISATION_KEY = "sk_live_0123456789abcdef"
OLD_TOKEN = "s.aB3dE6gH9jK2mN5pQ8sT1vW4"
WEIRD_KEY = 'correct horse "battery" \\ staple\'s é'

_WORD, _URLSAFE = string.ascii_letters + string.digits, string.ascii_letters + string.digits + "-_"


def _text(alphabet: str, size: int) -> st.SearchStrategy[str]:
    """Return random text as in a token: Hypothesis prefers simple text, and no token is all zeros."""
    return st.integers(0, 2**64).map(lambda seed: "".join(random.Random(seed).choices(alphabet, k=size)))


VENDOR_KEYS = st.tuples(_text(_WORD, 8), _text(_URLSAFE, 32)).map(".".join)
VAULT_TOKENS = st.one_of(
    _text(_WORD, 24).map("s.{}".format),
    _text(_URLSAFE, 90).map("hvs.{}".format),
    _text(_URLSAFE, 140).map("hvb.{}".format),
)
ORGANISATION_KEYS = _text(_WORD, 32).map("sk_live_{}".format)
SECRETS = st.one_of(VENDOR_KEYS, VAULT_TOKENS, ORGANISATION_KEYS)

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "bytes": lambda text: repr(text.encode()),
    "json": json.dumps,
    "json in json": lambda text: json.dumps(json.dumps({"key": text})),
    "escaped dot": lambda text: text.replace(".", "\\."),
    "percent": lambda text: text.replace(".", "%2E").replace("_", "%5F").replace("-", "%2D"),
    "small percent": lambda text: text.replace(".", "%2e").replace("_", "%5f").replace("-", "%2d"),
    "percent twice": lambda text: quote(quote("?" + text, safe="").replace("_", "%5F"), safe=""),
    "every character": lambda text: "".join(f"%{ord(character):02x}" for character in text),
    "unicode": lambda text: text.replace(".", "\\u002e").replace("_", "\\u005F"),
    "backslash x": lambda text: "".join(f"\\x{ord(character):02x}" for character in text),
    "entities": lambda text: text.replace(".", "&#46;").replace("_", "&#x5F;"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "basic": lambda text: base64.b64encode(f"rotator:{text}".encode()).decode(),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(b"??" + text.encode() + b">").decode(),
    "hex": lambda text: text.encode().hex(),
    "capital hex": lambda text: text.encode().hex(":").upper(),
    "without its prefix": lambda text: text.partition(".")[2] or text,
    "wrapped": lambda text: f"{text[:17]}\n    {text[17:]}",
    "wrapped in quotes": lambda text: f'{text[:17]}" \\\n "{text[17:]}',
    "escaped line break": lambda text: f"{text[:17]}\\n{text[17:]}",
    "in two errors": lambda text: f"{text[:17]}; {text[17:]}",
    "letter by letter": " ".join,
    "with what cannot be seen": "\u200b".join,
}


def longest_left(shown: str, secret: str) -> int:
    """Return how many consecutive characters of the secret can still be read."""
    spelled, most = "".join(shown.replace(HIDDEN, "\0").split()), 0
    for at in range(len(secret)):
        while at + most < len(secret) and secret[at : at + most + 1] in spelled:
            most += 1
    return most


# --- texts that this process knows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", SPELLINGS)
@given(secret=SECRETS, before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_known_secret_is_hidden_in_every_spelling(spelled: str, secret: str, before: str, after: str) -> None:
    scrubber, held = knowing_respan(), Secret(secret)
    scrubber.register(held)
    spelling = SPELLINGS[spelled](secret)
    shown = scrubber(f"{before} {spelling} {after}")
    assert HIDDEN in shown
    for left in (spelling, secret):
        assert longest_left(shown, left) < FRAGMENT + 8, "what a prefix and an escape may leave"
    assert longest_left(shown.replace(before, ""), secret) < FRAGMENT


@given(secret=SECRETS, data=st.data())
def test_a_known_secret_that_others_cut_shows_a_few_characters_at_most(secret: str, data: st.DataObject) -> None:
    scrubber, held = knowing_respan(), Secret(secret)
    scrubber.register(held)
    start = data.draw(st.integers(0, len(secret) - 1))
    part = secret[start : data.draw(st.integers(start + 1, len(secret)))]
    shown = scrubber(f"the key {part}")
    assert longest_left(shown, secret) < FRAGMENT + len(secret.partition(".")[0])


@pytest.mark.parametrize("around", ["the key {} is bad", "{}", "{}" * 3, "'{}'", "x={}&y", "{},{}", "é{}é"])
def test_a_secret_is_hidden_among_whatever(around: str) -> None:
    scrubber, held = knowing_respan(), Secret(WEIRD_KEY)
    scrubber.register(held)
    for spelled in (str, repr, json.dumps, lambda text: json.dumps(repr(text)), quote):
        shown = scrubber(around.format(*[spelled(WEIRD_KEY)] * 3))
        assert "horse" not in shown
        assert "staple" not in shown


@pytest.mark.parametrize("changed", [str.upper, str.lower, str.swapcase])
@pytest.mark.parametrize(
    "alphabet", ["0123456789abcdef", "0123456789ABCDEF", "abcdefghijklmnopqrstuvwxyz234567", _WORD]
)
def test_a_known_secret_is_hidden_in_any_case(changed: Callable[[str], str], alphabet: str) -> None:
    generator, left = random.Random(alphabet), []
    for _ in range(100):
        scrubber, held = Scrubber(), Secret("sk-" + "".join(generator.choices(alphabet, k=40)))
        scrubber.register(held)
        spelled = changed(held.reveal())
        left.append(longest_left(scrubber(f"the key {spelled} is bad"), spelled))
    assert max(left) < 3 * FRAGMENT
    assert sum(most >= FRAGMENT for most in left) <= 15, "of 100: letters alone may be ordinary words"


def test_words_in_capitals_are_found_as_well() -> None:
    scrubber, held = Scrubber(), Secret("my-rotator-token")
    scrubber.register(held)
    assert scrubber("X-Token: MY-ROTATOR-TOKEN") == f"X-Token: {HIDDEN}"


def test_a_text_is_hidden_for_as_long_as_its_secret_lives() -> None:
    scrubber = knowing_respan()
    kept = scrubber.register(Secret(ORGANISATION_KEY))
    texts = [hashlib.sha256(bytes([number])).hexdigest() for number in range(200)]
    for text in texts:
        scrubber.register(Secret(text))
        gc.collect(0)
    assert scrubber.known(f"{kept.reveal()} {texts[0]}") == f"{HIDDEN} {texts[0]}"
    assert texts[-1][:FRAGMENT] not in repr(vars(scrubber))


def test_words_are_no_fragments_of_a_secret_that_is_made_of_words() -> None:
    scrubber, held = knowing_respan(), [Secret("my-rotator-token"), Secret("root")]
    for secret in held:
        scrubber.register(secret)
    assert scrubber("my-rotator at root is well") == "my-rotator at root is well"
    assert scrubber("it has my-rotator-token") == f"it has {HIDDEN}"


def test_an_id_that_begins_like_its_key_is_no_secret() -> None:
    scrubber, held = knowing_respan(), Secret(KEY)
    scrubber.register(held)
    identifier = "a1b2c3d4.pbkdf2_sha256$600000$abcdef"
    assert scrubber(f"key_id={identifier}") == f"key_id={identifier}"
    assert scrubber(f"key={KEY}") == f"key={HIDDEN}"


# --- texts that this process does not know ---------------------------------------------------------------------------

UNKNOWN = [name for name in SPELLINGS if name not in ("letter by letter", "with what cannot be seen", "capital hex")]


@pytest.mark.parametrize("spelled", UNKNOWN)
def test_in_foreign_text_a_random_looking_word_is_hidden(spelled: str) -> None:
    generator, missed = random.Random(spelled), 0
    for _ in range(300):
        secret = ".".join(["".join(generator.choices(_WORD, k=8)), "".join(generator.choices(_URLSAFE, k=32))])
        shown = quoted(f"there is no key {SPELLINGS[spelled](secret)}")
        missed += longest_left(shown, secret) > FRAGMENT
    assert missed <= 3, "of 300: one in a hundred random texts looks like words"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefgh",
        "{'Authorization': 'Bearer abcdefgh', 'x': 1}",
        "Authorization: Basic abcdefgh",
        "[(b'X-Vault-Token', b'abcdefgh')]",
        '{"headers": "{\\"x-vault-token\\": \\"abcdefgh\\"}"}',
        "api_key=abcdefgh01234567",
        "api%5Fkey=abcdefgh01234567",
        "the token abcdefgh01234567/+== was refused",
        "secret_id: 'abcdefgh-0123-4567-89ab-cdef01234567'",
        "\\nsk%5Flive%5Fabcdefgh",
        "sk\\u005flive\\u005fabcdefgh",
        "abcdefgh\\.Zx9-_kQpR7tUvWxYz0123456789abcdef",
    ],
)
def test_the_value_after_a_word_for_secrets_is_hidden(text: str) -> None:
    shown = knowing_respan()(text)
    assert "abcdefgh" not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        "key_id=0c8f8f5e-7f0c-4f4e-9b0e-1b2c3d4e5f60 key_name=prod-eu.billing-ap.abcdefghijkl.12345678.abcdefgh",
        "key_id=abcdefgh.pbkdf2_sha256$600000$abcdef",
        "secret secret/apps/billing-api/respan of the mount secret/ cannot be read",
        "token: permission denied",
        "authorization is refused; the token expires_at=2026-03-01T12:00:00Z",
        "the file /var/run/secrets/kubernetes.io/serviceaccount/token cannot be read",
        "rotator.core.errors.ProviderCredentialRefused: the organisation key is refused",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        'File "/usr/lib/python3.11/site-packages/urllib3/connectionpool.py", line 7, in X509CertificateVerifyLocations',
        "HTTPSConnectionPool(host='vault-0.vault-internal', port=8200): Max retries exceeded",
        "Secret(hidden)",
        "a bearer of bad news",
    ],
)
def test_text_that_a_person_needs_is_not_hidden(text: str) -> None:
    assert knowing_respan()(text) == text
    assert knowing_respan()(text, foreign=True) == text


def test_a_name_may_look_like_a_token_and_is_hidden_only_where_it_is_known() -> None:
    # Texts of this test alone: fragments of a secret that another test held may be known for a while.
    name, key = "tk_Hb3mWs8cLdFg6yNe2oJt5", "q7v2m9w4.Rk5-_nTfGcXo3LyEh8PdAs1JiBu6ZxWqVoKe"
    assert scrub_name(f"{name}\n") == f"{name}\\n"
    assert scrub_name(key) == key
    held = register(Secret(key))
    assert scrub_name(key) == HIDDEN
    del held


# --- cutting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [KEY, OLD_TOKEN, ORGANISATION_KEY, "hvs.CAESIJlWh2vPq0nA4zZ"])
@pytest.mark.parametrize("left", range(1, 45, 4))
def test_a_text_is_searched_before_it_is_cut(secret: str, left: int) -> None:
    words = "the request was refused: ".ljust(MAX_QUOTE - left, ".")
    shown = quoted(f"{words} {secret} and more of it")
    assert len(shown) <= MAX_QUOTE + 1
    assert longest_left(shown, secret) < 4


def test_foreign_text_is_one_line_without_the_secrets_that_were_sent() -> None:
    assert quoted("a\n\x1b[2J  b of swordfish", "swordfish") == f"a \\x1b[2J b of {HIDDEN}"


def test_printed_text_is_redacted_in_the_same_way() -> None:
    assert scrub(f"a\n{ORGANISATION_KEY}\x1b") == f"a\\n{HIDDEN}\\x1b"
    assert scrub_lines(f"a\n{ORGANISATION_KEY}\x1b") == f"a\n{HIDDEN}\\x1b"


def providers_detail(detail: str) -> str:
    body = json.dumps({"detail": detail}).encode()
    return answers.Answer(400, "application/json", "", Secret("sk_other_0123456789"), body).words()


def providers_errors(text: str) -> str:
    body = json.dumps({"errors": {"key": [text[:260], text[260:]]}}).encode()
    return answers.Answer(400, "application/json", "", Secret("sk_other_0123456789"), body).words()


def proxys(title: str) -> str:
    body = f"<html>{' ' * (4096 - 6 - 7 - 200)}<title>{title}".encode()  # which breaks off where the key begins
    return answers.Answer(502, "text/html", "", Secret("sk_other_0123456789"), body).words()


def vaults(error: str) -> str:
    return vault_answers.Answer(400, {"errors": [error]}, "", START).summary


def vaults_redirect(host: str) -> str:
    answer = vault_answers.Answer(307, {}, host, START)
    return str(answer.refusal(vault_answers.READ, "kv/data/a", "read"))


@pytest.mark.parametrize("secret", [KEY, OLD_TOKEN])
@pytest.mark.parametrize("left", [3, 20, 25, 40])
@pytest.mark.parametrize("words", [providers_detail, providers_errors, proxys, vaults, vaults_redirect])
def test_no_adapter_cuts_before_it_searches(words: Callable[[str], str], secret: str, left: int) -> None:
    shown = words(f"{'it was refused: '.ljust(MAX_QUOTE - left, '.')}{secret} and more")
    assert "it was refused" in shown
    assert longest_left(shown, secret) < 4


# --- time ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    *("a", "token ", "eyJ", "\\", "%25", "%", "&amp;", "&", ";\n", " ", '"', "hvs.", "password:a", "abcdefgh.", "aB3"),
    *(
        "eyJaaaaaaaa.",
        "\\u005f",
        "<title",
        '; "',
        "authorization ",
        "token=a",
        "secret_id",
        "Authorization: Bearer ",
        KEY,
    ),
    *("2f", "\r\n", "''", "-"),
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("head", ["", "authorization", "token="])
@pytest.mark.timeout(20)
def test_no_text_makes_redaction_slow(head: str, unit: str) -> None:
    scrubber, held = knowing_respan(), Secret(KEY)
    scrubber.register(held)
    scrubber(head + unit * (200_000 // len(unit)) + "é", foreign=True)
