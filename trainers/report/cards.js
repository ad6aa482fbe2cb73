// A member of a group: who it was, what it said turn by turn, and what came of it.

// Games have no verdicts: won, lost, or neither.
const signColor = (value) => (value > 0 ? "c1" : value < 0 ? "c2" : "c0");

function badge(verdict) {
  const element = h("span", { class: "verdict" }, visible(verdict));
  element.style.setProperty("--c", `var(--${verdictColor(verdict)})`);
  return element;
}

const STOPS = { length: "cut off at the token limit", env: "cut off by the environment" };
const cutMark = (stop) =>
  Object.hasOwn(STOPS, stop)
    ? h("span", { class: "cut-mark", title: STOPS[stop] }, `\u2702 ${stop === "length" ? "cut off" : "cut by env"}`)
    : null;
const partsOf = (parts) =>
  Object.entries(parts || {}).map(([name, value]) =>
    h("span", { class: "part" }, `${visible(name)} `, h("b", {}, signed(value))),
  );

function card(member, index, i, rank) {
  const { turns } = member;
  const single = turns.length === 1 && !turns[0].who && !turns[0].saw;
  const tokens = turns.reduce((sum, turn) => sum + (turn.tokens?.length || 0), 0);
  const advantage = single && isNumber(turns[0].advantages) ? turns[0].advantages : null;
  const players = Object.entries(member.players || {});
  return h(
    "article",
    { class: "card", id: `member-${i}`, "data-member": i },
    h(
      "header",
      {},
      h("span", { class: "rank", title: `member ${i + 1} of the group` }, String(rank + 1)),
      h("span", { class: "return", title: "return" }, fixed(index.returns[i])),
      index.verdicts[i] ? badge(index.verdicts[i]) : null,
      turns.length
        ? cutMark(
            [...turns]
              .reverse()
              .map((turn) => turn.stop)
              .find((stop) => Object.hasOwn(STOPS, stop)),
          )
        : null,
      players.map(([agent, who]) =>
        h(
          "span",
          { class: `player ${agentClass(member, agent)}` },
          visible(agent),
          h("small", {}, visible(` ${who}`)),
          " ",
          h("b", {}, isNumber(member.returns?.[agent]) ? signed(member.returns[agent]) : ""),
        ),
      ),
      h(
        "span",
        { class: "facts" },
        advantage !== null ? h("span", {}, "advantage ", h("b", {}, signed(advantage))) : null,
        single ? partsOf(turns[0].parts) : null,
        tokens ? h("span", {}, h("b", {}, String(tokens)), tokens === 1 ? " token" : " tokens") : null,
        single ? null : h("span", {}, h("b", {}, String(turns.length)), turns.length === 1 ? " turn" : " turns"),
      ),
    ),
    single
      ? answer(turns[0])
      : h(
          "ol",
          { class: "turns" },
          turns.map((turn, n) => turnRow(turn, member, n ? turns[n - 1].verdict : "")),
        ),
    (member.end || []).map(([agent, text]) =>
      h(
        "div",
        { class: "saw end" },
        agent ? h("b", { class: agentClass(member, agent) }, visible(agent)) : null,
        plain(h("div", { class: "text" }), text),
      ),
    ),
  );
}

const agentClass = (member, agent) => {
  const all = Object.keys(member.players || {});
  return agent && all.length ? `seat${Math.max(0, all.indexOf(agent)) % 4}` : "";
};

// A verdict is shown where it is another than before: most turns of a game are merely not over.
function turnRow(turn, member, before) {
  const facts = h(
    "div",
    { class: "turn-facts" },
    turn.verdict && turn.verdict !== before ? badge(turn.verdict) : null,
    cutMark(turn.stop),
    isNumber(turn.reward) && turn.reward !== 0 ? h("span", {}, "reward ", h("b", {}, signed(turn.reward))) : null,
    partsOf(turn.parts),
    isNumber(turn.advantages) ? h("span", {}, "advantage ", h("b", {}, signed(turn.advantages))) : null,
  );
  return h(
    "li",
    { class: turn.who ? `turn ${agentClass(member, turn.who)}` : "turn" },
    turn.saw ? h("div", { class: "saw" }, plain(h("div", { class: "text" }), turn.saw)) : null,
    h(
      "div",
      { class: "act" },
      turn.who ? h("b", { class: "agent" }, visible(turn.who)) : null,
      answer(turn),
      facts.children.length ? facts : null,
    ),
  );
}
