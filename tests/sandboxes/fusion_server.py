"""A server that speaks SandboxFusion's protocol, with its faults; it has no walls at all and is for tests alone."""

import base64
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CUT_BYTES = 219_264
PIPE_BYTES = 65_536


class FusionServer:
    """Runs programs as the current user.

    Args:
        old: Whether it cuts stdout at 219,264 bytes, and then stops reading; the newer kind reads all and keeps 1 MiB.
    """

    def __init__(self, *, old: bool = True) -> None:
        self.old = old
        self.faults: deque[str] = deque()
        """What to do instead of running the next programs: see `_Handler.misbehave`."""
        self.paths: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self.most_at_once = 0
        self._running = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.fusion = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "FusionServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def run_code(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
                return self._run(request, Path(directory))
        finally:
            with self._lock:
                self._running -= 1

    def _run(self, request: dict[str, Any], outer: Path) -> dict[str, Any]:
        directory = outer / "work"
        directory.mkdir()
        for name, content in request.get("files", {}).items():
            path = directory / name  # `../` is followed: one of the faults
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
        script = directory / "tmpcode.py"
        script.write_text(request["code"], encoding="utf-8")
        memory = request.get("memory_limit_MB", -1)

        def limit() -> None:
            if memory > 0:
                for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_STACK):
                    resource.setrlimit(kind, (memory << 20, resource.getrlimit(kind)[1]))

        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            start_new_session=True,
            preexec_fn=limit,  # noqa: PLW1509
        )
        out, err = bytearray(), bytearray()
        threads = [
            threading.Thread(target=self._feed, args=(process, (request.get("stdin") or "").encode())),
            threading.Thread(target=self._read, args=(process.stdout, out)),
            threading.Thread(target=self._read, args=(process.stderr, err)),
        ]
        for thread in threads:
            thread.start()
        status: str = "Finished"
        try:
            process.wait(request.get("run_timeout", 10))
        except subprocess.TimeoutExpired:
            status = "TimeLimitExceeded"
        seconds = time.monotonic() - started
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in threads:
            thread.join(2.0)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        code = process.returncode if status == "Finished" else None
        kept = CUT_BYTES if self.old else 1 << 20
        return {
            "status": "Success" if code == 0 else "Failed",
            "message": "",
            "compile_result": None,
            "run_result": {
                "status": status,
                "execution_time": seconds,
                "return_code": code,
                "stdout": _decode(bytes(out[:kept])),
                "stderr": _decode(bytes(err[:kept])),
            },
            "executor_pod_name": None,
            "files": {},
        }

    def _feed(self, process: "subprocess.Popen[bytes]", stdin: bytes) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(stdin)
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _read(self, stream: Any, kept: bytearray) -> None:
        """The old kind stops after as much as its buffers hold, so a program that writes more waits for ever."""
        while not self.old or len(kept) < CUT_BYTES + PIPE_BYTES:
            chunk = os.read(stream.fileno(), 4096)
            if not chunk:
                return
            if len(kept) <= 1 << 20:
                kept += chunk


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return f"[DecodeError] {error}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.fusion.connections += 1

    @property
    def fusion(self) -> FusionServer:
        found: FusionServer = self.server.fusion  # type: ignore[attr-defined]
        return found

    def do_POST(self) -> None:
        fusion = self.fusion
        fusion.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/run_code":
            self.answer(404, {"detail": "Not Found"})
            return
        request = json.loads(body)
        fusion.requests.append(request)
        if fusion.faults and self.misbehave(fusion.faults.popleft()):
            return
        try:
            answer = fusion.run_code(request)
        except UnicodeEncodeError as error:
            self.answer(500, {"detail": str(error), "traceback": []})
            return
        self.answer(200, answer)

    def misbehave(self, fault: str) -> bool:
        error = {"status": "SandboxError", "message": "[Errno 28] No space left on device", "run_result": None}
        if fault == "sandbox_error":
            self.answer(200, error)
        elif fault == "disconnect":
            self.close_connection = True
        elif fault == "not_json":
            self.answer(200, "<html>hello</html>")
        elif fault == "lost_output":
            run = {"status": "Finished", "execution_time": 0.1, "return_code": 0, "stdout": "", "stderr": ""}
            self.answer(200, {"status": "Success", "message": "", "run_result": run})
        elif fault == "hang_up_after":
            self.fusion.run_code(self.fusion.requests[-1])
            self.close_connection = True
        elif fault.isdigit():
            self.answer(int(fault), {"detail": "Internal Server Error"})
        else:
            return False
        return True

    def answer(self, status: int, content: object) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
