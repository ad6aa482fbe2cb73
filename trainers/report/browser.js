// Trajectories, group by group.

const SHORT_PROMPT = 400; // characters: up to so many it stands above the answers, not beside them
const shown = { block: null, index: null };
let wanted = 0; // which choice is the newest: decoding takes a moment

function showBrowser() {
  const { run } = state;
  const section = $("browser");
  if (!run.groups.length) {
    section.replaceChildren(
      h("div", { class: "bar" }, h("h2", {}, "Trajectories")),
      h("p", { class: "note" }, "No trajectories were recorded."),
    );
    return;
  }
  section.replaceChildren(
    h("div", { class: "bar sticky" }, h("h2", {}, "Trajectories"), chooser(), filterBar()),
    h("div", { id: "group" }),
  );
  followPointer($("group"));
  document.addEventListener("keydown", onKey);
  document.addEventListener("pick", (event) => {
    chooseGroup(groupOf(event.detail));
    section.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  });
  addEventListener("hashchange", () => {
    const at = groupInAddress();
    if (at >= 0 && at !== state.current) chooseGroup(at);
  });
  const start = groupInAddress();
  return chooseGroup(start >= 0 ? start : groupOf(run.groups[run.groups.length - 1].update));
}

// The first group of the recorded update nearest to one.
function groupOf(update) {
  const updates = state.run.groups.map((group) => group.update);
  return updates.indexOf(updates[nearest(updates, update)]);
}

function groupInAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (!asked.has("update")) return -1;
  const found = state.run.groups.findIndex(
    (group) => group.update === Number(asked.get("update")) && group.group === Number(asked.get("group") || 0),
  );
  return found >= 0 ? found : groupOf(Number(asked.get("update")));
}

function chooser() {
  const { groups } = state.run;
  const updates = [...new Set(groups.map((group) => group.update))];
  const button = (label, title, act) =>
    h("button", { type: "button", title, "aria-label": title, onclick: act }, label);
  const number = (title) =>
    h("select", {
      id: "number",
      "aria-label": "group",
      title,
      onchange: (event) => chooseGroup(Number(event.target.value)),
    });
  if (isEvaluation())
    return h(
      "div",
      { class: "chooser" },
      button("\u2190", "the answers before (\u2190)", () => step(-1)),
      number("problem (arrows)"),
      button("\u2192", "the next answers (\u2192)", () => step(1)),
    );
  return h(
    "div",
    { class: "chooser" },
    button("\u2190", "the update before (\u2190)", () => step(-1)),
    h(
      "label",
      {},
      "update ",
      h(
        "select",
        { id: "update", onchange: (event) => chooseGroup(groupOf(Number(event.target.value))) },
        updates.map((update) => h("option", { value: update }, String(update))),
      ),
    ),
    button("\u2192", "the next update (\u2192)", () => step(1)),
    number("group (Shift and arrows)"),
  );
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  if (event.shiftKey) chooseGroup(state.current + by);
  else step(by);
}

function step(by) {
  const { groups } = state.run;
  if (isEvaluation()) {
    chooseGroup(state.current + by);
    return;
  }
  const here = groups[state.current];
  const updates = [...new Set(groups.map((group) => group.update))];
  const update = updates[updates.indexOf(here.update) + by];
  if (update === undefined) return;
  const same = groups.findIndex((group) => group.update === update && group.group === here.group);
  chooseGroup(same >= 0 ? same : groupOf(update));
}

async function chooseGroup(at) {
  const { groups } = state.run;
  if (at < 0 || at >= groups.length) return;
  const asked = ++wanted;
  const block = await unpack(`group-${at}`);
  if (asked !== wanted) return;
  state.current = at;
  const here = groups[at];
  if (!isEvaluation()) $("update").value = here.update;
  $("number").replaceChildren(
    ...groups.flatMap((group, i) =>
      group.update === here.update ? [h("option", { value: i }, groupName(group))] : [],
    ),
  );
  $("number").value = at;
  history.replaceState(null, "", `#update=${here.update}&group=${here.group}`);
  Object.assign(shown, { block, index: here });
  colouring.largest = largestAdvantage(block.members);
  showGroup();
  drawAll();
}

const groupName = (group) =>
  visible(
    (isEvaluation() ? [group.env, group.label] : [`group ${group.group}`, group.env, group.label])
      .filter(Boolean)
      .join(" \u00b7 "),
  );

function showGroup() {
  const { block, index } = shown;
  const order = index.returns
    .map((_, i) => i)
    .sort((a, b) => (index.returns[b] ?? -Infinity) - (index.returns[a] ?? -Infinity) || a - b);
  const length = block.prompt.reduce((sum, [, text]) => sum + text.length, 0);
  const prompt = h(
    "aside",
    { class: "prompt" },
    h("h3", {}, "Prompt"),
    block.prompt.map(([role, text]) =>
      h(
        "div",
        { class: "message" },
        role ? h("h4", {}, visible(role)) : null,
        plain(h("div", { class: "text" }), text),
      ),
    ),
  );
  $("group").replaceChildren(
    groupHead(order),
    h(
      "div",
      { class: length > SHORT_PROMPT ? "pair" : "stack" },
      block.prompt.length ? prompt : [],
      h(
        "div",
        { id: "members" },
        order.map((i, rank) => card(block.members[i], index, i, rank)),
      ),
    ),
  );
  applyFilters();
}

function groupHead(order) {
  const { index } = shown;
  const known = index.returns.filter(isNumber);
  const mean = known.reduce((a, b) => a + b, 0) / (known.length || 1);
  const spread = Math.sqrt(known.reduce((a, b) => a + (b - mean) ** 2, 0) / (known.length || 1));
  const same = known.length > 1 && spread < 1e-12;
  const by = h(
    "select",
    {
      id: "colour",
      "aria-label": "colour tokens by",
      onchange: (event) => {
        colouring.by = event.target.value;
        showGroup();
      },
    },
    [
      ["advantage", "advantage"],
      ["logprob", "logprob"],
      ["none", "nothing"],
    ].map(([value, text]) => h("option", { value, selected: value === colouring.by }, text)),
  );
  return h(
    "div",
    { class: "group-head" },
    h(
      "div",
      { class: "numbers" },
      index.args
        ? h("span", { class: "args", title: "arguments of the environment" }, visible(index.args))
        : null,
      h("span", {}, "members ", h("b", {}, String(index.returns.length))),
      h("span", {}, "mean return ", h("b", {}, fixed(mean))),
      h("span", {}, "deviation ", h("b", {}, fixed(spread))),
      same && !isEvaluation() ? h("span", { class: "warn" }, "no spread: nothing to learn from") : null,
      strip(order),
    ),
    // Of an evaluation no tokens are kept.
    isEvaluation() ? null : h("div", { class: "colours" }, h("label", {}, "tokens by ", by), legend()),
  );
}

// A tick a member, best first, in the colour of its verdict; a click goes to its card.
function strip(order) {
  const { index } = shown;
  return h(
    "span",
    { class: "strip" },
    order.map((i) => {
      const tick = h("button", {
        type: "button",
        class: index.cut[i] ? "cut" : null,
        title: visible(`${fixed(index.returns[i])} ${index.verdicts[i]}${index.cut[i] ? ", cut off" : ""}`),
        "aria-label": `member ${i + 1}`,
        onclick: () => $(`member-${i}`).scrollIntoView({ block: "center" }),
      });
      tick.style.setProperty(
        "--c",
        `var(--${index.verdicts[i] ? verdictColor(index.verdicts[i]) : signColor(index.returns[i])})`,
      );
      return tick;
    }),
  );
}
