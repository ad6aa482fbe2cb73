"""The conformance suite against what runs here without a server; each other backend has it in its own test file."""

import sys

import pytest

from sandboxes import Sandbox, SandboxUnavailableError, make
from tests.sandboxes.conformance import SandboxConformance
from tests.sandboxes.contained import run_inside, why_not
from tests.sandboxes.unsafe import UnsafeSubprocessSandbox


def local(tier: str) -> Sandbox:
    pytest.importorskip("sandboxes.local")
    try:
        return make("local", tier=tier)
    except SandboxUnavailableError as error:
        pytest.skip(f"tier {tier}: {error}")


@pytest.fixture(scope="module")
def plain():
    with UnsafeSubprocessSandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def namespaces():
    with local("namespaces") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def landlock():
    with local("landlock") as sandbox:
        yield sandbox


class TestPlainPython(SandboxConformance):
    """That the suite asks for nothing but what Python does."""

    @pytest.fixture
    def sandbox(self, plain):
        return plain


class TestLocalNamespaces(SandboxConformance):
    @pytest.fixture
    def sandbox(self, namespaces):
        return namespaces

    def test_the_tier(self, sandbox):
        assert "namespaces" in sandbox.describe()


class TestLocalLandlock(SandboxConformance):
    @pytest.fixture
    def sandbox(self, landlock):
        return landlock

    def test_the_tier(self, sandbox):
        assert "landlock" in sandbox.describe()


def test_local_says_that_it_is_closed():
    sandbox = local("namespaces")
    sandbox.close()
    sandbox.close()
    with pytest.raises(RuntimeError):
        sandbox.run("")


@pytest.mark.slow
def test_local_as_an_ordinary_user():
    pytest.importorskip("sandboxes.local")
    if reason := why_not():
        pytest.skip(reason)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "TestLocal", __file__]
    done = run_inside(command, "nobody", seconds=240)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout[-2000:]
