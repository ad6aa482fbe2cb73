// Line and area charts as SVG, drawn at the size they have, with one cursor for all of them.

const charts = [];

// A chart's specification: {title, hint, series: [{name, color, values}], dots: [{name, color, x, y}],
// references: {name: value}, stacked, format, height, zero}. `values` stand beside `axis`, the updates.
function makeChart(spec, axis) {
  const readout = h("div", { class: "legend" });
  const figure = h("figure", { class: `chart ${spec.hero ? "hero" : ""}`, "data-chart": spec.id });
  const svg = s("svg", { role: "img", "aria-label": spec.title });
  figure.append(h("figcaption", { title: spec.hint || null }, spec.title), readout, svg);
  const chart = { spec, axis, figure, svg, readout, cells: [] };
  const items = [...spec.series, ...(spec.dots || [])];
  for (const item of items) {
    const value = h("b");
    const key = h("i", { class: item.x ? "key dot" : "key" });
    key.style.setProperty("--c", `var(--${item.color})`);
    readout.append(h("span", {}, items.length > 1 ? key : null, item.name ? `${item.name} ` : "", value));
    chart.cells.push({ item, value });
  }
  svg.addEventListener("pointermove", (event) => moveCursor(updateUnder(chart, event)));
  svg.addEventListener("pointerleave", () => moveCursor(null));
  svg.addEventListener("click", (event) => {
    const update = updateUnder(chart, event);
    if (update !== null) document.dispatchEvent(new CustomEvent("pick", { detail: update }));
  });
  charts.push(chart);
  return figure;
}

function updateUnder(chart, event) {
  if (!chart.x) return null;
  const box = chart.svg.getBoundingClientRect();
  const at = chart.x.invert(event.clientX - box.left);
  const all = chart.axis.length ? chart.axis : (chart.spec.dots[0] || { x: [] }).x;
  return all.length ? all[nearest(all, at)] : null;
}

function nearest(sorted, value) {
  let low = 0,
    high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - sorted[low - 1] < sorted[low] - value ? low - 1 : low;
}

