"""Sources behind URLs, on servers of our own: an HTTP server, one that speaks enough of S3, and fsspec's memory."""

import csv
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import fsspec
import numpy as np
import pytest

from components.data.decoding.decode import ImageLimits
from components.data.png import encode_png
from components.data.sources.opening import SourceItem, list_source, open_source
from components.data.sources.remote import Remote, without_credentials
from components.errors import ConfigurationError, DataError

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=10_000, min_side=4)
PNG = encode_png(np.zeros((8, 8), np.uint8))
SECRET = "hunter2secret"


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def list_of(*rows: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


FILES = {
    "photos/cat/1.png": PNG,
    "photos/dog/big cat #2.png": PNG,
    "photos/dog/large.png": b"x" * 10_001,
    "photos/dog/.hidden": b"",
    "photos/birds.zip": zip_of({"wren/1.png": PNG, "crow/2.png": PNG}),
    "lists/list.csv": list_of(("file_name", "label"), ("a/1.png", "cat"), ("none.png", "cat"), ("../x.png", "cat")),
    "lists/a/1.png": PNG,
    "one.png": PNG,
    "forbidden/cat/1.png": PNG,
    "broken/cat/1.png": PNG,
    "partly/cat/1.png": PNG,
    "partly/cat/forbidden.png": PNG,
    "partly/cat/z.png": PNG,
    "endless.png": b"x" * 50_000_000,
}
PHOTOS = [
    SourceItem("birds.zip/crow/2.png", PNG, "crow"),
    SourceItem("birds.zip/wren/1.png", PNG, "wren"),
    SourceItem("cat/1.png", PNG, "cat"),
    SourceItem("dog/big cat #2.png", PNG, "dog"),
    SourceItem("dog/large.png", b"", "dog", problem="too-many-bytes"),
]


class Server(BaseHTTPRequestHandler):
    """Serves FILES: listings and ranges over HTTP, or what s3fs asks of S3. `ranges`: whether parts are given."""

    protocol_version = "HTTP/1.1"
    ranges = True
    gone = False
    sent = 0

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        url = urlsplit(self.path)
        name = unquote(url.path).lstrip("/")
        if self.path.startswith("/bucket") and ("list-type" in url.query or name == "bucket"):
            self._list_bucket(parse_qs(url.query))
            return
        name = name.removeprefix("bucket/")
        if type(self).gone:
            self.close_connection = True
        elif "forbidden" in name:
            self._say(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", head)
        elif name in FILES:
            self._file(name, head)
        elif any(known.startswith(name.rstrip("/") + "/") for known in FILES) and "bucket" not in self.path:
            self._index(name.rstrip("/") + "/")
        else:
            self._say(404, b"", head)

    def _file(self, name: str, head: bool) -> None:
        content = FILES[name]
        wanted = self.headers.get("Range", "")
        if name.startswith("broken") and not head:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:20])
            self.close_connection = True
        elif wanted and self.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : min(int(last or len(content)), len(content)) + 1]
            self._say(206, part, head, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"})
        else:
            self._say(200, content, head, {"Accept-Ranges": "bytes"} if self.ranges else {})

    def _index(self, folder: str) -> None:
        inside = sorted({known.removeprefix(folder) for known in FILES if known.startswith(folder)})
        names = {name.partition("/")[0] + ("/" if "/" in name else "") for name in inside}
        links = "".join(f'<a href="{quote(name)}">{escape(name)}</a>' for name in sorted(names))
        self._say(200, f"<html>{links}</html>".encode(), False, {"Content-Type": "text/html"})

    def _list_bucket(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        if prefix.startswith("forbidden"):
            self._say(403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", False)
            return
        keys = sorted(name for name in FILES if name.startswith(prefix))
        body = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(FILES[key])}</Size><ETag>e</ETag>"
            "<LastModified>2026-10-05T12:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
        )
        body = f"<Name>bucket</Name><KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>{body}"
        self._say(200, f"<ListBucketResult>{body}</ListBucketResult>".encode(), False, {"Content-Type": "text/xml"})

    def _say(self, status: int, body: bytes, head: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/octet-stream", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Mon, 05 Oct 2026 12:00:00 GMT")
        self.end_headers()
        if head:
            return
        try:
            for start in range(0, len(body), 65_536):
                self.wfile.write(body[start : start + 65_536])
                type(self).sent += min(65_536, len(body) - start)
        except (ConnectionError, TimeoutError):
            self.close_connection = True


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, Any]]]:
    """A function that starts a server and returns its address and its handler's class."""
    servers = []

    def start(**attributes: Any) -> tuple[str, Any]:
        handler = type("Handler", (Server,), {"sent": 0, **attributes})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}", handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def items_of(url: str) -> list[SourceItem]:
    return list(open_source(url, limits=LIMITS, cache=Path("unused")))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_folder_a_list_an_archive_and_an_image_are_read_over_http(
    serve: Callable[..., tuple[str, Any]], ranges: bool
) -> None:
    address, _ = serve(ranges=ranges)

    assert items_of(f"http://{address}/photos/") == PHOTOS
    assert items_of(f"http://{address}/one.png") == [SourceItem("one.png", PNG)]
    assert items_of(f"http://{address}/photos/birds.zip") == [
        SourceItem("crow/2.png", PNG, "crow"),
        SourceItem("wren/1.png", PNG, "wren"),
    ]
    assert items_of(f"http://{address}/lists/list.csv") == [
        SourceItem("../x.png", b"", "cat", problem="unsafe-path"),
        SourceItem("a/1.png", PNG, "cat"),
        SourceItem("none.png", b"", "cat", problem="missing-file"),
    ]


