"""A hub on this machine, of models and data sets in folders, which can break off in mid-file."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = hashlib.sha1(b"the only commit").hexdigest()
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?$")
FILE = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)$")


class Hub(ThreadingHTTPServer):
    """Serves `root/OWNER/NAME/...`; while `is_whole` is false, no file above `limit` comes whole.

    After the first file that broke off nothing is answered any more: the network is gone.
    """

    def __init__(self, root: Path, limit: int = 4096) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.root, self.limit = root, limit
        self.is_whole, self.is_gone, self.broken_off = True, False, 0
        self.daemon_threads = True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"

    def set_whole(self, is_whole: bool) -> None:
        """Break off from now on, or let everything be whole again."""
        self.is_whole, self.is_gone = is_whole, False


class Answers(BaseHTTPRequestHandler):
    """What `huggingface_hub` and `datasets` ask of a hub."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.asked = self.rfile.read(length).decode()
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.server.is_gone:
            self.close_connection = True
            self.connection.close()
        elif found := API.match(path):
            self.tell(found[2], found[3] or "")
        elif (found := FILE.match(path)) and (self.server.root / found[1] / found[2]).is_file():
            self.give(self.server.root / found[1] / found[2], with_body=with_body)
        else:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def tell(self, name: str, rest: str) -> None:
        """Answer a question about a repository."""
        folder = self.server.root / name
        if not folder.is_dir():
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if "/tree/" in rest or "/paths-info/" in rest:
            below = rest.partition("/tree/")[2].partition("/")[2]
            entries = [entry(path, folder) for path in files]
            if "/paths-info/" in rest:
                entries = [e for e in entries if e["path"] in self.asked.replace("%2F", "/")]
            elif below:
                entries = [e for e in entries if e["path"].startswith(below)]
            self.send(200, json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
            facts = {"id": name, "_id": "1", "sha": COMMIT, "siblings": siblings, "tags": [],
                     "private": False, "downloads": 0, "likes": 0}  # fmt: skip
            self.send(200, json.dumps(facts).encode())

    def give(self, path: Path, *, with_body: bool) -> None:
        """Give a file, or the part of it that is asked for; or half of that, and nothing more."""
        data = path.read_bytes()
        start, status = 0, 200
        if found := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, status = int(found[1]), 206
            data = data[start : int(found[2]) + 1 if found[2] else None]
        tag = hashlib.sha256(path.read_bytes()).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if status == 206:
            size = path.stat().st_size
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{size}"
        if with_body and not self.server.is_whole and len(data) > self.server.limit:
            self.server.is_gone = True
            self.server.broken_off += 1
            self.send(status, data, headers, given=len(data) // 2)
            self.close_connection = True
            self.connection.close()
        else:
            self.send(status, data, headers, given=len(data) if with_body else 0)

    def send(self, status, data, headers=None, given=None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:given])
            self.wfile.flush()

    def log_message(self, *words) -> None:
        """Say nothing."""


def entry(path: Path, folder: Path) -> dict:
    """Return what a hub tells of a file."""
    oid = hashlib.sha1(path.read_bytes()).hexdigest()
    name = str(path.relative_to(folder))
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}
