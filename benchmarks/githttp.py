"""`git http-backend` behind a small HTTP server: python -m benchmarks.githttp ROOT HOST."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

BLOCK = 128 << 10


class Handler(BaseHTTPRequestHandler):
    """Hands a request to a process of git, as a web server does by CGI."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._run()

    def do_POST(self) -> None:
        self._run()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _run(self) -> None:
        path, _, query = self.path.partition("?")
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": sys.argv[1],
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": "bench",
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        if length := self.headers.get("Content-Length"):
            env["CONTENT_LENGTH"] = length
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(["git", "http-backend"], env=env, **pipes) as process:  # type: ignore[call-overload]
            feeding = threading.Thread(target=self._feed, args=(process.stdin,))
            feeding.start()
            self._answer(process.stdout)
            feeding.join()

    def _feed(self, target: BinaryIO) -> None:
        """Give the request's body to git."""
        with target:
            try:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    while size := int(self.rfile.readline(), 16):
                        target.write(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    left = int(self.headers.get("Content-Length", 0))
                    while left:
                        block = self.rfile.read(min(left, BLOCK))
                        target.write(block)
                        left -= len(block)
            except BrokenPipeError:
                pass

    def _answer(self, source: BinaryIO) -> None:
        status, headers = 200, []
        while line := source.readline().strip():
            name, _, value = line.decode().partition(": ")
            if name == "Status":
                status = int(value.split()[0])
            else:
                headers.append((name, value))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while block := source.read1(BLOCK):  # type: ignore[attr-defined]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")


def main() -> None:
    """Serve until ended."""
    assert shutil.which("git")
    with ThreadingHTTPServer((sys.argv[2], 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
