"""An image for the docker backend with no registry: a root file system made of the running Python."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

__all__ = ["IMAGE_PYTHON", "REPOSITORY", "content_hash", "image_files", "write_tar"]

REPOSITORY = "llm-envs-sandbox"
IMAGE_PYTHON = "/usr/local/bin/python3"
_PREFIX = PurePosixPath("usr/local")
_LIBRARIES = PurePosixPath("usr/local/lib/needed")
# Large, or of no use without a screen, a network or a compiler.
# fmt: off
_LEFT_OUT = frozenset((
    "test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3", "distutils", "pydoc_data",
    "site-packages", "dist-packages",
))
# fmt: on
_LEFT_OUT_MODULES = re.compile(r"(_tkinter|_test\w*|_ctypes_test|xx\w*|nis|readline|ossaudiodev)\.")
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/work:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
# A tmpfs takes the mode of the folder that it covers.
_FOLDERS = {"dev": 0o755, "etc": 0o755, "proc": 0o755, "sys": 0o755, "work": 0o1777}
_NEEDED = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


def image_files(packages: Sequence[str] = ()) -> dict[str, Path | bytes]:
    """Paths in the image to files of this machine, or to contents.

    Args:
        packages: Importable packages of this Python to add, such as ``numpy``; what they import must be named, too.

    Raises:
        ModuleNotFoundError: If a package is not installed.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    home = _PREFIX / sys.platlibdir / version if (stdlib.parent.name == sys.platlibdir) else _PREFIX / "lib" / version
    files: dict[str, Path | bytes] = {}
    for path in _walk(stdlib):
        files[str(home / path.relative_to(stdlib))] = path
    dynload = Path(sysconfig.get_config_var("DESTSHARED") or stdlib / "lib-dynload")
    for path in _walk(dynload):  # Under another root on some systems.
        files[str(home / "lib-dynload" / path.name)] = path
    for package in packages:
        for root, path in _package(package):
            files[str(_PREFIX / "lib" / version / "site-packages" / path.relative_to(root))] = path
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    binaries = [executable, *(path for path in files.values() if isinstance(path, Path) and ".so" in path.suffixes)]
    files[IMAGE_PYTHON.lstrip("/")] = executable
    own = {path.name for path in files.values() if isinstance(path, Path)}
    files.update({name: path for name, path in _needed(binaries).items() if path.name not in own})
    files.update({name: text.encode() for name, text in _TEXTS.items()})
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("config-"))
        for name in sorted(names):
            if name in _LEFT_OUT or _LEFT_OUT_MODULES.match(name) or name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a")):
                continue
            path = Path(parent, name)
            if path.is_file():
                yield path


def _package(name: str) -> Iterator[tuple[Path, Path]]:
    """The files of an installed package or module, each with the folder that it was found in."""
    spec = importlib.util.find_spec(name)
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise ModuleNotFoundError(f"no package {name!r} to put into the image", name=name)
    if not spec.submodule_search_locations:
        path = Path(str(spec.origin))
        yield path.parent, path
        return
    for location in spec.submodule_search_locations:
        # Wheels keep the shared libraries that they bring along in a folder beside the package.
        for folder in (Path(location), Path(location).with_name(f"{name}.libs")):
            for path in _walk(folder):
                yield folder.parent, path


def _needed(binaries: Sequence[Path]) -> dict[str, Path]:
    """The shared libraries that binaries need, and the program that loads them, which must keep its place."""
    text = subprocess.run(
        ["ldd", *map(str, binaries)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout
    found: dict[str, Path] = {}
    for name, path in _NEEDED.findall(text):
        place = str(_LIBRARIES / PurePosixPath(name).name) if name and not name.startswith("/") else path.lstrip("/")
        found[place] = Path(path).resolve()
    return found


def content_hash(files: dict[str, Path | bytes]) -> str:
    """A hash of names and contents, the tag of the image."""
    digest = hashlib.sha256(b"2")  # Raise it when `write_tar` changes.
    for name, source in sorted(files.items()):
        content = source if isinstance(source, bytes) else source.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def write_tar(files: dict[str, Path | bytes], target: IO[bytes]) -> None:
    """Write the root file system: all of it root's, readable by all, writable by none."""
    folders = {str(parent): 0o755 for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    folders.update(_FOLDERS)
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, folders[name]
            tar.addfile(entry)
        link = tarfile.TarInfo("tmp")
        link.type, link.linkname = tarfile.SYMTYPE, "work"
        tar.addfile(link)
        for name, source in sorted(files.items()):
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            # Compiled modules count as stale when their source's time has changed.
            entry.mtime = 0 if isinstance(source, bytes) else int(source.stat().st_mtime)
            tar.addfile(entry, io.BytesIO(content))
