// Which members are shown, and the way to the next group that has one of them.

const filters = { verdict: "", cut: "", text: "" };

function filterBar() {
  const names = [...new Set(state.run.groups.flatMap((group) => group.verdicts))].filter(Boolean).sort();
  const choice = (name, label, options) =>
    h(
      "select",
      {
        id: `filter-${name}`,
        "aria-label": label,
        onchange: (event) => {
          filters[name] = event.target.value;
          applyFilters();
        },
      },
      options.map(([value, text]) => h("option", { value }, text)),
    );
  return h(
    "div",
    { class: "filters" },
    choice("verdict", "verdict", [["", "any verdict"], ...names.map((name) => [name, visible(name)])]),
    choice("cut", "cut off", [
      ["", "any end"],
      ["1", "cut off"],
      ["0", "not cut off"],
    ]),
    h("input", {
      type: "search",
      id: "filter-text",
      placeholder: "search answers",
      "aria-label": "search answers",
      oninput: (event) => {
        filters.text = event.target.value.toLowerCase();
        applyFilters();
      },
      onkeydown: (event) => {
        if (event.key === "Enter") nextMatch();
      },
    }),
    h(
      "button",
      {
        type: "button",
        id: "next-match",
        title: "go to the next group with an answer like this (Enter)",
        onclick: nextMatch,
      },
      "next match",
    ),
    h("span", { id: "matches", role: "status" }),
  );
}

const saidBy = (member) =>
  member.turns
    .map((turn) => turn.said ?? (turn.tokens || []).join(""))
    .join("\n")
    .toLowerCase();
const passes = (index, i) =>
  (!filters.verdict || index.verdicts[i] === filters.verdict) &&
  (filters.cut === "" || String(index.cut[i]) === filters.cut);
const matches = (index, block, i) =>
  passes(index, i) && (!filters.text || saidBy(block.members[i]).includes(filters.text));

function applyFilters() {
  const { block, index } = shown;
  if (!block) return;
  let count = 0;
  for (const element of document.querySelectorAll(".card")) {
    element.hidden = !matches(index, block, Number(element.dataset.member));
    count += element.hidden ? 0 : 1;
  }
  const isOn = filters.verdict || filters.cut || filters.text;
  $("next-match").hidden = !isOn || state.run.groups.length < 2;
  $("matches").textContent = isOn ? `${count} of ${index.returns.length}` : "";
}

// Go on to the next group that has a member like this, around the end. Only a search for words decodes groups.
async function nextMatch() {
  const { groups } = state.run;
  const asked = ++wanted;
  for (let by = 1; by <= groups.length; by++) {
    const at = (state.current + by) % groups.length;
    const index = groups[at];
    if (!index.returns.some((_, i) => passes(index, i))) continue;
    if (filters.text) {
      const block = await unpack(`group-${at}`);
      if (asked !== wanted) return;
      if (!index.returns.some((_, i) => matches(index, block, i))) {
        if (by % 20 === 0) $("matches").textContent = `searching\u2026 ${percent(by / groups.length)}`;
        continue;
      }
    }
    await chooseGroup(at);
    return;
  }
  $("matches").textContent = "no group has one";
}
