"""Downloads: from a server on this machine, so that errors are those of a real connection."""

import gzip
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import pytest
from test_corpora import tgz

from lib.corpora import archives
from lib.corpora.archives import Remote, fetch, members
from lib.errors import DataError

CONTENT = b"one\ntwo\n" * 1000


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        # a connection that breaks off after half of what was announced
        self.wfile.write(CONTENT[:len(CONTENT) // 2] if self.path == "/broken" else CONTENT)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.requests = []
        served.address = f"http://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def folder(isolated):
    return isolated / "data" / "corpus"


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# fetch ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("checksum", [
    sha256(CONTENT), "md5:" + hashlib.md5(CONTENT).hexdigest()])
def test_a_missing_file_is_fetched_once(server, folder, checksum):
    remote = Remote("x.txt", f"{server.address}/x", checksum)
    assert fetch("corpus", [remote]) == [folder / "x.txt"]
    assert (folder / "x.txt").read_bytes() == CONTENT
    assert fetch("corpus", [remote]) == [folder / "x.txt"]
    assert server.requests == ["/x"]
    assert names(folder) == ["x.txt"]


def test_a_download_with_the_wrong_checksum_leaves_nothing(server, folder):
    remote = Remote("x.txt", f"{server.address}/x", "sha256:" + "0" * 64)
    with pytest.raises(DataError) as error:
        fetch("corpus", [remote])
    for part in (str(folder / "x.txt"), remote.address, remote.checksum, sha256(CONTENT)):
        assert part in str(error.value)
    assert not folder.exists()


@pytest.mark.parametrize(("path", "reason"), [
    ("missing", "HTTP status 404"), ("broken", "Chunked|Connection|Incomplete")])
def test_a_failed_download_leaves_nothing(server, folder, path, reason):
    remote = Remote("x.txt", f"{server.address}/{path}", sha256(CONTENT))
    with pytest.raises(DataError, match=reason):
        fetch("corpus", [remote])
    assert not folder.exists() and folder.parent.exists()


def test_a_failed_download_leaves_the_folders_that_were_there(server, folder):
    folder.parent.rmdir()
    with pytest.raises(DataError, match="HTTP status 404"):
        fetch("corpus", [Remote("x.txt", f"{server.address}/missing", sha256(CONTENT))])
    assert not folder.parent.exists()
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match="HTTP status 404"):
        fetch("corpus", [Remote("x.txt", f"{server.address}/missing", sha256(CONTENT))])
    assert folder.exists()


