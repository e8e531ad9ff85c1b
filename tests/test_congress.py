"""The download of portraits, over HTTP on this machine."""

import http.server
import json
import threading

import pytest

import congress
import importing
from shipped import names, run_twice, tree


@pytest.fixture
def site(place, monkeypatch):
    """A small imitation of the project's pages: answers from .pages, fails as .failures says, keeps .asked."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            server.agents.add(self.headers["User-Agent"])
            code = server.failures.pop(self.path, None) or (200 if self.path in server.pages else 404)
            body = server.pages.get(self.path, b"") if code == 200 else b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.failures, server.asked, server.agents = {}, {}, [], set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(congress, "LABELS_URL", base + "/legislators.json")
    monkeypatch.setattr(congress, "PORTRAITS_URL", base + "/225x275")
    monkeypatch.setattr(congress, "DELAY", 0.0)
    members = [{"id": {"bioguide": f"A{i:06d}"}, "bio": {"gender": "MF"[i % 2]}} for i in range(30)]
    members += [{"id": {"bioguide": "../../x"}, "bio": {"gender": "M"}}, {"id": {"bioguide": "B000001"}}]
    server.pages["/legislators.json"] = json.dumps(members).encode()
    for i in range(30):
        server.pages[f"/225x275/A{i:06d}.jpg"] = b"\xff\xd8 portrait %d" % i
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_congress(site, capsys):
    del site.pages["/225x275/A000003.jpg"]
    site.pages["/225x275/A000004.jpg"] = b"<html>"
    site.failures["/225x275/A000005.jpg"] = 503  # once: the second try succeeds
    said = run_twice(congress, capsys)
    for expected in ("2 malformed members", "1 members without a portrait, left out: A000003",
                     "1 portraits that are no JPEG", "28 new"):
        assert expected in said
    kept = {(side, c): names(side, c) for side in ("raw", "test") for c in ("man", "woman")}
    for class_name in ("man", "woman"):
        assert len(kept["raw", class_name] + kept["test", class_name]) == 14
    assert kept["test", "man"] == [f"congress-A{i:06d}.jpg" for i in range(0, 30, 2)
                                   if importing.in_test(f"A{i:06d}", 0.1) and i != 4]
    assert not any("x" in path.removeprefix("/225x275") for path in site.asked)
    assert site.asked.count("/225x275/A000006.jpg") == 1  # not fetched again
    assert all("gender-cnn" in agent for agent in site.agents)


def test_congress_goes_on_where_it_stopped(site, capsys, monkeypatch):
    monkeypatch.setattr(congress, "RETRIES", 0)
    site.failures["/225x275/A000010.jpg"] = 500
    with pytest.raises(SystemExit, match="continues where it stopped"):
        congress.main()
    assert len(tree()) == 10 and not [p for p in tree() if ".tmp" in p]
    site.asked.clear()
    congress.main()
    assert len(tree()) == 30 and len(site.asked) == 21


def test_congress_without_network_is_one_clear_line(place, monkeypatch):
    monkeypatch.setattr(congress, "LABELS_URL", "http://127.0.0.1:9/legislators.json")
    monkeypatch.setattr(congress, "RETRIES", 1)
    monkeypatch.setattr(congress, "DELAY", 0.0)
    with pytest.raises(SystemExit, match="cannot be fetched"):
        congress.main()


@pytest.mark.parametrize("listed", [{"message": "moved"}, ["A000001"], [{"id": None}], [{"id": {"bioguide": 7}}], 5])
def test_another_list_than_that_of_members_is_one_clear_line(site, listed):
    site.pages["/legislators.json"] = json.dumps(listed).encode()
    with pytest.raises(SystemExit, match="is not a list of members: set LABELS_URL"):
        congress.main()