// Exponential moving average without the bias towards its start; gaps stay gaps.
function smoothed(values, weight) {
  if (!weight) return values;
  let sum = 0,
    mass = 0;
  return values.map((value) => {
    if (!isNumber(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

function ticks(low, high, count) {
  const span = high - low || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) || 10);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

// The values that the y axis must hold. A few spikes are cut off rather than flattening all the rest.
function range(chart, lines) {
  const { spec } = chart;
  let values = lines.flat().filter(isNumber);
  if (spec.robust && values.length > 20) {
    const sorted = [...values].sort((a, b) => a - b);
    const cut = 1.5 * sorted[Math.floor(0.98 * (sorted.length - 1))];
    if (cut > 0 && sorted[sorted.length - 1] > 2 * cut) values = values.filter((value) => value <= cut);
  }
  values.push(...(spec.dots || []).flatMap((dots) => dots.y).filter(isNumber), ...Object.values(spec.references || {}));
  let low = values.reduce((a, b) => Math.min(a, b), Infinity),
    high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (low > high) return [0, 1];
  if (spec.stacked || (spec.zero && low >= 0)) low = 0;
  const margin = 0.06 * (high - low) || 0.1 * Math.abs(high) || 0.5;
  if (spec.share) return [0, Math.min(1, spec.stacked ? 1 : Math.max(0.05, high + margin))];
  return [low === 0 && (spec.stacked || spec.zero) ? 0 : low - margin, high + margin];
}

function drawChart(chart, weight, selected) {
  const { spec, axis, svg } = chart;
  const width = svg.clientWidth || 300,
    height = svg.clientHeight || (spec.hero ? 250 : 104);
  const labels = placedLabels(spec.references || {});
  const right = labels.length
    ? Math.min(0.3 * width, 14 + 6.1 * Math.max(...labels.map((label) => label.text.length)))
    : 6;
  const box = { left: 40, right: width - right, top: 6, bottom: height - 17 };
  const lines = spec.stacked
    ? stack(spec.series.map((one) => smoothed(one.values, weight)))
    : spec.series.map((one) => smoothed(one.values, weight));
  const raw = spec.series.map((one) => one.values);
  const [low, high] = range(chart, spec.stacked ? lines : [...raw, ...lines]);
  const all = [...axis, ...(spec.dots || []).flatMap((dots) => dots.x)];
  const [first, last] = all.length
    ? [
        Math.min(all[0], ...(spec.dots || []).map((dots) => dots.x[0] ?? Infinity)),
        all.reduce((a, b) => Math.max(a, b)),
      ]
    : [0, 1];
  const x = (value) => box.left + ((value - first) / (last - first || 1)) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  x.invert = (pixel) => first + ((pixel - box.left) / (box.right - box.left)) * (last - first || 1);
  Object.assign(chart, { x, y, box, lines });
  const clip = `clip-${charts.indexOf(chart)}`;
  const plot = s("g", { "clip-path": `url(#${clip})` });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    s(
      "clipPath",
      { id: clip },
      s("rect", { x: box.left - 3, y: box.top - 5, width: box.right - box.left + 6, height: box.bottom - box.top + 6 }),
    ),
    frame(chart, low, high, first, last),
    plot,
  );
  spec.series.forEach((one, i) =>
    plot.append(
      ...(spec.stacked ? area(chart, one, lines[i], i ? lines[i - 1] : null) : curve(chart, one, lines[i], weight)),
    ),
  );
  for (const label of labels) svg.append(...reference(label, chart, labels));
  for (const dots of spec.dots || []) plot.append(...markers(chart, dots));
  if (selected !== null)
    plot.append(s("line", { class: "chosen", x1: x(selected), x2: x(selected), y1: box.top - 4, y2: box.bottom }));
  chart.cursor = s("g", { class: "cursor" });
  plot.append(chart.cursor);
}

function frame(chart, low, high, first, last) {
  const { x, y, box, spec } = chart;
  const group = s("g", { class: "frame" });
  for (const value of ticks(low, high, spec.hero ? 6 : 3)) {
    group.append(
      s("line", { class: value === 0 ? "zero" : null, x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
    );
    group.append(
      s(
        "text",
        { x: box.left - 6, y: y(value) + 3.5, "text-anchor": "end" },
        spec.share ? `${Math.round(100 * value)}\u2009%` : number(Number(value.toPrecision(12))),
      ),
    );
  }
  const whole = ticks(first, last, spec.hero ? 10 : 4).filter(Number.isInteger);
  for (const value of whole)
    group.append(s("text", { x: x(value), y: box.bottom + 13, "text-anchor": "middle" }, number(value, 4)));
  return group;
}

function pathOf(chart, values) {
  let path = "",
    down = false;
  values.forEach((value, i) => {
    if (isNumber(value)) path += `${down ? "L" : "M"}${chart.x(chart.axis[i]).toFixed(1)} ${chart.y(value).toFixed(1)}`;
    down = isNumber(value);
  });
  return path;
}

function curve(chart, one, line, weight) {
  const drawn = [];
  const stroke = `var(--${one.color})`;
  if (weight) drawn.push(s("path", { class: "raw", d: pathOf(chart, one.values), stroke }));
  drawn.push(s("path", { class: "line", d: pathOf(chart, line), stroke }));
  const lonely = (i) => isNumber(line[i]) && !isNumber(line[i - 1]) && !isNumber(line[i + 1]);
  line.forEach((value, i) => {
    if (lonely(i)) drawn.push(s("circle", { cx: chart.x(chart.axis[i]), cy: chart.y(value), r: 2.2, fill: stroke }));
  });
  return drawn;
}

const stack = (columns) => {
  const totals = columns.length ? columns[0].map(() => 0) : [];
  return columns.map((column) => column.map((value, i) => (totals[i] += value || 0)));
};

function area(chart, one, upper, lower) {
  if (!upper.length) return [];
  const at = (i, value) => `${chart.x(chart.axis[i]).toFixed(1)} ${chart.y(value).toFixed(1)}`;
  const back = upper.map((_, i) => at(i, lower ? lower[i] : 0)).reverse();
  const path = `M${upper.map((value, i) => at(i, value)).join("L")}L${back.join("L")}Z`;
  const color = `var(--${one.color})`;
  return [s("path", { class: "area", d: path, fill: color, stroke: color })];
}

function markers(chart, dots) {
  const color = `var(--${dots.color})`;
  const points = dots.x
    .map((update, i) => [chart.x(update), dots.y[i]])
    .filter(([, value]) => isNumber(value))
    .map(([a, value]) => [a, chart.y(value)]);
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
  return [
    s("path", { class: "thin", d: path, stroke: color }),
    ...points.map(([cx, cy]) => s("circle", { class: "eval", cx, cy, r: chart.spec.hero ? 3.6 : 2.6, fill: color })),
  ];
}

const placedLabels = (references) =>
  Object.entries(references)
    .sort((a, b) => b[1] - a[1])
    .map(([name, value]) => ({ name, value, text: `${visible(name)} ${fixed(value)}` }));

function reference(label, chart, labels) {
  const { box, y } = chart;
  // Labels one above the other keep 12 pixels between them; the lines stay where they belong.
  let previous = -Infinity;
  for (const one of labels) {
    one.at = Math.max(y(one.value), previous + 12);
    previous = one.at;
  }
  const line = y(label.value);
  return [
    s("line", { class: "reference", x1: box.left, x2: box.right, y1: line, y2: line }),
    s("path", { class: "leader", d: `M${box.right} ${line}L${box.right + 6} ${label.at}` }),
    s("text", { class: "reference-label", x: box.right + 9, y: label.at + 3.5 }, label.text),
  ];
}

// Show at all charts what the values were at an update; null: the last ones.
function moveCursor(update) {
  for (const chart of charts) {
    const { axis, spec } = chart;
    const index = axis.length ? (update === null ? axis.length - 1 : nearest(axis, update)) : -1;
    const format = spec.format || number;
    chart.cursor?.replaceChildren();
    if (update !== null && chart.x && axis.length) {
      const at = chart.x(update);
      chart.cursor.append(s("line", { x1: at, x2: at, y1: chart.box.top - 4, y2: chart.box.bottom }));
      spec.series.forEach((one, i) => {
        const value = (chart.lines[i] || [])[index];
        if (isNumber(value))
          chart.cursor.append(
            s("circle", { cx: chart.x(axis[index]), cy: chart.y(value), r: 2.8, fill: `var(--${one.color})` }),
          );
      });
    }
    for (const { item, value } of chart.cells)
      value.textContent = format(item.values ? item.values[index] : latest(item, update));
  }
  const where = $("where");
  if (where) where.textContent = update === null ? "" : `update ${update}`;
}

// The evaluation at an update, or the last one before it.
function latest(dots, update) {
  let found = null;
  dots.x.forEach((at, i) => {
    if ((update === null || at <= update) && isNumber(dots.y[i])) found = dots.y[i];
  });
  return found;
}
