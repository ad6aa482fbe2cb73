// Which curves a run has, and the section that shows them.

const VERDICT_COLORS = {
  correct: "c1",
  win: "c1",
  draw: "c3",
  wrong: "c2",
  loss: "c2",
  unparsed: "c4",
  illegal: "c4",
  timeout: "c5",
  unscorable: "c0",
  "": "c0",
};
const SPARE = ["c3", "c6", "c5", "c7", "c4", "c0"];

// A verdict has the same colour everywhere in the page.
function verdictColor(name) {
  if (Object.hasOwn(VERDICT_COLORS, name)) return VERDICT_COLORS[name];
  const others = [...verdictNames()].filter((one) => !Object.hasOwn(VERDICT_COLORS, one)).sort();
  return SPARE[Math.max(0, others.indexOf(name)) % SPARE.length];
}

let knownVerdicts = null;
function verdictNames() {
  if (!knownVerdicts) {
    knownVerdicts = new Set(state.run.groups.flatMap((group) => group.verdicts));
    for (const key of Object.keys(state.run.updates)) {
      const at = key.indexOf("verdict_");
      if (at >= 0) knownVerdicts.add(key.slice(at + 8));
    }
  }
  return knownVerdicts;
}

const RATE = new Set(["cut off", "no spread"]); // shown even where they are 0 throughout
const SMALL = [
  ["entropy", "Entropy", "nats a token, at the sampling temperature", { zero: true }],
  ["kl", "KL to the base model", "nats a token", { zero: true }],
  ["grad_norm", "Gradient norm", "before clipping", { zero: true, robust: true }],
  ["action_tokens_mean", "Tokens per answer", "sampled tokens an episode", { zero: true, evaluated: true }],
  ["turns_mean", "Turns per episode", "", { zero: true, evaluated: true }],
  ["tokens_per_second", "Tokens per second", "sampled tokens over the time of sampling alone", { zero: true }],
];
const MORE = [
  ["loss", "Loss", "", { robust: true }],
  ["logprob_gap", "Sampler and trainer", "mean absolute difference of log probabilities, nats a token", { zero: true }],
  ["learning_rate", "Learning rate", "", { zero: true }],
  ["seconds", "Seconds per update", "", { zero: true, robust: true }],
];

function curveSpecs(run, scope) {
  const prefix = scope ? `${scope}/` : "";
  const used = new Set(["update"]);
  const column = (name, table = run.updates) => {
    used.add(prefix + name);
    return Object.hasOwn(table, prefix + name) ? table[prefix + name] : null;
  };
  const dots = (name, color) => {
    const values = column(name, run.evaluations);
    return values && values.some(isNumber) ? [{ name: "greedy", color, x: run.evaluations.update, y: values }] : [];
  };
  const named = (start, table = run.updates) =>
    Object.keys(table)
      .filter((key) => key.startsWith(prefix + start) && (scope || !key.includes("/")))
      .map((key) => key.slice(prefix.length));
  const series = (names, label, colors) =>
    names
      .map((name, i) => ({ name: visible(label(name)), color: colors(label(name), i), values: column(name) }))
      .filter((one) => one.values);
  const cycle = (_, i) => ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c0"][i % 8];
  const found = { main: [], more: [] };
  const add = (spec, where = "main") => {
    if (spec.series.length || (spec.dots || []).length) found[where].push(spec);
  };

  const only = scope || (run.tasks.length === 1 ? run.tasks[0] : null);
  const references =
    (only && run.references[only]) || (only && run.tasks.length === 1 && Object.values(run.references)[0]) || {};
  add({
    id: "return",
    title: "Return",
    hint: "mean over the episodes of an update",
    hero: true,
    series: series(["return_mean"], () => "sampled", cycle),
    dots: dots("return_mean", "c2"),
    references,
  });
  const verdicts = named("verdict_").sort((a, b) => rank(a) - rank(b));
  add({
    id: "verdicts",
    title: "Verdicts",
    hint: "shares of episodes, by the verdict of the last turn; greedy: correct",
    hero: true,
    stacked: true,
    share: true,
    format: percent,
    series: series(
      verdicts,
      (name) => name.slice(8),
      (name) => verdictColor(name),
    ).map(filled),
    dots: dots("verdict_correct", "ink").map((one) => ({ ...one, name: "greedy correct" })),
  });
  if (!scope && run.tasks.length > 1) for (const task of run.tasks) add(taskSpec(run, task));
  add({
    id: "shares",
    title: "Lost to training",
    hint: "shares of answers cut off, of groups whose returns are all alike, of episodes not scored or broken",
    share: true,
    format: percent,
    series: series(
      ["truncated_share", "constant_groups_share", "unscorable_share", "broken_share"],
      (name) =>
        ({
          truncated_share: "cut off",
          constant_groups_share: "no spread",
          unscorable_share: "unscorable",
          broken_share: "broken",
        })[name],
      cycle,
    ).filter((one) => RATE.has(one.name) || one.values.some((value) => value > 0)),
  });
  for (const [name, title, hint, options] of SMALL) {
    const values = column(name);
    if (name === "turns_mean" && (values || []).every((value) => value === 1)) continue; // one turn is all there is
    add({
      id: name,
      title,
      hint,
      ...options,
      series: values ? [{ name: "", color: "c1", values }] : [],
      dots: options.evaluated ? dots(name, "c2") : [],
    });
  }
  const stages = series(["sampling_seconds", "env_seconds", "training_seconds"], (name) => name.split("_")[0], cycle);
  add({ id: "stages", title: "Seconds by stage", hint: "of an update", stacked: true, series: stages.map(filled) });
  add({
    id: "parts",
    title: "Reward parts",
    hint: "mean of each part of the reward",
    series: series(named("part_"), (name) => name.slice(5), cycle),
  });
  add({
    id: "opponents",
    title: "Return by opponent",
    hint: "games of several players",
    series: series(
      named("return_").filter((name) => name !== "return_mean"),
      (name) => name.slice(7),
      cycle,
    ),
  });
  add(
    {
      id: "ratios",
      title: "Clipped and corrected",
      hint: "shares of tokens whose ratio was clipped, and whose sampler correction was cut",
      share: true,
      format: percent,
      series: series(["clipped_share", "correction_share"], (name) => name.split("_")[0], cycle),
    },
    "more",
  );
  for (const [name, title, hint, options] of MORE) {
    const values = column(name);
    add({ id: name, title, hint, ...options, series: values ? [{ name: "", color: "c1", values }] : [] }, "more");
  }
  for (const key of Object.keys(run.updates)) {
    if (!used.has(key) && key.startsWith(prefix) && (scope || !key.includes("/"))) {
      const name = key.slice(prefix.length);
      add(
        {
          id: name,
          title: visible(name.replaceAll("_", " ")),
          series: [{ name: "", color: "c1", values: run.updates[key] }],
        },
        "more",
      );
    }
  }
  return found;
}

