from __future__ import annotations

import hmac

import pytest

from vidrestore.live.access import PROTOCOL, TOKEN_PREFIX, Gate, is_loopback, new_token

HERE = Gate("127.0.0.1")
OPEN = Gate("0.0.0.0", "s3cret-token")


def status(gate: Gate, headers: dict[str, str], *, is_page: bool = False) -> int:
    refused = gate.refusal(headers, is_page=is_page)
    return 200 if refused is None else refused[0]


@pytest.mark.parametrize("host", ["127.0.0.1:8747", "localhost:8747", "[::1]:8747", "localhost"])
def test_this_machine_may(host: str) -> None:
    assert status(HERE, {"Host": host}) == 200
    assert status(HERE, {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}) == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example:8747", "192.168.1.5:8747", "localhost@evil", "a b", "[::1"]
)
def test_a_rebound_or_foreign_name_may_not(host: str) -> None:
    assert status(HERE, {"Host": host}) == 421
    assert status(HERE, {"Host": host}, is_page=True) == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},  # another server of this machine
        {"Origin": "https://127.0.0.1:8747"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_may_not(headers: dict[str, str]) -> None:
    assert status(HERE, {"Host": "127.0.0.1:8747", **headers}) == 403


def test_a_link_to_the_page_may_be_followed() -> None:
    assert status(HERE, {"Host": "127.0.0.1:8747", "Sec-Fetch-Site": "cross-site"}, is_page=True) == 200


def test_other_machines_need_the_token() -> None:
    host = {"Host": "192.168.1.5:8747"}
    assert status(OPEN, host) == 401
    assert status(OPEN, {**host, "Authorization": "Bearer wrong"}) == 401
    assert status(OPEN, {**host, "Authorization": "s3cret-token"}) == 401
    assert status(OPEN, {**host, "Authorization": "Bearer s3cret-token"}) == 200
    assert status(OPEN, {**host, "Sec-WebSocket-Protocol": f"{PROTOCOL}, {TOKEN_PREFIX}s3cret-token"}) == 200
    assert status(OPEN, {**host, "Sec-WebSocket-Protocol": f"{PROTOCOL}, {TOKEN_PREFIX}s3cret"}) == 401
    assert status(OPEN, host, is_page=True) == 200  # the page holds nothing, and has no token to show yet
    assert status(OPEN, {"Host": "evil.example", "Authorization": "Bearer s3cret-token"}) == 421


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    genuine = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or genuine(a, b))
    status(OPEN, {"Host": "10.0.0.1", "Authorization": "Bearer wrong"})
    assert compared == [(b"wrong", b"s3cret-token")]


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(len(token) for token in tokens) >= 21


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_which_addresses_are_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