def test_an_interrupted_download_leaves_nothing(folder, monkeypatch):
    def download(address, output, pooch):
        Path(output).write_bytes(CONTENT[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(archives.pooch, "HTTPDownloader", lambda **_: download)
    with pytest.raises(KeyboardInterrupt):
        fetch("corpus", [Remote("x.txt", "http://example.org/x", sha256(CONTENT))])
    assert not folder.exists()


def test_without_a_network_one_message_says_what_to_do(server, folder):
    server.server_close()  # nobody listens at this address any more
    folder.mkdir()
    (folder / "there").write_bytes(CONTENT)
    there = Remote("there", f"{server.address}/there", sha256(CONTENT))
    now = Remote("x.tgz", f"{server.address}/x?id=1&confirm=t", sha256(CONTENT))
    later = Remote("dev.tgz", f"{server.address}/dev.tgz", sha256(CONTENT))
    with pytest.raises(DataError) as error:
        fetch("corpus", [there, now], later=[later, there, later])
    message = str(error.value)
    assert message.startswith(f"{folder / 'x.tgz'} is missing and could not be fetched from "
                              f"{now.address} (ConnectionError)")
    assert ("Set DISCREPANCY_DATA (in a notebook: %env DISCREPANCY_DATA=/the/folder, in its first "
            "cell) to the folder that holds corpus/x.tgz") in message
    assert message.split("\n")[1:] == [
        f"  curl -L --create-dirs -o {folder / 'x.tgz'} '{now.address}'",
        f"  curl -L --create-dirs -o {folder / 'dev.tgz'} {later.address}"]


def test_a_folder_that_cannot_be_made_is_named(isolated, server):
    (isolated / "data" / "corpus").write_text("a file")
    with pytest.raises(DataError, match=r"corpus/x\.txt is missing .*File exists"):
        fetch("corpus", [Remote("x.txt", f"{server.address}/x", sha256(CONTENT))])


# files that are there already ----------------------------------------------------------------

@pytest.fixture
def placed(folder):
    folder.mkdir()
    (folder / "x.txt").write_bytes(CONTENT)
    return Remote("x.txt", "http://127.0.0.1:9/x", sha256(CONTENT))


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed."""
    calls, file_hash = [], archives.pooch.file_hash
    monkeypatch.setattr(archives.pooch, "file_hash",
                        lambda name, alg: calls.append(name) or file_hash(name, alg))
    return calls


def test_a_file_that_is_there_is_hashed_once(placed, folder, hashed):
    for _ in range(3):
        fetch("corpus", [placed])
    assert len(hashed) == 1
    os.utime(folder / "x.txt", ns=(1, 1))  # touched since
    fetch("corpus", [placed])
    assert len(hashed) == 2


def test_a_file_with_the_wrong_checksum_is_refused_and_kept(placed, folder):
    fetch("corpus", [placed])
    (folder / "x.txt").write_bytes(CONTENT + b"more")  # damaged after it was checked
    with pytest.raises(DataError) as error:
        fetch("corpus", [placed])
    for part in (str(folder / "x.txt"), placed.checksum, sha256(CONTENT + b"more"), "Delete it",
                 placed.address):
        assert part in str(error.value)
    assert names(folder) == ["x.txt"]


def test_another_expected_checksum_is_checked_again(placed):
    fetch("corpus", [placed])
    with pytest.raises(DataError, match="wrong checksum"):
        fetch("corpus", [Remote("x.txt", placed.address, sha256(b"other"))])


@pytest.mark.parametrize("content", ["", "{", json.dumps({"size": 1})])
def test_a_spoilt_memory_of_checksums_only_costs_a_hash(placed, isolated, hashed, content):
    fetch("corpus", [placed])
    (stamp,) = (isolated / "cache" / "checksums").iterdir()
    stamp.write_text(content)
    fetch("corpus", [placed])
    fetch("corpus", [placed])
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_only_costs_a_hash(placed, isolated, hashed, caplog):
    (isolated / "cache" / "checksums").write_text("a file, not a folder")
    fetch("corpus", [placed])
    fetch("corpus", [placed])
    assert len(hashed) == 2
    assert "DISCREPANCY_CACHE may name a folder" in caplog.text


# archives ------------------------------------------------------------------------------------

def test_members_come_in_the_order_asked_for_and_stay_packed(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz({"./a/one.de": b"1", "a/._two.de": b"!", "b/two.de": b"2", "c/3": b"3"}))
    assert members(path, ["two.de", "a/one.de"]) == [b"2", b"1"]
    assert members(path, ["c/3", "c/3"]) == [b"3", b"3"]
    assert names(tmp_path) == ["x.tgz"]


def test_a_name_matches_at_a_folders_boundary(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz({"not-one.de": b"no", "deep/one.de": b"yes"}))
    assert members(path, ["one.de"]) == [b"yes"]


def test_nested_members(tmp_path):
    inner = tgz({"de-en/train.de": b"d", "de-en/train.en": b"e"})
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz({"2016/texts/en/de/en-de.tgz": tgz({"de-en/train.de": b"wrong"}),
                          "2016/texts/de/en/de-en.tgz": inner}))
    wanted = ["de-en/train.en", "de-en/train.de"]
    assert members(path, wanted, "texts/de/en/de-en.tgz") == [b"e", b"d"]
    with pytest.raises(DataError, match=r"x\.tgz has no file texts/fr/en/fr-en\.tgz"):
        members(path, wanted, "texts/fr/en/fr-en.tgz")
    with pytest.raises(DataError, match=r"x\.tgz: 2016/texts/de/en/de-en\.tgz has no file other"):
        members(path, ["other"], "texts/de/en/de-en.tgz")


def test_a_name_that_is_not_there(tmp_path):
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz({"one": b"1"}))
    with pytest.raises(DataError, match=r"x\.tgz has no file two, three"):
        members(path, ["one", "two", "three"])


@pytest.mark.parametrize("damage", [
    lambda data: data[:len(data) // 2], lambda data: b"<html>no archive</html>", lambda data: b"",
    lambda data: gzip.compress(b"no tar" * 1000)])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path = tmp_path / "x.tgz"
    path.write_bytes(damage(tgz({"other": os.urandom(50_000), "one": b"1"})))
    with pytest.raises(DataError, match=r"x\.tgz can't be read as a \.tgz"):
        members(path, ["one"])
    with pytest.raises(DataError, match=r"x\.tgz can't be read as a \.tgz"):
        members(path, ["two"], "one")
