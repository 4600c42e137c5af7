"""Requests that gRPC refuses: some are repeated, all end in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from helpers import TOKEN, load, rows, wait_until
from milvus_proxy import Proxy, running_proxy
from milvus_server import Server

import query_code
from similar_images.milvus import client as milvus
from similar_images.milvus.client import (
    GRPC_ADVICE,
    OWN_RETRIES,
    TRANSIENT_GRPC_CODES,
    CollectionError,
)
from similar_images.milvus.connection import connect

Fails = Callable[..., str]
FINAL = ["ALREADY_EXISTS", "INTERNAL", "INVALID_ARGUMENT", *GRPC_ADVICE]
each_code = pytest.mark.parametrize("name", [*TRANSIENT_GRPC_CODES, *FINAL])
READING = ("Search", "Query", "IndexDetail")
GUEST = "guest:Passw0rd!"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with running_proxy() as proxy:
        yield proxy


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said of requests that are repeated."""
    said: list[str] = []
    monkeypatch.setattr(milvus, "warn", said.append)
    monkeypatch.setattr(milvus, "RETRY_SECONDS", 1.5)
    return said


@each_code
def test_a_refused_request_ends_in_one_line(name: str, proxy: Proxy, warnings: list[str]) -> None:
    with connect(proxy.uri) as client:
        proxy.code, proxy.refusals = grpc.StatusCode[name], 1000
        proxy.methods = ("DescribeCollection",)
        with pytest.raises(CollectionError) as raised:
            client.ask(client.milvus.has_collection, "images", advice="do this")
    [line] = str(raised.value).splitlines()
    assert line.startswith(f"Milvus at {proxy.uri}: ")
    assert name in line
    assert "words on DescribeCollection" in line
    assert line.endswith(f"; {GRPC_ADVICE.get(name, 'do this')}")
    if name in TRANSIENT_GRPC_CODES:
        assert "trying again in 1 s" in warnings[0]
    else:
        assert not warnings
        assert len(proxy.refused) <= 1 + OWN_RETRIES


def test_a_request_that_is_too_large_is_not_repeated(warnings: list[str]) -> None:
    options = {"grpc.max_receive_message_length": 1000}
    too_large = pytest.raises(CollectionError, match="larger than max")
    with running_proxy(options=options) as proxy, connect(proxy.uri) as client, too_large:
        client.ask(client.milvus.has_collection, "i" * 2000)
    assert not warnings


@each_code
def test_a_refused_connection_ends_in_one_line(name: str, proxy: Proxy, fails: Fails) -> None:
    Path("a.png").touch()
    proxy.code, proxy.refusals = grpc.StatusCode[name], 1000
    line = fails(query_code.main, "a.png", "--milvus-uri", proxy.uri)
    assert proxy.refused
    assert proxy.uri in line
    assert f"{name}: the proxy's" in line
    assert "words on Connect" in line
    assert "\x1b" not in line
    advice = GRPC_ADVICE.get(name, "start it, or check --milvus-uri and $MILVUS_TOKEN")
    assert line.endswith(f"; {advice}")


def test_a_closed_client_leaves_no_connection_to_the_next(proxy: Proxy) -> None:
    with connect(proxy.uri):
        pass
    proxy.code, proxy.refusals = grpc.StatusCode.PERMISSION_DENIED, 1
    with pytest.raises(CollectionError, match="words on Connect"):
        connect(proxy.uri)


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE"])
def test_a_load_goes_on_when_a_busy_server_takes_rows_again(
    code: str, loaded: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_proxy(server.uri) as proxy:
        proxy.code, proxy.methods = grpc.StatusCode[code], ("Upsert",)
        proxy.refusals = 1 + OWN_RETRIES if code == "UNAVAILABLE" else 1
        assert load("--milvus-uri", proxy.uri) == 0
    assert proxy.refusals == 0
    assert "trying again in 1 s" in capsys.readouterr().err
    assert set(rows(server.uri)) == set(rows())


def test_a_user_without_permissions_is_told_so(
    loaded: Path, server: Server, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("--milvus-uri", server.uri) == 0
    with connect(server.uri) as client:
        client.milvus.create_user(*GUEST.split(":"))
    try:
        monkeypatch.setenv("MILVUS_TOKEN", GUEST)
        for main in (query_code.main, lambda args: load(*args)):
            line = fails(main, "--milvus-uri", server.uri)
            assert "permission deny to guest; set $MILVUS_TOKEN to a user with that" in line
        monkeypatch.setenv("MILVUS_TOKEN", "guest:wrong")
        line = fails(query_code.main, "--milvus-uri", server.uri)
        assert "UNAUTHENTICATED" in line
        assert line.endswith("; check $MILVUS_TOKEN")
    finally:
        monkeypatch.setenv("MILVUS_TOKEN", TOKEN)
        with connect(server.uri) as client:
            client.milvus.drop_user("guest")
    assert set(rows(server.uri)) == set(rows())


def test_who_may_only_read_can_query_what_is_loaded(
    loaded: Path, server: Server, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("--milvus-uri", server.uri) == 0
    with connect(server.uri) as client:
        milvus = client.milvus
        milvus.create_user("reader", "Passw0rd!")
        milvus.create_role("reading")
        for privilege in READING:
            milvus.grant_privilege("reading", "Collection", privilege, "*")
        milvus.grant_role("reader", "reading")
        try:
            with monkeypatch.context() as patch:
                patch.setenv("MILVUS_TOKEN", "reader:Passw0rd!")
                first = ["--milvus-uri", server.uri, "--queries", "query_set"]
                wait_until(lambda: query_code.main(first) == 0, "it may", lambda: True)  # granted
                assert query_code.main([*first[:3], "database_set"]) == 0
                milvus.release_collection("images")
                lines = [""]

                def is_released() -> bool:
                    lines.append(fails(query_code.main, "--milvus-uri", server.uri))
                    return "collection not loaded" in lines[-1]

                wait_until(is_released, "it was released", lambda: True)
            assert lines[-1].endswith("; let a user with the permission Load run this command")
            assert query_code.main(["--milvus-uri", server.uri]) == 0
        finally:
            for privilege in READING:
                milvus.revoke_privilege("reading", "Collection", privilege, "*")
            milvus.drop_user("reader")
            milvus.drop_role("reading")
