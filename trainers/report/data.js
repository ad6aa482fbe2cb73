// Decoding of the data blocks, and the few helpers that everything else uses.
// Text that came out of a run reaches the page through text nodes only.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const h = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

async function unpack(id) {
  const binary = atob($(id).textContent);
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const MINUS = "\u2212";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// Three significant digits, thousands as k and M, a real minus sign.
function number(value, digits = 3) {
  if (!isNumber(value)) return "\u2013";
  const size = Math.abs(value);
  let text;
  if (size >= 1e6) text = `${trim((size / 1e6).toPrecision(digits))}M`;
  else if (size >= 1e4) text = `${trim((size / 1e3).toPrecision(digits))}k`;
  else if (size >= 1000) text = size.toFixed(0);
  else if (size !== 0 && size < 1e-3) text = size.toExponential(1).replace("e-", `e${MINUS}`);
  else text = trim(size.toPrecision(digits));
  return value < 0 && Number(text) !== 0 ? MINUS + text : text;
}

const trim = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);
const percent = (value) =>
  isNumber(value) ? `${trim((100 * value).toPrecision(value && Math.abs(value) < 0.1 ? 2 : 3))}\u2009%` : "\u2013";
const fixed = (value) => (isNumber(value) ? (value < 0 ? MINUS : "") + trimTo(Math.abs(value)) : "\u2013");
const trimTo = (size) => (size >= 100 ? size.toFixed(0) : size.toFixed(2));
const signed = (value) => (value > 0 ? "+" : "") + fixed(value);

// Control characters, direction overrides and what has no width would hide what was said, or change what is around it.
// Joiners inside a word of a script that needs them, or between pictures, and a picture's variant stay what they are.
const JOINS = String.raw`(?<=[\p{L}\p{M}\p{Extended_Pictographic}\p{Emoji_Modifier}])(?<!\p{Script=Latin})[\u200c\u200d](?=[\p{L}\p{M}\p{Extended_Pictographic}])`;
const VARIES = String.raw`(?<=[\p{Extended_Pictographic}\d#*])\ufe0f`;
const UNSEEN = String.raw`[\u0080-\u009f\u2028\u2029\ufff9-\ufffb\p{Default_Ignorable_Code_Point}]`;
const HIDDEN = new RegExp(`${JOINS}|${VARIES}|(${UNSEEN})`, "gu");

function visible(text) {
  return text
    .replace(/\r\n/g, "\u240d\n")
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (found) => String.fromCharCode(0x2400 + found.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421")
    .replace(HIDDEN, (found, hidden) => (hidden ? escaped(hidden) : found))
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, escaped);
}

const escaped = (found) => `\u2039U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u203a`;

// What the run and the choice of the reader are; every part of the page reads it.
const state = { run: null, current: -1 };
const isEvaluation = () => Boolean(state.run.tables);
