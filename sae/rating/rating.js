"use strict";
// The rating page: one card at a time, everything of it reachable by the keyboard. What a rater types leaves only as JSON.

(function rate() {
  const PARTS = JSON.parse(document.getElementById("rubric").textContent);
  const at = (id) => document.getElementById(id);
  const KINDS = [
    ["Where it fires most strongly", "On the left the activation, as share of the largest anywhere, at the token the example was chosen for."],
    ["From strong to weak", "Drawn from even intervals between zero and the largest."],
    ["The same tokens elsewhere", "Where it may or may not fire."],
  ];
  let rater = "", cards = 0, given = {}, number = -1, shownAt = 0, asked = PARTS, busy = false;

  const pages = (name) => { for (const each of ["start", "work", "end"]) at(each).hidden = each !== name; };

  function complain(where, text) {
    at(where).textContent = text;
    at(where).hidden = !text;
  }

  async function ask(path, options) {
    let answer;
    try {
      answer = await fetch(path, { cache: "no-store", credentials: "omit", ...options });
    } catch {
      throw new Error("The server does not answer. Is `monosem rate` still running? What you wrote is still here.");
    }
    if (!answer.ok) throw new Error((await answer.text()).trim() || `the server answered ${answer.status}`);
    return answer.json();
  }

  async function begin(name) {
    complain("start-problem", "");
    try {
      const known = await ask(`ratings/${encodeURIComponent(name)}`);
      [rater, cards, given] = [name, known.cards, known.ratings];
    } catch (error) {
      pages("start");
      return complain("start-problem", error.message);
    }
    if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
    await next();
  }

  const open = () => [...Array(cards).keys()].filter((card) => !(card in given));

  // The first card without an answer after this one, or before it.
  async function next() {
    const left = open();
    if (!left.length) return pages("end");
    await show(left.find((card) => card > number) ?? left[0]);
  }

  async function show(card) {
    pages("work");
    let shown;
    try {
      shown = await ask(`cards/${card}`);
    } catch (error) {
      return complain("problem", error.message);
    }
    number = card;
    complain("problem", "");
    at("card-name").textContent = `Card ${card + 1} of ${cards}`;
    at("progress").textContent = `${Object.keys(given).length} rated by ${rater}` + (card in given ? "; this one too: what you send now counts instead" : "");
    at("back").disabled = card === 0;
    at("forward").disabled = card === cards - 1;
    asked = PARTS.filter((part) => part !== "logits" || shown.u.length);
    at("part-logits").hidden = !shown.u.length;
    draw(shown);
    fill(given[card]);
    shownAt = performance.now();
    scrollTo(0, 0);
    at("interpretation").focus({ preventScroll: true });
  }

  function draw(shown) {
    const feature = { m: 1 };
    const sections = KINDS.map(([title, note], kind) => {
      const lines = shown.x.filter((example) => example.k === kind).map((example) => exampleLine(example, feature, shown.tokens));
      return lines.length ? section(title, note, ...lines) : null;
    }).filter((part) => part !== null);
    const effects = shown.u.length || shown.b.length
      ? section("Effect on the next token", "Per unit of activation, as share of its largest effect.",
        element("div", { class: "two" }, effectList("Made likelier", shown.u, 1), effectList("Made less likely", shown.b, 1)))
      : null;
    at("card").replaceChildren(...sections.slice(0, 1), ...(effects ? [effects] : []), ...sections.slice(1));
  }

  function fill(rating) {
    at("answer").reset();
    at("interpretation").value = rating ? rating.interpretation : "";
    for (const part of PARTS) {
      const grade = rating && rating[part] !== null ? choice(part, rating[part]) : null;
      if (grade) grade.checked = true;
    }
    point();
  }

  const choice = (part, grade) => at("answer").querySelector(`input[name="${part}"][value="${grade}"]`);
  const grade = (part) => {
    const checked = at("answer").querySelector(`input[name="${part}"]:checked`);
    return checked ? Number(checked.value) : null;
  };
  const ungraded = () => asked.find((part) => grade(part) === null);

  // Which part a digit would grade, and the points so far.
  function point(part = ungraded()) {
    for (const each of PARTS) at(`part-${each}`).classList.toggle("current", each === part);
    const given = asked.map(grade).filter((value) => value !== null);
    const most = asked.reduce((sum, each) => sum + at("answer").querySelectorAll(`input[name="${each}"]`).length - 1, 0);
    at("points").textContent = given.length ? `${given.reduce((sum, value) => sum + value, 0)} of ${most} points` : "";
  }

  function toGrades() {
    const part = ungraded();
    if (part) (at("answer").querySelector(`input[name="${part}"]`)).focus();
    else at("send").focus();
    point();
  }

  function digit(value) {
    const focused = PARTS.find((part) => at(`part-${part}`).contains(document.activeElement));
    const part = focused || ungraded();
    const button = part && choice(part, value);
    if (!button) return;
    button.checked = true;
    toGrades();
  }

  async function send() {
    const missing = ungraded();
    const text = at("interpretation").value.trim();
    const total = asked.reduce((sum, part) => sum + (grade(part) || 0), 0);
    if (missing) return complain("problem", "Some part has no grade yet.");
    if (!text && total > 0) return complain("problem", "Say what it stands for, or give 0 everywhere.");
    if (busy) return;
    busy = true;
    const rating = { card: number, interpretation: text, seconds: Math.min(86400, (performance.now() - shownAt) / 1000) };
    for (const part of PARTS) rating[part] = asked.includes(part) ? grade(part) : null;
    try {
      await ask(`ratings/${rater}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(rating) });
    } catch (error) {
      return complain("problem", error.message);
    } finally {
      busy = false;
    }
    given[number] = rating;
    await next();
  }

  function nothing() {
    for (const part of asked) choice(part, 0).checked = true;
    at("send").focus();
    point();
  }

  const step = (by) => { if (number + by >= 0 && number + by < cards) show(number + by); };

  function keys(event) {
    if (at("work").hidden || event.ctrlKey && event.key !== "Enter" || event.metaKey || event.altKey) return;
    const writing = event.target === at("interpretation");
    if (event.key === "Enter") {
      if (event.target.tagName === "BUTTON" || (writing && event.shiftKey)) return;
      event.preventDefault();
      if (writing && !event.ctrlKey && ungraded()) toGrades();
      else send();
      return;
    }
    if (writing) {
      if (event.key === "Escape") toGrades();
      return;
    }
    if (/^[0-9]$/.test(event.key)) digit(event.key);
    else if (event.key === "x") nothing();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "i") {
      event.preventDefault();
      at("interpretation").focus();
    }
  }

  at("who").addEventListener("submit", (event) => {
    event.preventDefault();
    begin(at("rater").value);
  });
  at("answer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  at("answer").addEventListener("change", () => point());
  at("nothing").addEventListener("click", nothing);
  at("back").addEventListener("click", () => step(-1));
  at("forward").addEventListener("click", () => step(1));
  at("review").addEventListener("click", () => show(0));
  addEventListener("keydown", keys);
  const known = location.hash.slice(1);
  if (/^[a-z0-9][a-z0-9_-]{0,39}$/.test(known)) begin(known);
  else at("rater").focus();
})();
