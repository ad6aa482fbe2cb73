// What an evaluation found: a table an environment, a row a quantity, a column a kind of answers.

function showTables() {
  const { tables } = state.run;
  if (!tables.length) return;
  $("curves").replaceChildren(
    h("div", { class: "bar" }, h("h2", {}, "Summary"), h("span", { class: "aside" }, "with 95\u2009% intervals")),
    h("div", { class: "tables" }, tables.map(summaryTable)),
  );
}

function summaryTable(found) {
  const cell = ([value, interval]) =>
    h("td", {}, value ? h("b", {}, value) : null, interval ? [" ", h("small", {}, interval)] : null);
  return h(
    "figure",
    { class: "chart summary" },
    h("figcaption", {}, visible(found.name)),
    found.columns.length
      ? h(
          "table",
          {},
          h("tr", {}, h("td"), ...found.columns.map((name) => h("th", { scope: "col" }, visible(name)))),
          ...found.rows.map(([label, ...cells]) =>
            h("tr", {}, h("th", { scope: "row" }, visible(label)), ...cells.map(cell)),
          ),
        )
      : null,
    found.notes.map((note) => h("p", {}, visible(note))),
  );
}