def test_of_a_file_without_end_no_more_than_is_allowed_is_taken(serve: Callable[..., tuple[str, Any]]) -> None:
    address, handler = serve(ranges=False)

    assert [item.problem for item in items_of(f"http://{address}/endless.png")] == ["too-many-bytes"]
    assert handler.sent < 20_000_000  # what lies in the sockets' buffers; 50 MB were to be had


@pytest.fixture
def s3(serve: Callable[..., tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The root of a bucket on a server that speaks enough of S3."""
    pytest.importorskip("s3fs", reason="pip install 'perennial[s3]'")
    address, _ = serve()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_REGION": "eu-north-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield "s3://bucket"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_folder_a_list_an_archive_and_an_image_are_read_from_s3(s3: str) -> None:
    assert items_of(f"{s3}/photos") == PHOTOS
    assert items_of(f"{s3}/one.png") == [SourceItem("one.png", PNG)]
    assert [item.label for item in items_of(f"{s3}/photos/birds.zip")] == ["crow", "wren"]
    assert [(item.name, item.problem) for item in items_of(f"{s3}/lists/list.csv")] == [
        ("../x.png", "unsafe-path"),
        ("a/1.png", None),
        ("none.png", "missing-file"),
    ]


def test_what_s3_forbids_is_one_line_without_credentials(s3: str) -> None:
    with pytest.raises(DataError) as told:
        items_of(f"{s3}/forbidden")
    line = str(told.value)

    assert "s3://bucket/forbidden" in line
    assert SECRET not in line
    assert "\n" not in line
    with pytest.raises(ConfigurationError, match="s3://bucket/none' does not exist"):
        items_of(f"{s3}/none")


def test_a_protocol_without_its_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda _: (_ for _ in ()).throw(ImportError("Install s3fs")))

    with pytest.raises(ConfigurationError, match=r"Install s3fs \(pip install 'perennial\[s3\]'\); accepted are"):
        items_of("s3://bucket/photos")


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("forbidden/", "", "403"),
        ("forbidden/cat/1.png", f"?token={SECRET}", "403"),
        ("broken/", "", "broke off: .*20 of 140 bytes"),
        ("broken/cat/1.png", f"?token={SECRET}", "20 of 140 bytes"),
    ],
)
def test_a_remote_that_fails_is_one_line_that_names_it_without_credentials(
    serve: Callable[..., tuple[str, Any]], path: str, query: str, said: str
) -> None:
    address, _ = serve()
    with pytest.raises(DataError, match=said) as told:
        items_of(f"http://someone:{SECRET}@{address}/{path}{query}")
    line = str(told.value)

    assert f"'http://{address}/{path}'" in line
    assert SECRET not in line
    assert "\n" not in line


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(DataError, match=r"source 'http://127.0.0.1:1/x' cannot be reached: .*; run it again$"):
        items_of(f"http://someone:{SECRET}@127.0.0.1:1/x?signature={SECRET}")
    with pytest.raises(DataError, match=r"source 'http://127.0.0.1:1/x.zip' cannot be reached"):
        items_of("http://127.0.0.1:1/x.zip")


def test_a_reason_that_repeats_a_credential_is_told_without_it() -> None:
    remote = Remote(f"http://someone:{SECRET}@127.0.0.1:1/x?token=a%2Fb%2Fc")

    def ask() -> None:
        raise OSError(f"{SECRET} may not read\n http://someone:{SECRET}@127.0.0.1:1/x, token a/b/c")

    with pytest.raises(DataError) as told:
        remote.asked("cannot be reached", ask)
    assert str(told.value) == (
        "source 'http://127.0.0.1:1/x' cannot be reached: *** may not read http://127.0.0.1:1/x, "
        "token ***; run it again"
    )


def test_one_file_that_is_forbidden_costs_no_other(serve: Callable[..., tuple[str, Any]], s3: str) -> None:
    address, _ = serve()
    for url in (f"http://{address}/partly/", f"{s3}/partly"):
        assert [(item.name, item.problem) for item in items_of(url)] == [
            ("cat/1.png", None),
            ("cat/forbidden.png", "unreadable"),
            ("cat/z.png", None),
        ]


def test_an_http_server_that_goes_away_in_the_middle_makes_no_file_missing(
    serve: Callable[..., tuple[str, Any]],
) -> None:
    address, handler = serve()
    entries = list_source(f"http://{address}/partly/", limits=LIMITS, cache=Path("unused"))
    assert next(entries).item().problem is None
    next(entries)
    handler.gone = True

    with pytest.raises(DataError, match=f"source 'http://{address}/partly/' broke off: .*; run it again"):
        next(entries).item()
    with pytest.raises(DataError, match="cannot be reached"):
        items_of(f"http://{address}/one.png")


def test_an_archive_behind_a_signed_url_is_known_by_its_name(serve: Callable[..., tuple[str, Any]]) -> None:
    address, _ = serve()

    assert [i.label for i in items_of(f"http://{address}/photos/birds.zip?signature={SECRET}")] == ["crow", "wren"]
    with pytest.raises(ConfigurationError, match="does not exist") as told:
        items_of(f"http://{address}/none/?signature={SECRET}")
    assert SECRET not in str(told.value)


def test_a_server_that_goes_away_in_the_middle_costs_the_source_and_not_its_images() -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("1.png", "2.png", "3.png"):
        filesystem.pipe_file(f"/gone-test/cat/{name}", PNG)
    entries = list_source("memory://gone-test", limits=LIMITS, cache=Path("unused"))
    assert next(entries).item().problem is None

    class Gone:
        def __getattr__(self, _: str) -> Any:
            raise TimeoutError("timed out")

    second = next(entries)
    second.read.func.__self__._remote._system = Gone()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"source 'memory://gone-test' broke off: timed out; run it again"):
        second.item()


def test_a_hostile_listing_cannot_name_a_file_outside() -> None:
    filesystem = fsspec.filesystem("memory")
    for name in ("cat/1.png", "cat/../../2.png", "cat/a\nb.png"):
        filesystem.store[f"/hostile-test/{name}"] = filesystem.store.get(name) or _memory_file(filesystem, name)
    items = items_of("memory://hostile-test")

    assert [(item.name, item.problem) for item in items] == [
        ("cat/../../2.png", "unsafe-path"),
        ("cat/1.png", None),
        ("cat/a\\nb.png", None),
    ]


def _memory_file(filesystem: Any, name: str) -> Any:
    filesystem.pipe_file("/hostile-source/x", PNG)
    return filesystem.store["/hostile-source/x"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:secret@bucket/photos", "s3://bucket/photos"),
        ("https://bucket.example/x.zip?X-Amz-Signature=abc&y=1", "https://bucket.example/x.zip"),
        ("ftp://me@host/x#y", "ftp://host/x"),
        ("http://host/a@b.zip", "http://host/a@b.zip"),
        ("photos/what?/#2", "photos/what?/#2"),
        ("/home/me/x.zip", "/home/me/x.zip"),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
