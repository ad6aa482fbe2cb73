"""A server for Modal's own client, on the stubs in its wheel: the few calls that running programs takes.

A "sandbox" here is a name, and its processes are ours, without any walls: for tests alone.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import grpclib
import grpclib.server
from modal_proto import api_grpc, api_pb2, task_command_router_grpc
from modal_proto import task_command_router_pb2 as router_pb2


def readable_python() -> str | None:
    """A Python that any user may run, as in an image."""
    for python in (sys.executable, "/usr/bin/python3"):
        path = Path(python).resolve()
        library = path.parent.parent / "lib" / path.name / "os.py"
        if library.is_file() and all(part.stat().st_mode & 0o005 == 0o005 for part in library.parents):
            return str(path)
    return None


class _Process:
    """A command under way, with what it wrote."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        self.running = running
        self.out = {router_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT: bytearray()}
        self.grown = asyncio.Condition()
        self.ended = False
        self.stdin = bytearray()


class ModalServer:
    """Runs commands of the "containers" as processes.

    Args:
        python: What ``python`` is in the image.
    """

    def __init__(self, python: str | None = None) -> None:
        self.python = python or readable_python() or sys.executable
        self.created: list[Any] = []
        self.created_at: list[float] = []
        self.terminated: list[str] = []
        self.commands: list[list[str]] = []
        self.timeouts: list[int] = []
        self.calls: list[str] = []
        self.faults: dict[str, deque[grpclib.const.Status]] = {}
        """By name of a call: what its next ones answer instead."""
        self.exit_codes: dict[str, int] = {}
        """Sandboxes that have ended by themselves."""
        self.ignore_timeouts = False
        self.processes: dict[str, _Process] = {}
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._up.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ModalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = grpclib.server.Server([_control(self), _router(self)])
        await server.start("127.0.0.1", 0)
        assert server._server is not None
        sockets: Any = server._server.sockets  # type: ignore[attr-defined]
        self.port = sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                os.killpg(process.running.pid, signal.SIGKILL)
        await asyncio.gather(*self._tasks)
        server.close()
        await server.wait_closed()

    async def start(self, request: Any) -> None:
        """Start a command, and read from it whether or not somebody asks."""
        command = list(request.command_args)
        self.commands.append(command)
        self.timeouts.append(request.timeout_secs)
        if command[0] == "python":
            command[0] = self.python
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": os.defpath},
            cwd="/",
        )
        process = self.processes[request.exec_id] = _Process(running)
        for work in (self._read(process), self._limit(process, request.timeout_secs)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read(self, process: _Process) -> None:
        assert process.running.stdout is not None
        (kept,) = process.out.values()
        while chunk := await process.running.stdout.read(1 << 16):
            async with process.grown:
                kept += chunk
                process.grown.notify_all()
        await process.running.wait()
        async with process.grown:
            process.ended = True
            process.grown.notify_all()

    async def _limit(self, process: _Process, seconds: int) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.running.wait(), None if self.ignore_timeouts or not seconds else seconds)
        if process.running.returncode is None:
            os.killpg(process.running.pid, signal.SIGKILL)


