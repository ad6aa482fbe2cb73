"""Each sentence is said of a history that deserves it, and none of one that does not."""

import math
from typing import Any

import pytest

from trainers.logs.advice import PATIENCE, STILL, Adviser, advice, findings

HEALTHY = {
    "return_mean": 0.5, "verdict_correct": 0.5, "verdict_unparsed": 0.05, "constant_groups_share": 0.4,
    "token_limit_share": 0.05,
    "truncated_share": 0.05, "unscorable_share": 0.0, "broken_share": 0.01, "entropy": 0.8, "kl": 0.02,
    "grad_norm": 0.1, "loss": -0.01, "logprob_gap": 0.01, "clipped_share": 0.02, "correction_share": 0.01,
    "env_seconds": 2.0, "seconds": 10.0,
}  # fmt: skip


def history(updates: int = 6, /, **last: Any) -> list[dict[str, float]]:
    """Healthy updates that end as told: a number for the last five, a list for as many as it has."""
    rows = [dict(HEALTHY) for _ in range(updates)]
    for name, values in last.items():
        ending = values if isinstance(values, list) else [values] * min(5, updates)
        for row, value in zip(rows[-len(ending) :], ending, strict=True):
            row[name] = value
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{}],
        history(1),
        history(40),
        history(80, return_mean=[0.3 + 0.005 * i + 0.05 * (-1) ** i for i in range(80)]),  # rises, with noise
        history(grad_norm=[0.1, 0.3, 0.05, 0.2, 0.1, 0.4]),
        history(constant_groups_share=[0.0, 0.0, 0.0, 0.0, 1.0]),  # one batch proves nothing
        history(env_seconds=0.4, seconds=0.5),  # fast
        history(5, grad_norm=[0.1, 0.1, 0.1, 0.1, 5.0]),  # four are too few to know what is usual
        history(constant_groups_share=[0.9, 1.0], verdict_correct=[0.98, 0.98]),  # not the mean of the last five
    ],
)
def test_a_healthy_run_hears_nothing(rows):
    assert advice(rows) == []


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            history(constant_groups_share=0.93, verdict_correct=0.02),
            "reward has no spread in 93% of groups: nothing to learn from (nearly all answers are wrong, 2% are right: "
            "it needs easier problems or larger groups)",
        ),
        (
            history(2, constant_groups_share=0.9, verdict_correct=0.98),
            "reward has no spread in 90% of groups: nothing to learn from (nearly all answers are right, 98%: "
            "it needs harder problems)",
        ),
        (
            history(constant_groups_share=0.8, verdict_correct=0.4),
            "reward has no spread in 80% of groups: nothing to learn from (a problem is solved always or never, 40% "
            "are: it needs other problems or larger groups)",
        ),
        (
            [{"constant_groups_share": 1.0, "return_mean": 0.0}],
            "reward has no spread in 100% of groups: nothing to learn from (the mean return is 0: "
            "it needs other problems or larger groups)",
        ),
        (
            history(token_limit_share=0.5, truncated_share=0.5),
            "50% of the episodes were cut off before their end: raise max_tokens",
        ),
        (
            history(verdict_unparsed=0.61),
            "61% of the answers could not be read: the model does not keep the format that is asked for; "
            "an example in the prompt helps",
        ),
        (
            history(unscorable_share=0.08),
            "the environment could not judge 8% of the episodes, which are left out: its grader or sandbox fails or is "
            "overloaded",
        ),
        (
            history(broken_share=0.25),
            "25% of the episodes broke off because the environment raised an error; they are left out",
        ),
        (
            history(grad_norm=[math.nan]),
            "the gradient is not a finite number: this update was left out; if it happens again, lower learning_rate "
            "or look for a reward that is far off",
        ),
        (
            history(loss=[math.inf]),
            "the loss is not a finite number: this update was left out; if it happens again, lower learning_rate "
            "or look for a reward that is far off",
        ),
        (
            history(grad_norm=[0.1, 0.2, 0.3, 0.2, 0.1, 4.0]),  # the median of the five before is 0.2
            "the gradient's norm jumped to 4, 20 times what is usual (0.2); max_grad_norm limits what one batch can do",
        ),
        (
            history(10, entropy=0.05),
            "entropy is down to 0.05 nats a token (it was 0.8): the answers to a problem are nearly all the same; a "
            "lower learning_rate or some kl_coef keeps them apart",
        ),
        (
            history(10, entropy=2.5),
            "entropy rose from 0.8 to 2.5 nats a token: the text falls apart; lower learning_rate",
        ),
        (
            history(kl=0.75),
            "the policy is 0.75 nats a token away from the base model: raise kl_coef or lower learning_rate",
        ),
        (
            history(logprob_gap=0.15),
            "sampler and trainer disagree by 0.15 nats a token: what is trained is not quite what was sampled "
            "(correction=mask leaves out the worst, dtype=float32 shows whether it is rounding)",
        ),
        (
            history(clipped_share=0.4),
            "40% of the tokens are clipped: take fewer minibatches or epochs, or a lower learning_rate",
        ),
        (
            history(correction_share=0.2),
            "the correction between sampler and trainer cuts 20% of the tokens: the two are too far apart",
        ),
        (
            history(env_seconds=6.0),
            "grading takes 60% of the time (6.0 of 10.0 s an update): the model waits for the environment; give it "
            "more workers or shorter timeouts",
        ),
        (
            history(STILL, return_mean=[0.4, 0.5] * 12 + [0.4] + [0.5, 0.4] * 12 + [0.5]),
            "the return has not moved within 50 updates, 0.448 and 0.452 in their halves: either this is as good as it "
            "gets, or learning_rate is too low",
        ),
        (
            history(STILL, return_mean=[0.5, 0.6] * 13 + [0.4, 0.3] * 12),
            "the return fell within 50 updates, from 0.548 to 0.36",
        ),
    ],
)
def test_every_sentence(rows, sentence):
    assert advice(rows) == [sentence]


