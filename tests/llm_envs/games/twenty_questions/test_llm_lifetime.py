import copy
import json
import multiprocessing
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llm_envs.games.twenty_questions import TwentyQuestionsEnv
from llm_envs.games.twenty_questions.answerers.answer_cache import AnswerCache
from llm_envs.games.twenty_questions.answerers.answers import Answer
from llm_envs.games.twenty_questions.answerers.llm_answerer import LlmAnswerer, shared_answerer
from llm_envs.games.twenty_questions.knowledge import load_knowledge
from tests.llm_envs.games.twenty_questions.chat_server import Fake, by_length, no_threads, serving

HERE = "tests.llm_envs.games.twenty_questions.chat_server"
ELEPHANT: Any = load_knowledge().find("elephant")


def test_equal_arguments_share_an_answerer_and_the_last_one_closes_it():
    args = {"backend": f"{HERE}:Fake", "model": "m"}
    envs = [TwentyQuestionsEnv(answerer="llm", answerer_args=dict(args)) for _ in range(3)]
    other = TwentyQuestionsEnv(answerer="llm", answerer_args={**args, "max_batch": 5})
    for env in (*envs, other):
        env.reset(seed=0)
        env.step("Is it alive?")
    first, second, third = [env._answerer for env in envs]
    assert first is second is third is shared_answerer(args)
    assert other._answerer is not first
    assert isinstance(first, LlmAnswerer)
    backend: Any = first._backend
    assert backend.asked == 1
    del first, second, third
    for env in (*envs[:2], other):
        env.close()
    assert (backend.closed, no_threads()) == (0, False)
    envs[2].close()
    assert no_threads()
    assert backend.closed == 1
    observation = envs[0].step("Is it alive?")[0]  # opened again
    assert (observation, backend.asked) == ("Yes.", 1)
    del envs[0]  # never closed
    assert no_threads()


def test_closing():
    answerer = LlmAnswerer(backend=Fake())
    answerer.answer(ELEPHANT, "a")
    answerer.close()
    answerer.close()
    assert no_threads()
    with pytest.raises(RuntimeError, match="this answerer is closed"):
        answerer.answer(ELEPHANT, "a")


def test_closing_leaves_nobody_waiting():
    answerer = LlmAnswerer(backend=Fake(lambda question: "yes", 0.3))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(answerer.answer, ELEPHANT, "a")
        time.sleep(0.1)
        second = threads.submit(answerer.answer, ELEPHANT, "b")
        time.sleep(0.05)
        answerer.close()
        assert first.result() is Answer.YES
        with pytest.raises(RuntimeError, match="closed"):
            second.result()


def test_copies_share_it_and_pickles_make_it_anew():
    backend = Fake()
    answerer = LlmAnswerer(backend=backend)
    env = TwentyQuestionsEnv(answerer=answerer)
    env.reset(seed=0)
    assert copy.deepcopy(env)._answerer is answerer
    answerer.close()
    with serving(by_length) as server:
        first = LlmAnswerer(base_url=server.url, model="m", max_batch=7)
        first.answer(ELEPHANT, "abcd")
        second = pickle.loads(pickle.dumps(first))
        assert second.answer(ELEPHANT, "abcd") is Answer.YES
        assert len(server.bodies) == 2
        first.close()
        second.close()


def _ask_in_child(answerer, env, pipe) -> None:
    pipe.send([answerer.answer(ELEPHANT, "abcd"), answerer.answer(ELEPHANT, "abcde"), env.step("abcdefgh")[0]])


def test_a_forked_process_starts_a_thread_of_its_own():
    with serving(by_length) as server:
        answerer = LlmAnswerer(base_url=server.url, model="m")
        env = TwentyQuestionsEnv(answerer=answerer)
        env.reset(seed=0)
        env.step("abcd")
        answerer.answer(ELEPHANT, "abcd")
        ours, theirs = multiprocessing.Pipe()
        with warnings.catch_warnings():  # from Python 3.12 on, forking a process with threads warns
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            child = multiprocessing.get_context("fork").Process(
                target=_ask_in_child, args=(answerer, env, theirs), daemon=True
            )
            with answerer._lock, answerer._cache._lock:  # as a thread may hold them at that moment
                child.start()
        assert ours.poll(20)
        assert ours.recv() == [Answer.YES, Answer.NO, "Yes."]
        child.join()
        assert answerer.answer(ELEPHANT, "abcdef") is Answer.UNANSWERABLE
        ours.close()
        theirs.close()
        answerer.close()