// A verdict, or a stage, that an update does not name had no share in it.
const filled = (one) => ({ ...one, values: one.values.map((value) => (isNumber(value) ? value : 0)) });
const VERDICT_ORDER = ["correct", "win", "draw", "wrong", "loss"];
function rank(key) {
  const name = key.slice(8),
    at = VERDICT_ORDER.indexOf(name);
  return name === "unscorable" ? 99 : at < 0 ? 50 : at;
}

function taskSpec(run, task) {
  const key = `${task}/return_mean`;
  const greedy = run.evaluations[key];
  return {
    id: `return of ${task}`,
    title: visible(task),
    hint: "mean return",
    references: run.references[task] || {},
    series: run.updates[key] ? [{ name: "sampled", color: "c1", values: run.updates[key] }] : [],
    dots: greedy ? [{ name: "greedy", color: "c2", x: run.evaluations.update, y: greedy }] : [],
  };
}

const look = { smoothing: 0, scope: "" };

function showCurves() {
  const { run } = state;
  const section = $("curves");
  if (!run.updates.update.length && !run.evaluations.update.length) {
    section.replaceChildren(h("p", { class: "note" }, "No update has finished yet: there are no curves."));
    return;
  }
  look.smoothing = run.updates.update.length > 60 ? 0.8 : 0;
  const value = h("output", {}, look.smoothing.toFixed(2));
  const slider = h("input", {
    type: "range",
    id: "smoothing",
    min: 0,
    max: 0.98,
    step: 0.02,
    value: look.smoothing,
    oninput: () => {
      look.smoothing = Number(slider.value);
      value.textContent = look.smoothing.toFixed(2);
      drawAll();
    },
  });
  const scopes = run.tasks.filter((task) => Object.keys(run.updates).some((key) => key.startsWith(`${task}/`)));
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Environment" });
  if (scopes.length > 1) {
    for (const scope of ["", ...scopes]) {
      tabs.append(
        h(
          "button",
          {
            type: "button",
            "aria-pressed": String(scope === look.scope),
            onclick: (event) => {
              look.scope = scope;
              for (const button of tabs.children)
                button.setAttribute("aria-pressed", String(button === event.currentTarget));
              fillCurves();
            },
          },
          scope ? visible(scope) : "all environments",
        ),
      );
    }
  }
  section.replaceChildren(
    h(
      "div",
      { class: "bar" },
      h("h2", {}, "Curves"),
      tabs,
      h("span", { id: "where" }),
      h("label", { class: "control" }, "smoothing ", slider, value),
    ),
    h("div", { id: "charts" }),
  );
  fillCurves();
}

function fillCurves() {
  charts.length = 0;
  const { run } = state;
  const specs = curveSpecs(run, look.scope);
  const axis = run.updates.update;
  const figures = specs.main.map((spec) => makeChart(spec, axis));
  const heroes = figures.filter((figure) => figure.classList.contains("hero"));
  const wasOpen = $("charts").querySelector("details")?.open;
  $("charts").replaceChildren(
    h("div", { class: "heroes", "data-count": heroes.length }, heroes),
    grid(figures.filter((figure) => !heroes.includes(figure))),
    ...(specs.more.length
      ? [
          h(
            "details",
            { class: "more", open: Boolean(wasOpen), ontoggle: drawAll },
            h("summary", {}, `${specs.more.length} more curves`),
            grid(specs.more.map((spec) => makeChart(spec, axis))),
          ),
        ]
      : []),
  );
  drawAll();
}

// As many columns as leave the fewest gaps in the last row; narrow windows have a rule of their own.
function grid(figures) {
  const gaps = (columns) => (columns - (figures.length % columns)) % columns;
  const best = [4, 3, 5].reduce((a, b) => (gaps(b) < gaps(a) ? b : a));
  const box = h("div", { class: "grid" }, figures);
  box.style.setProperty("--columns", best);
  return box;
}

function drawAll() {
  const chosen = state.current >= 0 ? state.run.groups[state.current].update : null;
  for (const chart of charts) drawChart(chart, look.smoothing, chosen);
  moveCursor(null);
}