def test_thresholds_are_not_crossed_by_what_is_below_them():
    below = {
        "constant_groups_share": 0.79, "token_limit_share": 0.29, "verdict_unparsed": 0.5, "unscorable_share": 0.05,
        "broken_share": 0.05, "kl": 0.49, "logprob_gap": 0.1, "clipped_share": 0.3, "correction_share": 0.1,
        "env_seconds": 5.0,
    }  # fmt: skip
    assert advice(history(**below)) == []


def test_a_gap_to_an_older_policy_is_no_trouble():
    assert advice(history(logprob_gap=0.15, staleness=1.0)) == []
    assert len(advice(history(logprob_gap=0.15))) == 1


def test_a_run_at_its_ceiling_is_not_told_that_it_stands_still():
    assert advice(history(60, return_mean=[1.0] * 60, verdict_correct=[0.97] * 60)) == []
    assert len(advice(history(60, return_mean=[1.0] * 60))) == 1


def test_an_entropy_near_zero_is_low_whatever_it_was():
    [text] = advice([{"entropy": 0.005}])
    assert text.startswith("entropy is down to 0.005 nats")
    assert findings([{"entropy": 0.0}])[0].severity == math.inf


def test_one_of_several_environments():
    rows = history(**{"A-v0/token_limit_share": 0.4, "A-v0/return_mean": 0.1, "B-v0/token_limit_share": 0.0})
    assert advice(rows) == ["A-v0: 40% of the episodes were cut off before their end: raise max_tokens"]
    # Not twice, where it holds of all together.
    rows = history(**{"A-v0/token_limit_share": 0.9, "token_limit_share": 0.5})
    assert advice(rows) == ["50% of the episodes were cut off before their end: raise max_tokens"]


def test_it_is_said_again_when_it_is_worse_or_after_a_while():
    adviser, said = Adviser(), []
    # The first is said; 0.4 is not half as bad again as 0.3, 0.45 is; 0.45 stays until it is old.
    for update, share in enumerate([0.3, 0.4, 0.45, *[0.45] * (PATIENCE - 1), 0.45], start=1):
        if adviser.news([{"token_limit_share": share}], update):
            said.append(update)
    assert said == [1, 3, 3 + PATIENCE]


def test_a_trouble_that_comes_and_goes_is_not_said_every_time():
    adviser = Adviser()
    said = [bool(adviser.news([{"token_limit_share": s}], i)) for i, s in enumerate([0.31, 0.2, 0.31, 0.2, 0.31])]
    assert said == [True, False, False, False, False]


def test_what_cannot_be_worse_waits_too():
    adviser = Adviser()
    said = [len(adviser.news([{"grad_norm": math.nan}], update)) for update in range(1, PATIENCE + 2)]
    assert said == [1, *[0] * (PATIENCE - 1), 1]


def test_a_verdict_or_a_breakage_that_is_left_out_counts_as_none():
    """Unparsed in one update of five, and a fifth broken in one of five, are a mean below what is worth saying."""
    rows = [{"verdict_wrong": 1.0} for _ in range(4)] + [{"verdict_unparsed": 0.9, "verdict_wrong": 0.1}]
    assert advice(rows) == []
    assert advice([{"return_mean": 0.0}] * 4 + [{"return_mean": 0.0, "broken_share": 0.2}]) == []
    # The same of one of several environments.
    assert advice([{f"A-v0/{name}": value for name, value in row.items()} for row in rows]) == []
    assert len(advice(rows[-1:])) == 1


def test_nobody_right_is_nobody_right():
    [text] = advice([{"constant_groups_share": 1.0, "verdict_unparsed": 0.5, "verdict_wrong": 0.5}])
    assert "nearly all answers are wrong, 0% are right" in text
    # In a game only illegal moves have a verdict: nothing is known of what is right.
    [text] = advice(
        [{"constant_groups_share": 1.0, "verdict_none": 0.9, "verdict_illegal": 0.1, "return_mean": 0.5},
         {"constant_groups_share": 1.0, "verdict_illegal": 1.0, "return_mean": 0.5}]
    )  # fmt: skip
    assert "(the mean return is 0.5: " in text


def test_what_the_environment_cuts_off_needs_no_more_tokens():
    assert advice(history(truncated_share=1.0)) == []
