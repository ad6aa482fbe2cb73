"""Running programs that nobody trusts: local, Docker, SandboxFusion and Modal behind one protocol.

Importable alone: it knows nothing of environments or trainers.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sandboxes.base import MAX_OUTPUT_BYTES, Job, RunResult, Sandbox, SandboxUnavailableError, Session, Status

__all__ = [
    "BACKENDS",
    "MAX_OUTPUT_BYTES",
    "Job",
    "RunResult",
    "Sandbox",
    "SandboxUnavailableError",
    "Session",
    "Status",
    "make",
]

BACKENDS = {
    "local": "sandboxes.local:LocalSandbox",
    "docker": "sandboxes.docker:DockerSandbox",
    "fusion": "sandboxes.fusion:FusionSandbox",
    "modal": "sandboxes.modal:ModalSandbox",
}
_AUTO: tuple[tuple[str, dict[str, Any]], ...] = (
    ("local", {"tier": "namespaces"}),
    ("docker", {}),
    ("local", {"tier": "landlock"}),
)
"""What needs no account and no server, the strongest first."""


def make(name: str = "auto", **options: Any) -> Sandbox:
    """Make a sandbox.

    Args:
        name: A key of `BACKENDS`, or ``auto``, the strongest that works here: local in namespaces, docker, local behind
            Landlock. `Sandbox.describe` says which.
        **options: Of the backend's class; of ``auto``, those that both local and docker have.

    Raises:
        ValueError: If the name is not known.
        SandboxUnavailableError: If it cannot be had here; of ``auto``, with the reason of each.
    """
    if name != "auto":
        return _backend(name)(**options)
    reasons = []
    for candidate, strength in _AUTO:
        try:
            return _backend(candidate)(**strength, **options)
        except SandboxUnavailableError as error:
            reasons.append(f"{candidate}: {error}")
    raise SandboxUnavailableError("no sandbox works here; " + "; ".join(reasons))


def _backend(name: str) -> Callable[..., Sandbox]:
    if name not in BACKENDS:
        raise ValueError(f"unknown sandbox {name!r}; known: auto, {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    found: Callable[..., Sandbox] = getattr(import_module(module), attribute)
    return found
