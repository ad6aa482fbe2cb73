// The head of the page, and the order in which its parts come to be.

function showHeader() {
  const { run } = state;
  const done = run.updates.update.length ? run.updates.update[run.updates.update.length - 1] : 0;
  const updates = ["updates", isNumber(run.updates_wanted) ? `${done} of ${run.updates_wanted}` : String(done)];
  const facts = isEvaluation() ? run.facts : [updates, ...run.facts];
  $("header").replaceChildren(
    h("h1", {}, visible(run.model), h("span", {}, " on "), visible(run.tasks.join(", ") || "an environment")),
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, visible(value)))),
    ),
    h(
      "div",
      { class: "figures" },
      (isEvaluation() ? run.figures : figures(run)).map(([name, value, more]) =>
        h("div", { class: "figure" }, h("span", {}, name), h("b", {}, value), h("small", {}, more)),
      ),
    ),
    run.settings.length
      ? h(
          "details",
          { class: "settings", open: true },
          h("summary", {}, "Settings other than the defaults"),
          h(
            "div",
            { class: "chips" },
            run.settings.map(([name, value]) => h("span", {}, visible(name), " ", h("b", {}, visible(value)))),
          ),
        )
      : h("div", { class: "settings" }, h("p", {}, "All settings are the defaults.")),
    ...run.notes.map((note) => h("p", { class: "note" }, note)),
  );
}

// The few numbers that one looks for first.
function figures(run) {
  const found = [];
  const known = (table, key) => (table[key] || []).filter(isNumber);
  const from = (table, key, name, format, more) => {
    const values = known(table, key);
    if (values.length > 1) found.push([name, `${format(values[0])} \u2192 ${format(values[values.length - 1])}`, more]);
    else if (values.length) found.push([name, format(values[0]), more]);
  };
  from(run.evaluations, "return_mean", "greedy return", fixed, "first and last evaluation");
  from(run.evaluations, "verdict_correct", "greedy, correct", percent, "first and last evaluation");
  const sampled = known(run.updates, "return_mean");
  const lastOnes = sampled.slice(-10);
  if (lastOnes.length)
    found.push([
      "sampled return",
      fixed(lastOnes.reduce((a, b) => a + b, 0) / lastOnes.length),
      lastOnes.length > 1 ? `mean of the last ${lastOnes.length} updates` : "one update",
    ]);
  const cut = known(run.updates, "truncated_share");
  if (cut.length) found.push(["cut off", percent(cut[cut.length - 1]), "last update"]);
  const flat = known(run.updates, "constant_groups_share");
  if (flat.length) found.push(["no spread", percent(flat[flat.length - 1]), "of groups, last update"]);
  const rate = known(run.updates, "tokens_per_second").sort((a, b) => a - b);
  if (rate.length) found.push(["tokens a second", number(rate[rate.length >> 1]), "median"]);
  return found;
}

async function main() {
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser is too old for the report: it needs DecompressionStream (of 2023)");
  state.run = await unpack("run");
  showHeader();
  if (isEvaluation()) showTables();
  else showCurves();
  await showBrowser();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) drawAll();
    width = innerWidth;
  });
  document.documentElement.dataset.ready = "true";
}

main().catch((error) => {
  $("header").prepend(h("p", { class: "note" }, `The report cannot be shown: ${error.message}`));
  throw error;
});
