"""The sampler against slow and simple ways to the same numbers."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from trainers.policy import Policy
from trainers.sampling import TorchSampler, torch_sampler
from trainers.sampling.torch_sampler import sample_tokens

STOP = 3
NO_SUCH_TOKEN = 10_000
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [5, 6, 30], [20], [12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23]]


def play(sampler: TorchSampler, *, turns=4, group_size=3, temperature=1.0, max_tokens=6, seed=0):
    """A session in which every row is fed a text of its own and leaves after a turn of its own.

    Returns the ledgers, which of their tokens were sampled, and the logprobs of these.
    """
    session = sampler.open(PROMPTS, group_size=group_size, seed=seed)
    rows = len(PROMPTS) * group_size
    ledgers = [list(PROMPTS[row // group_size]) for row in range(rows)]
    is_action = [[False] * len(ledger) for ledger in ledgers]
    logprobs: list[list[float]] = [[] for _ in range(rows)]
    feeds: dict[int, list[int]] = {row: [] for row in range(rows)}
    for turn in range(turns):
        for row, feed in feeds.items():
            ledgers[row] += feed
            is_action[row] += [False] * len(feed)
        completions = session.sample(feeds, max_tokens=max_tokens, temperature=temperature)
        assert completions.keys() == feeds.keys()
        for row, completion in completions.items():
            assert 1 <= len(completion.tokens) == len(completion.logprobs) <= max_tokens
            ledgers[row] += completion.tokens
            is_action[row] += [True] * len(completion.tokens)
            logprobs[row] += completion.logprobs
        # Rows leave from the front, the middle and the end; the others go on, in another order, with 0 to 4 tokens.
        staying = [row for row in feeds if (row * 7 + turn) % 4 != 0]
        feeds = {row: list(range(25, 25 + (row + turn) % 5)) for row in reversed(staying)}
    return ledgers, is_action, logprobs


def recompute(policy: Policy, ledgers, is_action, temperature) -> list[list[float]]:
    longest = max(map(len, ledgers))
    tokens = torch.tensor([ledger + [0] * (longest - len(ledger)) for ledger in ledgers])
    with torch.no_grad():
        logits = policy.logits(policy.hidden_states(tokens)) / temperature
    found = torch.log_softmax(logits[:, :-1], -1).gather(2, tokens[:, 1:, None])[..., 0]
    return [
        [float(found[i, t - 1]) for t, flag in enumerate(flags) if flag] for i, flags in enumerate(is_action)
    ]


def largest_gap(a: list[list[float]], b: list[list[float]]) -> float:
    assert [len(row) for row in a] == [len(row) for row in b]
    return max(abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", ["llama", "gqa"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.25)])
def test_sampled_logprobs_are_those_of_the_final_ledger(folders, load_policy, attention, model, dtype, tolerance):
    policy = load_policy(folders[model], attention=attention, dtype=dtype)
    sampler = TorchSampler(policy, stop_tokens=[STOP, 7])
    for temperature in (1.0, 0.7):
        ledgers, is_action, logprobs = play(sampler, temperature=temperature)
        ends = {sum(flags) for flags in is_action}
        assert len(ends) > 3, "rows should end at different times"
        expected = recompute(policy, ledgers, is_action, temperature)
        assert largest_gap(logprobs, expected) < tolerance
    wrong = recompute(policy, ledgers, is_action, 1.0)  # the test can tell temperatures apart
    assert largest_gap(logprobs, wrong) > 2 * tolerance


def test_positions_from_a_table_are_never_overrun(folders, load_policy):
    # GPT-2 looks positions up. A row near the end of its context must not be asked for those of its padding.
    policy = load_policy(folders["gpt2"])
    session = TorchSampler(policy, stop_tokens=[STOP]).open([list(range(5, 31)), [20]])
    first = session.sample({0: [], 1: []}, max_tokens=2)
    feed = list(range(12, 24))
    second = session.sample({0: [30], 1: feed}, max_tokens=2)
    ledger = [20, *first[1].tokens, *feed, *second[1].tokens]
    is_action = [False] + [True] * len(first[1].tokens) + [False] * 12 + [True] * len(second[1].tokens)
    [expected] = recompute(policy, [ledger], [is_action], 1.0)
    assert first[1].logprobs + second[1].logprobs == pytest.approx(expected, abs=1e-4)


def test_a_long_multi_turn_session_with_a_table_of_positions(folders, load_policy):
    policy = load_policy(folders["gpt2"])
    ledgers, is_action, logprobs = play(TorchSampler(policy, stop_tokens=[STOP]), turns=2, max_tokens=4)
    assert largest_gap(logprobs, recompute(policy, ledgers, is_action, 1.0)) < 1e-4


def naive_greedy(model: Any, prompt: list[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    with torch.no_grad():
        while len(tokens) < len(prompt) + max_tokens:
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == STOP:
                break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("model", ["llama", "gqa", "gpt2"])
def test_greedy_rows_together_equal_each_row_alone(folders, load_policy, model):
    policy = load_policy(folders[model])
    sampler = TorchSampler(policy, stop_tokens=[STOP])
    together = sampler.open(PROMPTS).sample(dict.fromkeys(range(5), ()), max_tokens=12, temperature=0.0)
    for row, prompt in enumerate(PROMPTS):
        alone = sampler.open([prompt]).sample({0: ()}, max_tokens=12, temperature=0.0)[0]
        assert together[row].tokens == alone.tokens == naive_greedy(policy.model, prompt, 12)
        # Greedy logprobs are those of the policy at temperature 1.
        ledger = prompt + alone.tokens
        [expected] = recompute(policy, [ledger], [[False] * len(prompt) + [True] * len(alone.tokens)], 1.0)
        assert together[row].logprobs == pytest.approx(expected, abs=1e-4)


def test_greedy_equals_generate_of_transformers(folders, load_policy):
    policy = load_policy(folders["llama"], adapter_scale=0.0)
    completions = (
        TorchSampler(policy, stop_tokens=[STOP])
        .open(PROMPTS)
        .sample(dict.fromkeys(range(5), ()), max_tokens=10, temperature=0.0)
    )
    base: Any = AutoModelForCausalLM.from_pretrained(str(folders["llama"]), dtype=torch.float32)
    for row, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt])
        mask = torch.ones_like(tokens)
        out = base.generate(tokens, attention_mask=mask, max_new_tokens=10, do_sample=False, eos_token_id=STOP)
        assert completions[row].tokens == out[0, len(prompt) :].tolist()


def test_greedy_over_turns_does_not_depend_on_the_company(folders, load_policy):
    sampler = TorchSampler(load_policy(folders["gqa"]), stop_tokens=[STOP])
    ledgers, _, logprobs = play(sampler, temperature=0.0, group_size=2)
    for row, ledger in enumerate(ledgers):
        session = sampler.open([PROMPTS[row // 2]])
        tokens, found = list(PROMPTS[row // 2]), []
        for turn in range(4):
            if turn and ((row * 7 + turn - 1) % 4 == 0):
                break
            feed = [] if turn == 0 else list(range(25, 25 + (row + turn - 1) % 5))
            completion = session.sample({0: feed}, max_tokens=6, temperature=0.0)[0]
            tokens += feed + completion.tokens
            found += completion.logprobs
        assert tokens == ledger
        assert found == pytest.approx(logprobs[row], abs=1e-4)


def test_equal_prompts_are_computed_once(folders, load_policy, monkeypatch):
    policy = load_policy(folders["llama"])
    shapes = []
    inner = policy.decoder

    def counting(**options):
        shapes.append(tuple(options["input_ids"].shape))
        return inner(**options)

    monkeypatch.setattr(policy, "decoder", counting)
    sampler = TorchSampler(policy, stop_tokens=[STOP])
    session = sampler.open([[5, 6, 7], [8, 9, 10], [5, 6, 7]], group_size=4)
    assert shapes == [(2, 3)]
    shapes.clear()
    session.sample(dict.fromkeys(range(12), ()), max_tokens=1)
    assert shapes == []  # the first token is sampled from what the prompt left


def test_long_prompts_are_computed_in_slices(folders, load_policy, monkeypatch):
    sampler = TorchSampler(load_policy(folders["gqa"]), stop_tokens=[STOP])
    whole = play(sampler, turns=2)
    monkeypatch.setattr(torch_sampler, "_PREFILL_TOKENS", 22)  # two rows of the longest prompt's 11 tokens
    sliced = play(sampler, turns=2)
    assert sliced[:2] == whole[:2]
    assert largest_gap(sliced[2], whole[2]) < 1e-5


def test_a_row_left_out_waits(folders, load_policy):
    """Whoever spoke in between, a row continues as if it had been alone."""
    sampler = TorchSampler(load_policy(folders["llama"]), stop_tokens=[NO_SUCH_TOKEN])
    alone = sampler.open([[6, 7]])
    first, second = (alone.sample({0: feed}, max_tokens=3, temperature=0.0)[0] for feed in ([], [8, 9]))
    session = sampler.open([[5], [6, 7], [7]])
    begun = session.sample({0: [], 1: [], 2: []}, max_tokens=3, temperature=0.0)
    session.sample({2: [8], 0: [4, 4, 4]}, max_tokens=5)
    session.sample({2: [9]}, max_tokens=2)
    continued = session.sample({2: [8], 1: [8, 9]}, max_tokens=3, temperature=0.0)
    assert (begun[1].tokens, continued[1].tokens) == (first.tokens, second.tokens)
    assert continued[1].logprobs == pytest.approx(second.logprobs, abs=1e-5)
    with pytest.raises(KeyError, match=r"there are no rows \[7\]"):
        session.sample({7: [8]}, max_tokens=2)


def test_rows_can_be_added_while_others_are_under_way(folders, load_policy):
    sampler = TorchSampler(load_policy(folders["llama"]), stop_tokens=[NO_SUCH_TOKEN])
    late = [[10, 11, 12], [13], [10, 11, 12]]
    alone = sampler.open(late).sample({0: [], 1: [], 2: []}, max_tokens=4, temperature=0.0)
    session = sampler.open([[5], [6, 7]])
    session.sample({0: [], 1: []}, max_tokens=9, temperature=0.0)
    rows = session.add(late)
    assert list(rows) == [2, 3, 4]
    together = session.sample({3: [], 1: [8], 2: [], 4: []}, max_tokens=4, temperature=0.0)  # old and new in one pass
    for row, expected in alone.items():
        assert together[rows[row]].tokens == expected.tokens
        assert together[rows[row]].logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    again = sampler.open([[6, 7]])
    first = again.sample({0: []}, max_tokens=9, temperature=0.0)
    assert first[0].stop_reason == "length"
    assert together[1].tokens == again.sample({0: [8]}, max_tokens=4, temperature=0.0)[0].tokens
    with pytest.raises(ValueError, match="at least one token"):
        session.add([[]])


def test_rows_may_be_left_out_from_the_start(folders, load_policy):
    sampler = TorchSampler(load_policy(folders["llama"]), stop_tokens=[STOP])
    whole = sampler.open(PROMPTS).sample(dict.fromkeys(range(5), ()), max_tokens=6, temperature=0.0)
    some = sampler.open(PROMPTS).sample({4: (), 2: ()}, max_tokens=6, temperature=0.0)
    assert some.keys() == {4, 2}
    for row, completion in some.items():
        assert completion.tokens == whole[row].tokens
        assert completion.logprobs == pytest.approx(whole[row].logprobs, abs=1e-5)


def test_the_context_ends_only_the_rows_that_fill_it(folders, load_policy):
    sampler = TorchSampler(load_policy(folders["llama"]), stop_tokens=[NO_SUCH_TOKEN], context_length=16)
    prompts = [list(range(5, 18)), [5, 6], list(range(5, 20))]  # 13, 2 and 15 tokens
    session = sampler.open(prompts)
    completions = session.sample({0: [], 1: [], 2: []}, max_tokens=8)
    assert [len(completions[row].tokens) for row in range(3)] == [3, 8, 1]
    assert [completions[row].stop_reason for row in range(3)] == ["length"] * 3
    later = session.sample({1: [30, 31]}, max_tokens=8)[1]
    assert (len(later.tokens), later.stop_reason) == (4, "length")  # 2 + 8 + 2 + 4 = 16


def test_a_prompt_that_fills_the_context_is_refused(folders, load_policy):
    policy = load_policy(folders["llama"])
    with pytest.raises(ValueError, match="16 tokens leaves no room in 16"):
        TorchSampler(policy, stop_tokens=[STOP], context_length=16).open([[5], list(range(5, 21))])
    with pytest.raises(ValueError, match="128"):  # the default is the model's own limit
        TorchSampler(policy, stop_tokens=[STOP]).open([[5] * 128])


def test_a_stop_token_ends_the_turn_and_belongs_to_it(folders, load_policy):
    policy = load_policy(folders["llama"])
    free = TorchSampler(policy, stop_tokens=[NO_SUCH_TOKEN]).open([[5, 6, 7]])
    tokens = free.sample({0: []}, max_tokens=10, temperature=0.0)[0].tokens
    assert len(tokens) == 10
    stop = tokens[4]
    first = tokens.index(stop) + 1
    sampler = TorchSampler(policy, stop_tokens=[NO_SUCH_TOKEN, stop])
    for max_tokens in (10, first):  # a stop token that is also the last that max_tokens allows is a stop
        found = sampler.open([[5, 6, 7]]).sample({0: []}, max_tokens=max_tokens, temperature=0.0)[0]
        assert (found.tokens, found.stop_reason) == (tokens[:first], "stop")


def test_the_seed_decides(folders, load_policy):
    sampler = TorchSampler(load_policy(folders["llama"]), stop_tokens=[STOP])
    assert play(sampler, seed=5) == play(sampler, seed=5)
    assert play(sampler, seed=5)[0] != play(sampler, seed=6)[0]


def test_tries_of_one_group_differ(folders, load_policy):
    session = TorchSampler(load_policy(folders["llama"]), stop_tokens=[NO_SUCH_TOKEN]).open([[5]], group_size=8)
    completions = session.sample(dict.fromkeys(range(8), ()), max_tokens=8)
    assert len({tuple(c.tokens) for c in completions.values()}) == 8


def test_an_update_of_the_policy_is_seen_at_once(folders, load_policy):
    policy = load_policy(folders["llama"])
    sampler = TorchSampler(policy, stop_tokens=[STOP])
    before = sampler.open([[5, 6]]).sample({0: []}, max_tokens=5)[0].logprobs
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.mul_(1.5)
    assert sampler.open([[5, 6]]).sample({0: []}, max_tokens=5)[0].logprobs != before


@pytest.mark.parametrize("prompts", [[], [[]], [[5], []]])
def test_empty_prompts_are_refused(folders, load_policy, prompts):
    with pytest.raises(ValueError, match="at least one token"):
        TorchSampler(load_policy(folders["llama"]), stop_tokens=[STOP]).open(prompts)


def test_wrong_use_is_refused(folders, load_policy):
    policy = load_policy(folders["llama"])
    with pytest.raises(ValueError, match="stop_tokens is empty"):
        TorchSampler(policy, stop_tokens=[])
    session = TorchSampler(policy, stop_tokens=[STOP]).open([[5], [6]])
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        session.sample({0: [], 1: []}, max_tokens=0)


def draw(logits: Tensor, count: int, **options: Any) -> list[int]:
    tokens, logprobs = sample_tokens(logits.expand(count, -1), generator=torch.Generator().manual_seed(0), **options)
    assert torch.isfinite(logprobs).all()
    return [int(token) for token in tokens]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_those_of_softmax(temperature):
    logits = torch.tensor([[1.0, -torch.inf, 0.0, -1.0, 2.5, -3.0, -torch.inf]])
    count = 40_000
    found = Counter(draw(logits, count, temperature=temperature))
    expected = (logits[0].double() / temperature).softmax(-1) * count
    assert found[1] == found[6] == 0
    chi_square = sum((found[i] - float(e)) ** 2 / float(e) for i, e in enumerate(expected) if e > 0)
    assert chi_square < 18.5  # 4 degrees of freedom: 99.9 %


def test_what_has_probability_zero_is_never_drawn(monkeypatch):
    # Whatever uniform numbers come, the least and the greatest among them.
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.3, -200.0, -torch.inf]])
    for uniform in (0.0, 1e-45, 0.4255, 0.5, 1.0 - 2**-24, 1.0):
        monkeypatch.setattr(torch, "rand", lambda size, u=uniform, **_: torch.full(size, u))
        token, logprob = sample_tokens(logits)
        assert int(token) in (1, 3)
        assert logprob.item() == pytest.approx(logits.log_softmax(-1)[0, int(token)].item())


def test_temperature_zero_takes_the_most_probable():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.0]])
    tokens, logprobs = sample_tokens(logits, temperature=0.0)
    assert tokens.tolist() == [1, 0]
    first = 2 - math.log(1 + math.e**2 + math.e)
    second = -math.log(1 + math.e**-6 + math.e**-1)
    assert logprobs.tolist() == pytest.approx([first, second], abs=1e-6)


def test_logprobs_are_those_at_the_temperature():
    tokens, logprobs = sample_tokens(torch.tensor([[2.0, 0.0]]), temperature=0.5)
    expected = [-math.log(1 + math.exp(-4)), -4 - math.log(1 + math.exp(-4))]
    assert logprobs.item() == pytest.approx(expected[int(tokens)], abs=1e-6)


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature must not be negative, not -1"):
        sample_tokens(torch.zeros(1, 2), temperature=-1.0)


@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0, 100.0])
def test_extreme_logits(temperature):
    logits = torch.full((1, 50_000), -1e4)
    logits[0, 31_000] = 1e4
    assert set(draw(logits, 20, temperature=temperature)) == {31_000}
    only = torch.full((1, 5), -torch.inf)
    only[0, 4] = -1e4
    assert set(draw(only, 100, temperature=temperature)) == {4}


def test_a_large_vocabulary_is_sampled_to_its_ends():
    # Half of the mass stands in the very last entry, behind 50,000 that share the rest.
    logits = torch.zeros(1, 50_001)
    logits[0, -1] = math.log(50_000)
    drawn = draw(logits, 300)
    assert 110 < drawn.count(50_000) < 190
    assert min(drawn) < 5_000