def _control(server: ModalServer) -> Any:
    """The calls about sandboxes."""

    async def hello(_: Any) -> Any:
        return api_pb2.ClientHelloResponse()

    async def token(_: Any) -> Any:
        parts = ({"alg": "none"}, {"exp": time.time() + 3600})
        packed = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        return api_pb2.AuthTokenGetResponse(token=".".join([*packed, "x"]))

    async def environment(_: Any) -> Any:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06", webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    async def app(_: Any) -> Any:
        return api_pb2.AppGetOrCreateResponse(app_id="ap-1")

    async def image(_: Any) -> Any:
        done = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        return api_pb2.ImageGetOrCreateResponse(image_id="im-1", result=done)

    async def create(request: Any) -> Any:
        server.created.append(request.definition)
        server.created_at.append(time.monotonic())
        name = f"sb-{len(server.created)}"
        access = api_pb2.CommandRouterAccess(url=server.url, jwt="x.e30.x")
        return api_pb2.SandboxCreateV2Response(
            sandbox_id=name, task_id=f"ta-{len(server.created)}V", command_router_access=access
        )

    async def access(_: Any) -> Any:
        return api_pb2.SandboxGetCommandRouterAccessResponse(url=server.url, jwt="x.e30.x")

    async def terminate(request: Any) -> Any:
        server.terminated.append(request.sandbox_id)
        return api_pb2.SandboxTerminateResponse()

    async def wait(request: Any) -> Any:
        if request.sandbox_id not in server.exit_codes:
            return api_pb2.SandboxWaitResponse()
        status = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
        code = server.exit_codes[request.sandbox_id]
        return api_pb2.SandboxWaitResponse(result=api_pb2.GenericResult(status=status, exitcode=code))

    calls = {
        "ClientHello": hello,
        "AuthTokenGet": token,
        "EnvironmentGetOrCreate": environment,
        "AppGetOrCreate": app,
        "ImageGetOrCreate": image,
        "SandboxCreateV2": create,
        "SandboxGetCommandRouterAccess": access,
        "SandboxTerminateV2": terminate,
        "SandboxWaitV2": wait,
    }
    return _servicer(api_grpc.ModalClientBase, server, calls, {})


def _router(server: ModalServer) -> Any:
    """The calls about processes in a sandbox."""

    async def start(request: Any) -> Any:
        await server.start(request)
        return router_pb2.TaskExecStartResponse()

    async def write(request: Any) -> Any:
        process = server.processes[request.exec_id]
        assert process.running.stdin is not None
        assert request.offset == len(process.stdin)
        process.stdin += request.data
        with contextlib.suppress(OSError):
            process.running.stdin.write(request.data)
            await process.running.stdin.drain()
            if request.eof:
                process.running.stdin.close()
        return router_pb2.TaskExecStdinWriteResponse()

    async def read(stream: Any) -> None:
        request = await stream.recv_message()
        process = server.processes[request.exec_id]
        kept = process.out.get(request.file_descriptor, bytearray())
        sent = request.offset
        while True:
            async with process.grown:
                while len(kept) <= sent and not process.ended:
                    await process.grown.wait()
            if len(kept) <= sent:
                return
            chunk = bytes(kept[sent : sent + (1 << 18)])
            sent += len(chunk)
            await stream.send_message(router_pb2.TaskExecStdioReadResponse(data=chunk))

    async def wait(request: Any) -> Any:
        code = await server.processes[request.exec_id].running.wait()
        return (
            router_pb2.TaskExecWaitResponse(code=code) if code >= 0 else router_pb2.TaskExecWaitResponse(signal=-code)
        )

    calls = {"TaskExecStart": start, "TaskExecStdinWrite": write, "TaskExecWait": wait}
    return _servicer(task_command_router_grpc.TaskCommandRouterBase, server, calls, {"TaskExecStdioRead": read})


def _servicer(base: Any, server: ModalServer, calls: dict[str, Any], streams: dict[str, Any]) -> Any:
    """An object of the wheel's abstract class that knows these calls and no others."""

    def unary(name: str, call: Any) -> Any:
        async def method(_: Any, stream: Any) -> None:
            request = await stream.recv_message()
            server.calls.append(name)
            if server.faults.get(name):
                raise grpclib.GRPCError(server.faults[name].popleft(), "a fault for the test")
            await stream.send_message(await call(request))

        return method

    def streaming(call: Any) -> Any:
        async def method(_: Any, stream: Any) -> None:
            await call(stream)

        return method

    async def unknown(_: Any, stream: Any) -> None:
        raise grpclib.GRPCError(grpclib.const.Status.UNIMPLEMENTED, "not in the test server")

    members: dict[str, Any] = dict.fromkeys(base.__abstractmethods__, unknown)
    members.update({name: unary(name, call) for name, call in calls.items()})
    members.update({name: streaming(call) for name, call in streams.items()})
    return type(base.__name__, (base,), members)()
