"""The report in a real browser: what it shows, what it makes of a click and a key, and that model text stays text."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.chromium import Browser, find_chromium
from tests.trainers.made_up_runs import (
    HOSTILE,
    config,
    episode,
    evaluated,
    evaluation,
    game,
    hostile_group,
    mixed_run,
    old_conversation,
    start,
    update,
    whole_run,
    write_run,
)
from trainers.report import write_report

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here (apt-get install chromium)")

# The text of an answer without the signs for line breaks, which are no text.
SAID = "[...document.querySelectorAll('.card .said')].map(box => box.textContent)"


@pytest.fixture(scope="module")
def _running(tmp_path_factory):
    browser = Browser(str(PROGRAM), tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def browser(_running):
    """A page that complains of nothing and asks for nothing but itself."""
    yield _running
    assert _running.errors == []
    assert [address for address in _running.requests if not address.startswith(("file:", "data:image/svg"))] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_report(whole_run(tmp_path_factory.mktemp("whole")))


def small_run(folder: Path, episodes: list[Any], metrics: list[Any] | None = None, **settings: Any) -> Path:
    return write_report(write_run(folder, config(**settings), [update(1)] if metrics is None else metrics, episodes))


def middle_of(browser: Browser, selector: str) -> tuple[float, float]:
    """Where an element is, once scrolling to it has been heard of by everyone."""
    found = browser.run(
        f"(async () => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
        " await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));"
        " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    return found[0], found[1]


def choose(browser: Browser, selector: str, value: str, event: str = "change") -> None:
    browser.run(f"(() => {{ const e = document.querySelector({selector!r}); e.value = {value!r};"
                f" e.dispatchEvent(new Event({event!r}, {{bubbles: true}})) }})()")  # fmt: skip


def test_the_curves_are_drawn(browser, whole):
    browser.show(whole)
    charts = browser.run("[...document.querySelectorAll('[data-chart]')].map(e => e.dataset.chart)")
    assert charts == [
        "return", "verdicts", "shares", "entropy", "kl", "grad_norm", "action_tokens_mean", "tokens_per_second",
        "stages", "parts", "ratios", "loss", "logprob_gap", "learning_rate", "seconds",
    ]  # fmt: skip
    hero = "document.querySelector('[data-chart=return]')"
    assert browser.run(f"{hero}.querySelector('.line').getAttribute('d').match(/[ML]/g).length") == 60
    assert browser.run(f"{hero}.querySelectorAll('circle.eval').length") == 4
    assert browser.run(f"[...{hero}.querySelectorAll('.reference-label')].map(e => e.textContent)") == [
        "optimal 1.00",
        "random 0.00",
    ]
    # Higher is better, and the line of the optimum stands where its value is.
    lines = browser.run(f"[...{hero}.querySelectorAll('.reference')].map(e => Number(e.getAttribute('y1')))")
    zero, one = browser.run(
        f"[...{hero}.querySelectorAll('.frame text')].filter(e => ['0', '1'].includes(e.textContent) && "
        "e.getAttribute('text-anchor') === 'end').map(e => Number(e.getAttribute('y')) - 3.5)"
    )
    assert lines == pytest.approx([one, zero])
    assert zero > one
    areas = browser.run("document.querySelectorAll('[data-chart=verdicts] .area').length")
    assert areas == 3
    head = browser.run("document.getElementById('header').textContent")
    assert "SmolLM2-135M-Instruct on GSM8K-v0" in head
    assert "groups_per_batch 8max_tokens 128advantage rloolearning_rate 0.0003" in head
    assert "60 of 60" in head


def test_the_pointer_reads_values_off_all_curves(browser, whole):
    browser.show(whole)
    readout = "document.querySelector('[data-chart=entropy] .legend b').textContent"
    expected = {number: update(number)["entropy"] for number in (30, 60)}
    assert browser.run(readout) == f"{expected[60]:.3g}"
    browser.run("scrollTo(0, 0)")
    left, top, right = browser.run(
        "(() => { const b = document.querySelector('[data-chart=return] .reference').getBoundingClientRect();"
        " return [b.left, b.top, b.right] })()"
    )
    browser.move(left + (right - left) * 30 / 60, top + 50)  # the axis begins with the evaluation before update 1
    browser.wait_for("document.getElementById('where').textContent === 'update 30'")
    assert browser.run(readout) == f"{expected[30]:.3g}"
    greedy = evaluation(20)["return_mean"]
    assert (
        browser.run("[...document.querySelectorAll('[data-chart=return] .legend b')][1].textContent") == f"{greedy:.3f}"
    )


def test_a_click_on_a_curve_opens_that_update(browser, whole):
    browser.show(whole)
    left, top, right = browser.run(
        "(() => { const b = document.querySelector('[data-chart=return] .reference').getBoundingClientRect();"
        " return [b.left, b.top, b.right] })()"
    )
    browser.click(left + (right - left) * 12 / 60, top + 50)
    browser.wait_for("location.hash === '#update=12&group=0'")
    assert browser.run("document.querySelector('.prompt').textContent").endswith(
        "A ticket costs $15. What do three cost?"
    )
    assert browser.run("document.querySelectorAll('[data-chart=return] .chosen').length") == 1


def test_smoothing(browser, tmp_path):
    """The running mean without its bias: with weight 0.5 the values 0, 1 give 0 and (0 / 4 + 1 / 2) / 0.75 = 2/3."""
    metrics = [{"kind": "update", "update": i + 1, "return_mean": value} for i, value in enumerate([0.0, 1.0])]
    browser.show(small_run(tmp_path, [], metrics))
    y = "document.querySelector('[data-chart=return] .line').getAttribute('d').split(/[ML ]/).map(Number)"
    before = browser.run(y)
    choose(browser, "#smoothing", "0.5", "input")
    after = browser.run(y)
    assert after[2] == before[2]
    assert (before[2] - after[4]) / (before[2] - before[4]) == pytest.approx(2 / 3, abs=0.01)
    assert browser.run("document.querySelectorAll('[data-chart=return] .raw').length") == 1


def test_tokens_are_coloured_by_advantage(browser, tmp_path):
    """The largest advantage, 2, is level 8; 0.5 is level 2, -1.0 level 4; 0 and what was not learnt from are plain."""
    episodes = [
        episode(1, ["a", " b"], 1.0, 0.0, token_advantages=[[2.0, 0.5]]),
        episode(
            1, ["c", "\n", "d"], 0.5, 0.0, token_advantages=[[-1.0, 0.0, None]], token_logprobs=[[-3.0, -0.01, -9.0]]
        ),
        episode(1, ["e"], 0.0, 0.0, token_advantages=None, advantages=None),
    ]
    browser.show(small_run(tmp_path, episodes))
    classes = "[...document.querySelectorAll('.card')].map(c => [...c.querySelectorAll('.t')].map(t => t.className))"
    assert browser.run(classes) == [["t p8", "t p2"], ["t n4", "t", "t"], ["t"]]
    assert browser.run(SAID) == ["a b", "c\nd", "e"]
    behind = "getComputedStyle(document.querySelector('.card .{}')).backgroundColor.match(/[\\d.]+/g).map(Number)"
    (red, _, blue, *_), (other_red, _, other_blue, *_) = (browser.run(behind.format(name)) for name in ("p8", "n4"))
    assert blue > red
    assert other_red > other_blue
    assert "\u22122.00 less likely" in browser.run("document.querySelector('.scale').textContent")
    # By surprise: 6 nats are level 8, so 3 are level 4, and 0.5 (all of the first) are round(0.67) = 1.
    choose(browser, "#colour", "logprob")
    assert browser.run(classes) == [["t l1", "t l1"], ["t l4", "t", "t l8"], ["t l1"]]
    browser.move(*middle_of(browser, "#member-1 .t"))
    browser.wait_for("!document.getElementById('tip').hidden")
    tip = browser.run("[...document.querySelectorAll('#tip div')].map(e => e.lastChild.textContent)")
    assert tip == ['"c"', "\u22121.00", "\u22123.00  (5\u2009%)", "1 of 3"]  # exp(-3) = 0.0498


def test_members_stand_by_return_with_what_became_of_them(browser, tmp_path):
    episodes = [
        episode(
            1, ["low"], -0.1, -0.6, verdicts=["unparsed"], stop_reasons=["length"], reward_parts=[{"format": -0.1}]
        ),
        episode(1, ["high"], 1.0, 0.5),
    ]
    browser.show(small_run(tmp_path, episodes))
    cards = browser.run(
        "[...document.querySelectorAll('.card')].map(c => c.querySelector('header').innerText.split(/\\s+/).join(' '))"
    )
    assert cards == [
        "1 1.00 correct advantage +0.50 correct +1.00 1 token",
        "2 \u22120.10 unparsed \u2702 cut off advantage \u22120.60 format \u22120.10 1 token",
    ]
    assert "mean return 0.45" in browser.run("document.querySelector('.numbers').innerText")
    choose(browser, "#filter-cut", "1")
    shown = (
        "[...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.querySelector('.said').textContent)"
    )
    assert browser.run(shown) == ["low"]
    assert browser.run("document.getElementById('matches').textContent") == "1 of 2"
    choose(browser, "#filter-cut", "")
    choose(browser, "#filter-text", "HIG", "input")
    assert browser.run(shown) == ["high"]
    choose(browser, "#filter-verdict", "unparsed")
    assert browser.run(shown) == []


def test_the_next_match_is_searched_in_all_groups(browser, tmp_path):
    episodes = [episode(i, ["needle" if i == 3 else "hay"], 0.0, 0.0) for i in range(1, 7)]
    browser.show(small_run(tmp_path, episodes), fragment="#update=5")
    choose(browser, "#filter-text", "needle", "input")
    browser.run("document.getElementById('next-match').click()")
    browser.wait_for("location.hash === '#update=3&group=0'")
    assert browser.run(SAID) == ["needle"]
    choose(browser, "#filter-text", "nowhere", "input")
    browser.run("document.getElementById('next-match').click()")
    browser.wait_for("document.getElementById('matches').textContent === 'no group has one'")


def test_arrows_go_through_updates_and_groups(browser, tmp_path):
    page = write_report(mixed_run(tmp_path))  # updates 1, 5, 9, ... with groups 0 and 1
    browser.show(page, fragment="#update=5&group=1")
    assert browser.run("document.querySelectorAll('.card').length") == 8
    browser.press("ArrowRight")
    browser.wait_for("location.hash === '#update=9&group=1'")
    browser.press("ArrowLeft", shift=True)
    browser.wait_for("location.hash === '#update=9&group=0'")
    browser.press("ArrowLeft")
    browser.wait_for("location.hash === '#update=5&group=0'")
    choose(browser, "#update", "13")
    browser.wait_for("location.hash === '#update=13&group=0'")
    assert "GSM8K-v0" in browser.run("document.querySelector('#number').selectedOptions[0].textContent")


def test_several_environments_have_curves_of_their_own(browser, tmp_path):
    browser.show(write_report(mixed_run(tmp_path)))
    labels = "[...document.querySelectorAll(`[data-chart='${name}'] .reference-label`)].map(e => e.textContent)"
    assert browser.run(f"(name => {labels})('return')") == []  # a mixture has no reference
    assert browser.run(f"(name => {labels})('return of GuessNumber-v0')") == ["optimal 5.20", "random 0.19"]
    browser.run("[...document.querySelectorAll('.tabs button')].find(b => b.textContent === 'GuessNumber-v0').click()")
    assert browser.run(f"(name => {labels})('return')") == ["optimal 5.20", "random 0.19"]
    expected = 5 * update(80, 80)["return_mean"]
    assert browser.run("document.querySelector('[data-chart=return] .legend b').textContent") == f"{expected:.3g}"


def test_hostile_text_is_inert(browser, tmp_path):
    """It is seen to the letter (control characters as signs), makes no element, and runs nothing."""
    harmless = small_run(tmp_path / "a", [episode(1, ["x"], 0.0, 0.0) for _ in HOSTILE])
    metrics = [start(commit=HOSTILE[0], device=HOSTILE[1], references={HOSTILE[1]: {HOSTILE[0]: 1.0}}), update(1)]
    metrics[1] |= {f"verdict_{HOSTILE[0]}": 0.5, HOSTILE[1]: 1.0, f"part_{HOSTILE[0]}": 1.0}
    settings = {"model": f"x/{HOSTILE[1]}", "env": [f"a:{HOSTILE[1]}"], "lora_rank": HOSTILE[1]}
    page = small_run(tmp_path / "b", hostile_group(1), metrics, **settings)
    kinds = "[...new Set([...document.querySelectorAll('*')].map(e => e.tagName.toLowerCase()))].sort()"
    browser.show(harmless)
    tags = browser.run(kinds)
    browser.show(page)
    assert set(browser.run(kinds)) - set(tags) <= {"ol", "li"}
    assert browser.run("document.querySelectorAll('script').length") == 3  # the run, its one group, the page's own
    assert browser.run("document.querySelectorAll('img, iframe, object, [onerror], [onload]').length") == 0
    assert browser.run("document.title") == f"{HOSTILE[1]} on {HOSTILE[1]}"
    said = browser.run(SAID)
    assert said[0] == HOSTILE[0]
    assert said[1] == HOSTILE[1]
    assert said[2] == "null \u2400 byte, bell \u2407, lone \u2039U+D800\u203a surrogate, \u2039U+2028\u203a line"
    assert (
        said[3]
        == "\u2039U+202E\u203areversed\u2039U+202C\u203a and \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd"
    )
    assert said[4] == HOSTILE[4]
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_very_long_answer_does_not_hold_up_the_page(browser, tmp_path):
    words = [f" {i}" for i in range(20_000)]
    long = episode(1, words, 1.0, 0.5)
    plain = episode(1, ["x"], 0.0, -0.5, actions=["y" * 100_000], token_texts=None)
    page = small_run(tmp_path, [long, plain])
    started = time.monotonic()
    browser.show(page)
    assert time.monotonic() - started < 20
    assert browser.run(f"{SAID}.map(text => text.length)") == [
        sum(map(len, words[:2000])) + len("show all 20,000 tokens"),
        20_000 + len("show all 100,000 characters"),
    ]
    browser.run("document.querySelectorAll('.rest').forEach(button => button.click())")
    assert browser.run(f"{SAID}.map(text => text.length)") == [sum(map(len, words)), 100_000]


def test_what_has_no_width_is_seen(browser, tmp_path):
    """Words that need a joiner, and pictures made of several, stay whole."""
    hidden = ["\u200b", "\u061c", "\U000e0041", "\u00ad", "\u2060", "a\u200db", "\u202e", "\ufe0f", "\U000e0100"]
    kept = ["\u0645\u06cc\u200c\u0634\u0648\u062f", "\u2764\ufe0f\u200d\U0001f525", "1\ufe0f\u20e3"]
    texts = [*hidden, *kept]
    browser.show(small_run(tmp_path, [episode(1, [text], 0.0, 0.0) for text in texts]))
    assert browser.run(SAID) == [
        "\u2039U+200B\u203a", "\u2039U+061C\u203a", "\u2039U+E0041\u203a", "\u2039U+00AD\u203a",
        "\u2039U+2060\u203a", "a\u2039U+200D\u203ab", "\u2039U+202E\u203a", "\u2039U+FE0F\u203a",
        "\u2039U+E0100\u203a", *kept,
    ]  # fmt: skip


def test_what_is_left_out_counts_in_the_figures(browser, tmp_path):
    """Evaluations of 0 %, 50 % and 0 % correct."""
    metrics = [
        evaluation(i, verdict_wrong=1 - share) | {"verdict_correct": share} for i, share in enumerate([0.0, 0.5, 0.0])
    ]
    for row in metrics[::2]:
        del row["verdict_correct"]
    browser.show(small_run(tmp_path, [], [*metrics, update(1)]))
    shown = "[...document.querySelectorAll('.figure')].map(e => e.innerText.split('\\n').slice(0, 2).join(': '))"
    assert "greedy, correct: 0\u2009% \u2192 0\u2009%" in browser.run(shown)


def test_an_evaluation_is_a_table(browser, tmp_path):
    browser.show(write_report(evaluated(tmp_path)))
    said = browser.run("document.body.innerText")
    assert "No update" not in said
    assert "4611686018427" not in said
    rows = browser.run("[...document.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.innerText))")
    assert rows[0] == ["", "greedy, 2 problems", "sampled, 7 answers to 2 problems"]
    assert [" ".join(cell.split()) for cell in rows[1]] == ["accuracy", "50.0 % 9.6 % to 90.4 %", "\u2013"]
    assert [row[0] for row in rows[2:]] == ["mean return", "regret", "format kept", "pass@1", "pass@4"]
    chosen = "document.querySelector('#number').selectedOptions[0].textContent"
    assert browser.run(chosen) == "GSM8K-v0 \u00b7 problem 0, greedy"
    browser.press("ArrowRight")
    browser.wait_for("location.hash === '#update=0&group=1'")
    assert browser.run(chosen) == "GSM8K-v0 \u00b7 problem 0, sampled"
    assert browser.run(SAID) == [f"sampled {i}" for i in range(4)]


def test_games_of_several_players(browser, tmp_path):
    browser.show(small_run(tmp_path, game(1), env=["llm_envs:TicTacToe-v0"]))
    turns = browser.run(
        "[...document.querySelector('.card').querySelectorAll('.turn')].map(t =>"
        " [t.className, t.querySelector('.agent').textContent, t.querySelector('.said').textContent])"
    )
    assert turns == [
        ["turn seat0", "player_1", "a1"],
        ["turn seat1", "player_2", "b2"],
        ["turn seat0", "player_1", "c3"],
    ]
    head = browser.run("document.querySelector('.card header').innerText.split(/\\s+/).join(' ')")
    assert head == "1 1.00 player_1 self +1.00 player_2 random \u22121.00 3 turns"
    assert browser.run("document.querySelector('.card .end').innerText").split() == ["player_1", "You", "won."]


def test_runs_of_older_versions(browser, tmp_path):
    """No start, no tokens, no prompt, no reward parts: what there is is shown."""
    browser.show(small_run(tmp_path, old_conversation(1), [{"kind": "update", "update": 1, "return_mean": 3.5}]))
    assert browser.run("document.querySelector('.prompt').innerText").split("\n")[-1] == "I am thinking of a thing."
    assert browser.run(SAID) == ["Is it alive?", "Is it a cat?"] * 2
    card = browser.run("document.querySelector('.card').innerText.split(/\\s+/).join(' ')")
    assert card == "1 7.00 correct 2 turns Is it alive? wrong Yes. Is it a cat? correct reward +7.00 It is over."


@pytest.mark.parametrize(
    ("metrics", "episodes", "said"),
    [
        ([], [], "No update has finished yet: there are no curves."),
        ([evaluation(0)], [], "No trajectories were recorded."),
        ([start(), update(1), '{"kind": "upd'], ['{"update": 1'], "No trajectories were recorded."),
        (["{}\n", update(1)], [], "metrics.jsonl: line 1 could not be read"),
    ],
)
def test_a_run_that_has_hardly_begun(browser, tmp_path, metrics, episodes, said):
    browser.show(small_run(tmp_path, episodes, metrics))
    assert said in browser.run("document.body.innerText")


@pytest.mark.parametrize("width", [1400, 700, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_reads_in_both_schemes(browser, whole, width, scheme):
    """Nothing sticks out, and text stands out from what is behind it: 4.5 to 1, as accessibility asks."""
    browser.show(whole, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    contrasts = browser.run("""(() => {
      const light = (text) => {
        const part = text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
          .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * part[0] + .7152 * part[1] + .0722 * part[2];
      };
      const panel = light(getComputedStyle(document.querySelector('.card')).backgroundColor);
      return ['.said', '.legend', '.card header', '.rank', '.return', 'dt', 'small'].map((selector) => {
        const ink = light(getComputedStyle(document.querySelector(selector)).color);
        return (Math.max(ink, panel) + .05) / (Math.min(ink, panel) + .05);
      });
    })()""")
    assert min(contrasts) >= 4.5
    is_dark = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 128")
    assert is_dark == (scheme == "dark")


def test_it_prints(browser, whole):
    browser.show(whole)
    printed = browser.send("Page.printToPDF", printBackground=True)
    assert len(printed["data"]) > 50_000


def test_the_newest_group_is_shown_first(browser, whole):
    browser.show(whole)
    assert browser.run("location.hash") == "#update=60&group=0"
    browser.show(whole, fragment="#update=7&group=0")
    assert browser.run("document.querySelector('#update').value") == "7"
