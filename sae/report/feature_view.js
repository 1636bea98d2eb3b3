"use strict";
// How one feature is drawn. Everything that came from a model or a text enters the page as a text node, never as markup.

const SHARES = 999; // activations are stored as shares of the feature's maximum, in thousandths

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// As sae/visible_text.py has them: parts of characters that are seen, and (in a group) characters that show nothing or turn the text around them.
const UNSEEN = /(?<=[\u00a9\u00ae\u203c\u2049\u20e3\u2100-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\ufe0f\u{1f000}-\u{1faff}])(?:\u200d(?=[\u00a9\u00ae\u203c\u2049\u20e3\u2100-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\ufe0f\u{1f000}-\u{1faff}])|[\ufe0e\ufe0f])|(?<=[0-9#*])\ufe0f(?=\u20e3)|(?<=[\u0600-\u109f\u1780-\u18af])[\u200c\u200d]|\u{1f3f4}\u{e0067}\u{e0062}(?:\u{e0065}\u{e006e}\u{e0067}|\u{e0073}\u{e0063}\u{e0074}|\u{e0077}\u{e006c}\u{e0073})\u{e007f}|([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}])/gu;
const CONTINUES = /^(?:\p{M}|\u200d|[\u{1f3fb}-\u{1f3ff}])/u;
const FLAG_LETTER = /^[\u{1f1e6}-\u{1f1ff}]/u;
const HALF_FLAG = /(?<![\u{1f1e6}-\u{1f1ff}])(?:[\u{1f1e6}-\u{1f1ff}]{2})*[\u{1f1e6}-\u{1f1ff}]$/u;

function visible(text, everySpace) {
  const coded = text
    .replace(UNSEEN, (found, unseen) => unseen ? `⟦U+${unseen.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧` : found)
    .replace(/\n/g, "↵")
    .replace(/\t/g, "⇥")
    .replace(/\u00a0/g, "⍽");
  return everySpace ? coded.replace(/ /g, "␣") : coded.replace(/^ +$|  +/g, (spaces) => "·".repeat(spaces.length));
}

// A sentence that quotes text between backticks; a quotation's direction does not turn what is around it.
function quoting(sentence) {
  return visible(sentence, false).split(/(`[^`]*`)/).map((part) => part.startsWith("`") ? element("bdi", {}, part) : part);
}

function continues(before, text) {
  if (!text || /[\s⟧]$/u.test(before)) return false;
  return CONTINUES.test(text) || before.endsWith("\u200d") || (FLAG_LETTER.test(text) && HALF_FLAG.test(before));
}

// Places of the tokens that make up what people see as one character: parts of a byte sequence, combining marks, joined emoji, flags.
function wholeCharacters(texts) {
  const groups = [];
  let before = "";
  texts.forEach((text, place) => {
    if (place && (!before || continues(before, text))) {
      groups[groups.length - 1].push(place);
      before += text;
    } else {
      groups.push([place]);
      before = text;
    }
  });
  return groups;
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(digits - 1).replace("-", "−").replace("+", "");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

function percent(value) {
  return value === null || value === undefined ? "–" : number(100 * value) + " %";
}

// Pairs (position, share) as one share per position.
function spread(pairs, length) {
  const shares = new Array(length).fill(0);
  for (let i = 0; i < pairs.length; i += 2) shares[pairs[i]] = pairs[i + 1];
  return shares;
}

// The text of tokens that make up one character, or of one token, marked by the strongest of them; activations are given for each.
function tokenMark(text, shares, guesses, feature, scored) {
  const shown = text === " " ? text : visible(text, false); // in a line a space reads as one
  const [share, guess] = [Math.max(...shares), Math.max(...guesses)];
  if (!share && !guess) return element("span", { class: "token" }, shown);
  const each = (values, say) => values.map(say).join(", ");
  let says = `\u2068${visible(text, true)}\u2069  activation ${each(shares, (value) => `${number(value * feature.m)} (${Math.round(100 * value)} % of its maximum)`)}`;
  if (scored) says += `, predicted ${each(guesses, (value) => number(value * feature.m))}`;
  if (shares.length > 1) says += `; ${shares.length} tokens`;
  const mark = element(share ? "mark" : "span", { class: guess ? "token guessed" : "token", title: says }, shown);
  mark.style.setProperty("--share", Math.min(1, share).toFixed(3)); // held-out text may exceed the maximum
  mark.style.setProperty("--guess", Math.min(1, guess).toFixed(3));
  return mark;
}

function exampleLine(example, feature, tokens) {
  const fired = spread(example.a, example.t.length).map((share) => share / SHARES);
  const scored = example.q !== undefined;
  const guesses = spread(example.q || [], example.t.length).map((share) => share / SHARES);
  const texts = example.t.map((token) => tokens[token]);
  const [split, sequence, position] = example.w || [];
  const from = split ? `${split.replace("_", "-")} sequence ${sequence}, tokens ${position} to ${position + example.t.length - 1}` : null;
  const peak = number(fired[example.c] * feature.m);
  const left = element("span", { class: "peak", title: from }, scored ? `${peak} / ${number(guesses[example.c] * feature.m)}` : peak);
  const text = element("span", { class: scored ? "text scored" : "text", dir: "auto" },
    ...wholeCharacters(texts).map((group) =>
      tokenMark(group.map((place) => texts[place]).join(""), group.map((place) => fired[place]), group.map((place) => guesses[place]), feature, scored)));
  return element("p", { class: "example" }, left, text);
}

function section(title, note, ...content) {
  return element("section", {}, element("h4", {}, title), note ? element("p", { class: "note" }, note) : null, ...content);
}

const KINDS = [
  ["Strongest examples", "On the left the activation of the token the example was chosen for. Text the explanation was made from."],
  ["From strong to weak", "One example from each of the even intervals between zero and the maximum, as far as the feature fires there."],
  ["Examples it was scored on", "Held-out text, shown and scored only after the explanation was made. On the left the true and the predicted activation."],
];

function exampleSections(feature, tokens) {
  return KINDS.map(([title, note], kind) => {
    const lines = feature.x.filter((example) => example.k === kind).map((example) => exampleLine(example, feature, tokens));
    return lines.length ? section(title, note, ...lines) : null;
  });
}

function patternList(feature) {
  if (!feature.p.length) return null;
  const rows = feature.p.map(([pattern, weight]) =>
    element("li", {}, element("code", { dir: "auto" }, visible(pattern, false)), element("span", { class: "amount" }, number(weight))));
  return section("Patterns", "What the explanation predicts from: the tokens that fire it in their context, with the activation predicted there.",
    element("ul", { class: "patterns" }, ...rows));
}

function effectList(title, effects, scale) {
  const rows = effects.map(([token, effect]) => {
    const bar = element("span", { class: "bar" });
    bar.style.setProperty("--share", (Math.abs(effect) / scale).toFixed(3));
    return element("li", {}, element("code", { dir: "auto" }, visible(token, true)), bar, element("span", { class: "amount" }, number(effect)));
  });
  return element("div", {}, element("h5", {}, title), element("ol", { class: "effects" }, ...rows));
}

function logitEffects(feature) {
  if (!feature.u.length && !feature.b.length) return null;
  const scale = Math.max(1e-9, ...[...feature.u, ...feature.b].map(([, effect]) => Math.abs(effect)));
  return section("Effect on the next token", "Change of each token's logit per unit of activation, its median over the vocabulary removed.",
    element("div", { class: "two" }, effectList("Most raised", feature.u, scale), effectList("Most lowered", feature.b, scale)));
}

function activationHistogram(feature) {
  if (!feature.h || !feature.h.length) return null;
  const top = Math.max(1, ...feature.h.map((count) => Math.log10(1 + count)));
  const bars = feature.h.map((count, bin) => {
    const share = (edge) => number((edge / feature.h.length) * feature.m);
    const bar = element("span", { title: `${count.toLocaleString("en")} tokens with an activation of ${share(bin)} to ${share(bin + 1)}` });
    bar.style.setProperty("--share", (Math.log10(1 + count) / top).toFixed(3));
    return bar;
  });
  return section("Activations", "Tokens per activation where it fires, on a logarithmic axis of counts.",
    element("div", { class: "histogram", role: "img", "aria-label": "histogram of activations" }, ...bars),
    element("p", { class: "axis" }, element("span", {}, "0"), element("span", {}, number(feature.m))));
}

// What a language model or a person wrote of the feature.
function inWords(feature) {
  const lines = (feature.l || []).map(([explainer, sentence, outcome, scores, notes]) => element("div", { class: "said" },
    element("p", {}, ...sentence ? quoting(sentence) : [element("span", { class: "note" }, `no explanation: ${outcome}`)]),
    element("p", { class: "note" }, [`language model, ${explainer}`, ...scores.map(([name, value]) => `${name} ${number(value)}`), notes].filter(Boolean).join(" · "))));
  const people = (feature.v || []).map(([rater, points, words]) => element("div", { class: "said" },
    element("p", { dir: "auto" }, words ? visible(words, false) : element("span", { class: "note" }, "stands for nothing")),
    element("p", { class: "note" }, `${rater} · ${number(points)} of 14 points`)));
  return [
    lines.length ? section("In words", "Written by a language model from the examples below. Simulation is a correlation (chance 0); detection, fuzzing and next tokens are balanced accuracies (chance 0.5).", ...lines) : null,
    people.length ? section("What people said", "From examples and effects alone, knowing neither the source nor any explanation or score.", ...people) : null,
  ];
}

function facts(feature) {
  const pairs = [
    ["Explanation score", feature.s === null ? `none: ${feature.r || "not scored"}` : number(feature.s), "rank correlation of predicted and true activations on held-out text"],
    ["Density", percent(feature.d), "share of tokens on which it fires"],
    ["Maximum", number(feature.m), "largest activation found"],
    ["Fires on", feature.z === null ? "–" : feature.z ? "one token" : "several tokens", "whether all of its top examples peak on the same token"],
  ];
  if (feature.o) {
    const [precision, recall, f1, variance] = feature.o.map((value) => value.toFixed(2).replace("-", "−"));
    pairs.push(["Precision / recall / F1", `${precision} / ${recall} / ${f1}`, "of the held-out tokens that the explanation says fire, the share that does; of those that fire, the share it says so of; both in one"]);
    pairs.push(["Variance explained", variance, "of the activation over all held-out tokens, by the explanation"]);
  }
  return element("dl", { class: "facts" }, ...pairs.map(([name, value, says]) =>
    element("div", { title: says }, element("dt", {}, name), element("dd", {}, value))));
}

function nearList(title, source, near) {
  const rows = near.map(([other, measure]) => element("li", {},
    element("a", { href: `#${encodeURIComponent(source.name)}/${other}` }, String(other)),
    element("span", { class: "what" }, ...quoting(source.known.get(other).e || "no explanation")),
    element("span", { class: "amount" }, measure.toFixed(2))));
  return rows.length ? element("div", {}, element("h5", {}, title), element("ol", { class: "near" }, ...rows)) : "";
}

// Neighbours of the feature that are in this file too.
function neighbours(source, feature) {
  if (!feature.f.length && !feature.y.length) return null;
  return section("Features near it", null, element("div", { class: "two" },
    nearList("Fire on the same tokens (phi)", source, feature.f), nearList("Write in its direction (cosine)", source, feature.y)));
}

function scale() {
  const steps = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const step = element(share ? "mark" : "span", { class: "token" }, `${100 * share} %`);
    step.style.setProperty("--share", share);
    return step;
  });
  const guessed = element("span", { class: "token guessed" }, "predicted");
  guessed.style.setProperty("--guess", 1);
  return element("p", { class: "scale" }, "Activation as share of its maximum ", ...steps, " In scored examples the underline is the ", guessed, " activation.");
}

function featureView(source, feature, tokens) {
  return [
    element("p", { class: "explanation" }, ...quoting(feature.e || "No explanation.")),
    facts(feature),
    ...inWords(feature),
    element("div", { class: "two" }, patternList(feature) || "", activationHistogram(feature) || ""),
    logitEffects(feature),
    neighbours(source, feature),
    scale(),
    ...exampleSections(feature, tokens),
  ].filter((part) => part !== null);
}
