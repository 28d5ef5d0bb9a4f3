"""Who may talk to the viewer."""

import socket

import pytest

from voxfield.errors import InputError, UnavailableError
from voxfield.viewer.access import RequestGuard, listen, url

LOCAL = RequestGuard(token=None)
SHARED = RequestGuard(token="a-secret")


@pytest.mark.parametrize("host", ["127.0.0.1:7007", "localhost:7007", "localhost:8000", "[::1]:7007", "LOCALHOST"])
def test_this_machine_may_ask_by_any_of_its_names_and_through_a_tunnel(host: str) -> None:
    assert LOCAL.refusal("/", [host], []) is None
    assert LOCAL.refusal("/", [host], [f"http://{host}"]) is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7:7007", "", "[::1", "a@evil"])
def test_a_name_that_was_made_to_mean_this_machine_is_refused(host: str) -> None:
    assert "localhost" in str(LOCAL.refusal("/", [host], []))


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:8000", "null", "file://", "", "http://[", "ws://localhost:7007"]
)
def test_a_page_of_another_site_is_refused(origin: str) -> None:
    assert "another site" in str(LOCAL.refusal("/", ["localhost:7007"], [origin]))
    assert "another site" in str(SHARED.refusal("/a-secret/", ["machine:7007"], [origin]))


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"]])
def test_requests_that_contradict_themselves_are_refused(hosts: list[str]) -> None:
    assert LOCAL.refusal("/", hosts, []) is not None
    assert LOCAL.refusal("/", ["localhost"], ["http://localhost", "http://evil.example"]) is not None


@pytest.mark.parametrize("path", ["/", "/a-secre", "/a-secret2/", "/x/a-secret/", "/?a-secret", "", "/é"])
def test_without_the_secret_nothing_is_answered(path: str) -> None:
    assert "token" in str(SHARED.refusal(path, ["machine:7007"], []))


def test_the_secret_is_left_out_of_what_the_page_sees() -> None:
    for path, inner in {"/a-secret": "/", "/a-secret/": "/", "/a-secret/x.js": "/x.js"}.items():
        assert SHARED.refusal(path, ["machine:7007"], ["http://machine:7007"]) is None
        assert SHARED.inner_path(path) == inner
    assert LOCAL.inner_path("/x") == "/x"


def test_only_other_addresses_than_the_loopback_need_a_secret() -> None:
    assert RequestGuard.for_host(None).token is None
    first, second = RequestGuard.for_host("0.0.0.0"), RequestGuard.for_host("0.0.0.0")
    assert first.token != second.token
    assert len(str(first.token)) >= 32


def test_a_port_in_use_is_said_with_the_next_free_one() -> None:
    with listen(None, 0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UnavailableError, match=rf"Port {port} is in use.*--port \d+") as caught:
            listen(None, port)
        offered = int(str(caught.value).split("--port ")[1])
        with listen(None, offered) as free:
            assert free.getsockname()[1] == offered
        with listen(None, port, or_next=True) as following:
            assert following.getsockname()[1] > port


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_there_are_not(port: int) -> None:
    with pytest.raises(InputError, match="port: expected a value"):
        listen(None, port)


@pytest.mark.parametrize("host", ["no such name", "192.0.2.1", "\ud800", "a" * 300])
def test_hosts_that_are_not_this_machine(host: str) -> None:
    with pytest.raises(InputError, match="address of this machine"):
        listen(host, 0)


def test_the_url_names_the_machine_where_it_listens_on_all_addresses() -> None:
    with listen("0.0.0.0", 0) as listening:
        port = listening.getsockname()[1]
        assert url(listening, SHARED) == f"http://{socket.gethostname()}:{port}/a-secret/"
    with listen(None, 0) as listening:
        assert url(listening, LOCAL) == f"http://127.0.0.1:{listening.getsockname()[1]}/"
