// An answer token by token, each coloured by its advantage or by how surprising it was.

const LEVELS = 8;
const SURPRISE = 6; // nats at which the colour is full
const FIRST_TOKENS = 2000; // shown before one asks for more
const FIRST_CHARACTERS = 20000;
const colouring = { by: "advantage", largest: 1 };
const tokenOf = new WeakMap(); // element -> [turn, number]

const advantageOf = (turn, i) => (Array.isArray(turn.advantages) ? turn.advantages[i] : turn.advantages);

function tokenClass(turn, i) {
  if (colouring.by === "none") return "t";
  if (colouring.by === "logprob") {
    const logprob = turn.logprobs?.[i];
    const level = isNumber(logprob) ? Math.min(LEVELS, Math.round((LEVELS * -logprob) / 100 / SURPRISE)) : 0;
    return level > 0 ? `t l${level}` : "t";
  }
  return `t ${advantageClass(advantageOf(turn, i))}`.trim();
}

function advantageClass(advantage) {
  if (!isNumber(advantage) || advantage === 0) return "";
  const level = Math.max(1, Math.min(LEVELS, Math.ceil((LEVELS * Math.abs(advantage)) / colouring.largest - 1e-9)));
  return (advantage > 0 ? "p" : "n") + level;
}

// The largest advantage of a group is the full colour.
function largestAdvantage(members) {
  let largest = 0;
  for (const member of members)
    for (const turn of member.turns) {
      for (const one of [turn.advantages].flat()) if (isNumber(one)) largest = Math.max(largest, Math.abs(one));
    }
  return largest;
}

// The style keeps text that runs from right to left to itself; `dir=auto` would read all of it at every token.
function answer(turn) {
  const box = h("div", { class: "said" });
  if (!turn.tokens || (colouring.by === "none" && turn.said !== undefined)) {
    return plain(box, turn.said ?? "", [advantageClass(colouring.by === "advantage" ? turn.advantages : null)]);
  }
  const show = (from, to) => {
    for (let i = from; i < to; i++) box.append(token(turn, i));
  };
  const first = Math.min(turn.tokens.length, FIRST_TOKENS);
  show(0, first);
  if (first < turn.tokens.length) {
    const rest = h(
      "button",
      {
        type: "button",
        class: "rest",
        onclick: () => {
          rest.remove();
          show(first, turn.tokens.length);
        },
      },
      `show all ${turn.tokens.length.toLocaleString("en")} tokens`,
    );
    box.append(rest);
  }
  if (!turn.tokens.length) box.append(nothing());
  return box;
}

function token(turn, i) {
  const element = h("span", { class: tokenClass(turn, i) });
  // A line break alone has no width: it gets a sign, which is not copied with the text.
  visible(turn.tokens[i])
    .split("\n")
    .forEach((part, n) => {
      if (n) element.append(h("i", { class: "newline" }), "\n");
      if (part) element.append(part);
    });
  tokenOf.set(element, [turn, i]);
  return element;
}

function plain(box, text, classes = []) {
  const inner = h("span", { class: classes.filter(Boolean).join(" ") || null });
  inner.append(visible(text.slice(0, FIRST_CHARACTERS)));
  box.append(text ? inner : nothing());
  if (text.length > FIRST_CHARACTERS) {
    const rest = h(
      "button",
      {
        type: "button",
        class: "rest",
        onclick: () => {
          rest.remove();
          inner.append(visible(text.slice(FIRST_CHARACTERS)));
        },
      },
      `show all ${text.length.toLocaleString("en")} characters`,
    );
    box.append(rest);
  }
  return box;
}

const nothing = () => h("span", { class: "nothing" }, "(nothing)");

function legend() {
  const scale = (letters, left, right, title) =>
    h("span", { class: "scale", title }, left, ...letters.map((name) => h("i", { class: `t ${name}` })), right);
  const levels = [...Array(LEVELS).keys()].map((i) => i + 1);
  if (colouring.by === "logprob")
    return scale(
      ["", ...levels.map((i) => `l${i}`)],
      "expected ",
      ` surprising (logprob ${MINUS}${SURPRISE} or less)`,
      "log probability of each token when it was sampled",
    );
  if (colouring.by === "none") return h("span", { class: "scale" });
  const most = colouring.largest ? fixed(colouring.largest) : "";
  if (!colouring.largest)
    return h("span", { class: "scale" }, "nothing was learnt from this group, or advantages were not recorded");
  return scale(
    [...levels.map((i) => `n${i}`).reverse(), "", ...levels.map((i) => `p${i}`)],
    `${MINUS}${most} less likely `,
    ` more likely +${most}`,
    "advantage of each token: what training was told to make less or more likely",
  );
}

function followPointer(container) {
  const tip = $("tip");
  container.addEventListener("pointerover", (event) => {
    const known = tokenOf.get(event.target.closest?.(".t"));
    tip.hidden = !known;
    if (!known) return;
    const [turn, i] = known;
    const logprob = turn.logprobs?.[i];
    const rows = [
      ["token", JSON.stringify(visible(turn.tokens[i]))],
      ["advantage", isNumber(advantageOf(turn, i)) ? signed(advantageOf(turn, i)) : "not learnt from"],
      ["logprob", isNumber(logprob) ? `${fixed(logprob / 100)}  (${percent(Math.exp(logprob / 100))})` : "\u2013"],
      ["position", `${i + 1} of ${turn.tokens.length}`],
    ];
    tip.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("span", {}, name), value)));
    const at = event.target.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 12))}px`;
    const above = at.top - tip.offsetHeight - 6;
    tip.style.top = `${above > 4 ? above : at.bottom + 6}px`;
  });
  for (const gone of ["pointerleave", "pointerdown"]) container.addEventListener(gone, () => (tip.hidden = true));
  addEventListener("scroll", () => (tip.hidden = true), { passive: true });
}

function recolour(container) {
  for (const element of container.querySelectorAll(".t")) {
    const known = tokenOf.get(element);
    if (known) element.className = tokenClass(...known);
  }
}