# --- The file ---


def test_answers_are_kept_in_a_file(tmp_path):
    file = tmp_path / "answers.jsonl"
    with serving(by_length) as server:
        for run in range(2):
            answerer = LlmAnswerer(base_url=server.url, model="m", cache_file=file)
            found = [answerer.answer(ELEPHANT, question) for question in ("abcd", "abcde", "ab \N{SNOWMAN}x")]
            answerer.close()
            assert found == [Answer.YES, Answer.NO, Answer.NO]
            assert len(server.bodies) == 3, run
            if run == 0:
                whole = file.read_bytes()
                assert whole.count(b"\n") == 3
                rows = [json.loads(line) for line in whole.splitlines()]
                assert {**rows[0], "by": ""} == {"by": "", "secret": "elephant", "question": "abcd", "answer": "YES"}
                file.write_bytes(b'\xff\n{"by": 5}\n[]\n{"by"\n' + whole + whole[:20])  # the last line was cut short
        other = LlmAnswerer(base_url=server.url, model="another", cache_file=file)
        other.answer(ELEPHANT, "abcd")
        other.close()
        assert len(server.bodies) == 4
        for extra, asked in (({"timeout_seconds": 5.0, "api_key": "k"}, 4), ({"extra_body": {"seed": 1}}, 5)):
            same = LlmAnswerer(base_url=server.url, model="m", cache_file=file, **extra)
            same.answer(ELEPHANT, "abcd")
            same.close()
            assert len(server.bodies) == asked, extra
    assert len(AnswerCache(rows[0]["by"], file=file)) == 3
    assert json.loads(file.read_bytes().splitlines()[-2])["by"].startswith("another ")


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    cache = AnswerCache("m", file=folder / "answers.jsonl")
    folder.rmdir()
    cache.put(("cat", "a"), Answer.NO)
    cache.put(("cat", "b"), Answer.NO)
    assert cache.get(("cat", "a")) is Answer.NO
    assert caplog.text.count("answers are no longer kept in") == 1


def test_many_processes_may_write_one_file(tmp_path):
    file = tmp_path / "answers.jsonl"
    caches = [AnswerCache("m", file=file) for _ in range(8)]

    def write(number) -> None:
        for n in range(50):
            caches[number].put((f"secret {number}", "x" * 400 + str(n)), Answer.YES)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert len(AnswerCache("m", file=file)) == 400


# --- Arguments ---


@pytest.mark.parametrize(
    ("args", "error", "said"),
    [
        (None, ValueError, r"answerer='llm' needs answerer_args: \{'base_url'"),
        ({}, ValueError, "needs answerer_args"),
        ({"model": "m"}, ValueError, "needs answerer_args"),
        (5, TypeError, "answerer_args must be a mapping, got 5"),
        ({"base_url": "localhost", "model": "m"}, ValueError, "base_url must begin with http"),
        ({"base_url": "http://h/v1"}, TypeError, "'model'"),
        ({"base_url": "http://h/v1", "model": "m", "temperature": 1}, TypeError, "'temperature'"),
        ({"backend": "trainers"}, ValueError, "backend must be 'module:Class', got 'trainers'"),
        ({"backend": "a:"}, ValueError, "backend must be 'module:Class'"),
        ({"backend": 5}, TypeError, "backend must be 'module:Class' or have answer_many"),
        ({"backend": Fake(), "model": "m"}, TypeError, r"takes no arguments, got \['model'\]"),
        ({"backend": "a:B", "cache_size": 0}, ValueError, "cache_size must be an int of at least 1"),
        ({"backend": "a:B", "max_batch": "5"}, ValueError, "max_batch must be an int of at least 1"),
        ({"backend": "a:B", "cache_file": "/no/such/folder/file"}, ValueError, "there is no folder /no/such/folder"),
    ],
)
def test_bad_arguments(args, error, said):
    with pytest.raises(error, match=said):
        TwentyQuestionsEnv(answerer="llm", answerer_args=args)


def test_a_backend_that_is_not_there():
    for backend, said in (("no_such_module:A", "no_such_module"), (f"{HERE}:Nobody", "has no Nobody")):
        env = TwentyQuestionsEnv(answerer="llm", answerer_args={"backend": backend})  # nothing is imported yet
        env.reset(seed=0)
        with pytest.raises(ImportError, match=said):
            env.step("Is it alive?")
