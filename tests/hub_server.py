"""A stand-in for the Hugging Face Hub on 127.0.0.1: as much of its protocol as huggingface_hub asks for.

    GET  /api/models/ID[/revision/REV]     a model's commit and file names
    GET  /api/models/ID/tree/REV           its files with their sizes and checksums
    HEAD /ID/resolve/REV/FILE              a file's checksum, size and commit; weights lead on to /cdn, as on the Hub
    GET  /ID/resolve/REV/FILE, /cdn/...    its bytes, or a range of them

A folder holds the models: FOLDER/owner/name/files. `broken` and `missing` name files that play a bad connection and
a file that is listed but gone; GET /mend ends both.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serve the models in `folder` from a free port while the `with` block runs."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.broken: set[str] = set()  # "owner/name/file": half of it is sent, then nothing
        self.missing: set[str] = set()
        self.log: list[tuple[str, str, str]] = []  # method, path, the range asked for
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        self.server.log.append((self.command, self.path, self.headers.get("Range", "")))

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        if path == "/mend":
            self.server.broken.clear()
            self.server.missing.clear()
            self._send(200, b"mended")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+)?", path):
            self._api(found[1], (found[2] or "").startswith("/tree"))
        elif found := re.fullmatch(r"/(cdn/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(found[2], found[3], at_the_hub=not found[1])
        else:
            self._send(404, b"{}")

    def _api(self, model: str, tree: bool) -> None:
        folder = self.server.folder / model
        if not folder.is_dir():  # the Hub does not tell a stranger a missing model from a private one
            self._send(401, b'{"error": "Invalid username or password."}')
            return
        names = sorted(path.name for path in folder.iterdir())
        if tree:
            answer: object = [self._listed(folder / name) for name in names]
        else:
            siblings = [{"rfilename": name} for name in names]
            answer = {"_id": "1", "id": model, "modelId": model, "sha": COMMIT, "private": False, "tags": []}
            answer |= {"downloads": 0, "likes": 0, "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def _listed(path: Path) -> dict[str, object]:
        content = path.read_bytes()
        entry = {"type": "file", "path": path.name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.suffix in (".safetensors", ".bin"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, model: str, name: str, at_the_hub: bool) -> None:
        path = self.server.folder / model / name
        key = f"{model}/{name}"
        if not path.is_file() or key in self.server.missing:
            code = "EntryNotFound" if path.parent.is_dir() else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
            return
        content = path.read_bytes()
        etag = '"' + hashlib.sha256(content).hexdigest() + '"'
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if at_the_hub and path.suffix in (".safetensors", ".bin"):
            headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(content)), "Location": f"/cdn{self.path}"}
            headers["Location"] = self.server.url + headers["Location"]
            self._send(302, b"", headers)
            return
        start, status = 0, 200
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(found[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        # A broken file never gets past its half, however often the rest is asked for.
        end = len(content) // 2 if key in self.server.broken else len(content)
        self._send(status, content[start:], headers, stop_after=max(end - start, 0))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, stop_after: int = -1) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            sent = body if stop_after < 0 else body[:stop_after]
            self.wfile.write(sent)
            if len(sent) < len(body):
                self.close_connection = True
