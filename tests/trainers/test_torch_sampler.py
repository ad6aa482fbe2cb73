"""The sampler against slow and simple ways to the same numbers."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainers.sampled import NO_SUCH_TOKEN, PROMPTS, STOP, Watched, largest_gap, mean_gap, play, recompute
from trainers.sampling import TorchSampler, torch_sampler


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", ["llama", "gqa", "gpt2", "mistral", "qwen2", "qwen3"])
def test_sampled_logprobs_are_those_of_the_final_ledger(family_folder, load_policy, family, fused):
    policy = load_policy(family_folder(family))
    sampler = TorchSampler(policy, stop_tokens=[STOP, 7])
    assert (sampler.fused is None) == (family == "gpt2")
    if not fused:
        sampler.fused = None
    turns = 2 if family == "gpt2" else 4  # its table of positions is short
    for temperature in (1.0, 0.7):
        ledgers, is_action, logprobs = play(sampler, temperature=temperature, turns=turns)
        ends = {sum(flags) for flags in is_action}
        assert len(ends) > 3, "rows should end at different times"
        expected = recompute(policy, ledgers, is_action, temperature)
        assert largest_gap(logprobs, expected) < 1e-4
    wrong = recompute(policy, ledgers, is_action, 1.0)  # the test can tell temperatures apart
    assert largest_gap(logprobs, wrong) > 0.1


@pytest.mark.parametrize("family", ["llama", "gqa", "gpt2", "qwen3"])
def test_in_bfloat16_they_are_as_near_as_transformers_own_are(family_folder, load_policy, family):
    # In bfloat16 single logprobs of two kernels differ by 0.3 and more: what must not be larger is the mean distance
    # from float32.
    policy, exact = (load_policy(family_folder(family), dtype=dtype) for dtype in ("bfloat16", "float32"))
    with torch.no_grad():
        for theirs, ours in zip(exact.model.parameters(), policy.model.parameters(), strict=True):
            theirs.copy_(ours)
    ledgers, is_action, logprobs = play(
        TorchSampler(policy, stop_tokens=[STOP, 7]), turns=2 if family == "gpt2" else 4, group_size=6
    )
    expected = recompute(exact, ledgers, is_action, 1.0)
    noise = []
    for kernel in ("sdpa", "eager"):
        with policy.attention(kernel):
            noise.append(mean_gap(recompute(policy, ledgers, is_action, 1.0), expected))
    assert 0.0 < mean_gap(logprobs, expected) < 1.4 * max(noise)


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


def test_equal_prompts_are_computed_once(folders, load_policy):
    watched = Watched(load_policy(folders["llama"]))
    session = watched.sampler.open([[5, 6, 7], [8, 9, 10], [5, 6, 7]], group_size=4)
    assert watched.shapes == []  # nobody has asked yet
    session.sample(dict.fromkeys(range(12), ()), max_tokens=1)
    assert watched.shapes == [(2, 3)]  # and the first token is sampled from what the prompt left


def test_what_rows_are_told_is_computed_in_slices(folders, load_policy, monkeypatch):
    watched = Watched(load_policy(folders["gqa"]), stop_tokens=[NO_SUCH_TOKEN])
    found = []
    for limit in (16_384, 13):
        monkeypatch.setattr(torch_sampler, "_PREFILL_TOKENS", limit)
        session = watched.sampler.open([[5], [6], [7], [8]])
        session.sample({row: [] for row in range(4)}, max_tokens=2)
        watched.shapes.clear()
        found.append(session.sample({row: list(range(10, 11 + row)) for row in range(4)}, max_tokens=2))
        assert watched.shapes[:-1] == ([(4, 5)] if limit > 13 else [(2, 3), (2, 5)])
    for row in range(4):
        assert found[0][row].tokens == found[1][row].tokens
        assert found[0][row].logprobs == pytest.approx(found[1][row].logprobs, abs=1e-5)


def test_top_p_and_top_k_cut_what_is_said_and_not_what_it_is_worth(folders, load_policy):
    policy = load_policy(folders["llama"])
    session = TorchSampler(policy, stop_tokens=[NO_SUCH_TOKEN]).open([[5, 6]], group_size=30)
    found = session.sample(dict.fromkeys(range(30), ()), max_tokens=3, top_k=2)
    ledgers = [[5, 6, *found[row].tokens] for row in range(30)]
    flags = [[False, False, True, True, True]] * 30
    assert largest_gap([found[row].logprobs for row in range(30)], recompute(policy, ledgers, flags, 1.0)) < 1e-4
    with torch.no_grad():
        best = policy.logits(policy.hidden_states(torch.tensor(ledgers))).topk(2, dim=-1).indices
    for row, ledger in enumerate(ledgers):
        assert all(ledger[t] in best[row, t - 1] for t in (2, 3, 4))
    greedy = session.sample({0: [7], 1: [7]}, max_tokens=3, top_p=1e-9)
    assert greedy[0].logprobs != []


def test_it_says_how_far_it_is(folders, load_policy, monkeypatch):
    monkeypatch.setattr(torch_sampler, "_STEPS_UNTOLD", 2)
    session = TorchSampler(load_policy(folders["llama"]), stop_tokens=[NO_SUCH_TOKEN]).open([[5], [6]])
    told: list[float] = []
    session.sample({0: [], 1: []}, max_tokens=4, progress=told.append)
    assert told == pytest.approx([1.0, 2.0])  # rows: two that are half done, then both


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


def test_another_policy_s_adapter_is_taken_over(folders, load_policy):
    policy = load_policy(folders["llama"])
    twin = policy.twin()
    mine, theirs = (TorchSampler(p, stop_tokens=[STOP]) for p in (policy, twin))

    def said(sampler: TorchSampler) -> list[float]:
        return sampler.open([[5, 6]]).sample({0: []}, max_tokens=5)[0].logprobs

    before = said(mine)
    assert said(theirs) == pytest.approx(before, abs=1e-5)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.mul_(1.5)
    after = said(mine)
    assert said(theirs) == pytest.approx(before, abs=1e-5)
    assert after != pytest.approx(before, abs=1e-3)
    theirs.load_adapter(policy)
    mine.load_adapter(policy)
    assert said(theirs) == pytest.approx(after, abs=1e-5)
    assert said(mine) == after
    assert mine.shares_weights


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
    with pytest.raises(KeyError, match=r"there are no rows \[-1\]"):
        session.sample({-1: []}, max_tokens=2)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        session.sample({0: [], 1: []}, max_tokens=0)
