"use strict";
// The browser of features: a list one can search, filter and sort, and the feature named by the address (#source/feature).

(async function browse() {
  const holder = document.getElementById("feature-data");
  if (!holder) return;
  const at = (id) => document.getElementById(id);
  const data = await unpacked(holder.textContent).catch(() => null);
  if (!data) {
    at("features").hidden = false;
    at("filters").closest(".browser").replaceWith("The features could not be unpacked: this browser is too old for it, or the file was damaged.");
    return;
  }
  const list = at("feature-list"), view = at("feature-view"), browser = at("features");
  const ROWS = 100;
  const filters = { score: "s", density: "d", maximum: "m" };
  const sources = new Map(data.sources.map((source) => [source.name, source]));
  let source = data.sources[0];
  let current = null;
  let order = [];

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  for (const each of data.sources) {
    each.known = new Map(each.features.map((feature) => [feature.i, feature]));
    for (const feature of each.features) {
      const top = feature.u.map(([token]) => token);
      const said = [...(feature.l || []).map(([, sentence]) => sentence || ""), ...(feature.v || []).map(([, , words]) => words)];
      feature.words = [String(feature.i), feature.e, ...said, ...feature.p.map(([pattern]) => pattern), ...top].join("\n").toLowerCase();
    }
  }

  const address = (feature) => `#${encodeURIComponent(source.name)}/${feature.i}`;

  function bounds() {
    return Object.entries(filters).map(([name, key]) => {
      const low = parseFloat(at(`${name}-from`).value), high = parseFloat(at(`${name}-to`).value);
      return { key, low: Number.isNaN(low) ? -Infinity : low, high: Number.isNaN(high) ? Infinity : high };
    }).filter(({ low, high }) => low > -Infinity || high < Infinity);
  }

  function chosen() {
    const words = at("search").value.toLowerCase().trim();
    const limits = bounds(), kind = at("kind").value;
    return source.features.filter((feature) =>
      (!words || feature.words.includes(words)) &&
      (kind === "any" || feature.z === (kind === "single" ? 1 : 0)) &&
      limits.every(({ key, low, high }) => feature[key] !== null && feature[key] >= low && feature[key] <= high));
  }

  function sorted(features) {
    const [key, direction] = at("sort").value.split(" ");
    const sign = direction === "up" ? 1 : -1;
    const value = (feature) => (feature[key] === null ? Infinity * sign : feature[key]); // what has no value comes last
    return [...features].sort((a, b) => sign * (value(a) - value(b)) || a.i - b.i);
  }

  function row(feature) {
    const link = element("a", { href: address(feature) },
      element("span", { class: "id" }, String(feature.i)),
      element("span", { class: "what" }, ...quoting(feature.e || "no explanation")),
      element("span", { class: "amount" }, feature.s === null ? "–" : feature.s.toFixed(2)));
    return element("li", {}, link);
  }

  // Rows are made as far as they are looked at: a thousand at every key pressed would be felt.
  function extend(length) {
    const made = list.children.length;
    list.append(...order.slice(made, Math.max(made, length)).map(row));
  }

  function refresh() {
    order = sorted(chosen());
    list.replaceChildren();
    extend(ROWS);
    at("feature-count").textContent = `${order.length.toLocaleString("en")} of ${source.features.length.toLocaleString("en")} features`;
    at("feature-note").textContent = source.note;
    for (const button of at("sources").children) button.setAttribute("aria-pressed", String(button.dataset.source === source.name));
    markCurrent(false);
  }

  function markCurrent(scroll) {
    const old = list.querySelector("[aria-current]");
    if (old) old.removeAttribute("aria-current");
    const place = current ? order.indexOf(current) : -1;
    if (place >= 0) {
      extend(place + ROWS / 2);
      const link = list.children[place].firstChild;
      link.setAttribute("aria-current", "true");
      if (scroll) list.scrollTop = Math.max(0, link.parentNode.offsetTop - list.clientHeight / 3);
    }
    at("previous").disabled = place <= 0;
    at("next").disabled = !order.length || place === order.length - 1;
  }

  function show(feature) {
    current = feature;
    at("feature-name").textContent = feature ? `${source.label} / ${feature.i}` : "No feature";
    at("feature-name").href = feature ? address(feature) : "#features";
    view.replaceChildren(...(feature ? featureView(source, feature, data.tokens) : []));
    markCurrent(true);
  }

  function choose(name) {
    if (source.name === name) return;
    source = sources.get(name);
    refresh();
  }

  function step(by) {
    const place = current ? order.indexOf(current) + by : 0;
    if (order[place]) location.hash = address(order[place]);
  }

  function follow() {
    const slash = location.hash.lastIndexOf("/");
    if (slash < 0) return;
    let name;
    try {
      name = decodeURIComponent(location.hash.slice(1, slash));
    } catch {
      return; // not an address of ours
    }
    if (!sources.has(name)) return;
    choose(name);
    const wanted = Number(location.hash.slice(slash + 1));
    const feature = source.known.get(wanted);
    show(feature || null);
    if (!feature) view.replaceChildren(element("p", { class: "note" }, `Number ${wanted} of ${source.label} is not among those in this file. ${source.note}`));
    const top = at("feature-detail").getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) (innerWidth < 900 ? at("feature-detail") : browser).scrollIntoView();
  }

  function keys(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && event.target === at("search")) {
      at("search").value = "";
      refresh();
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      at("search").focus();
    }
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  }

  for (const each of data.sources) {
    const button = element("button", { type: "button", "data-source": each.name, "aria-pressed": "false" }, each.label);
    button.addEventListener("click", () => {
      choose(each.name);
      show(order[0] || null);
    });
    at("sources").append(button);
  }
  at("filters").addEventListener("input", refresh);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("reset", () => setTimeout(refresh));
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  list.addEventListener("scroll", () => {
    if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight) extend(list.children.length + ROWS);
  });
  addEventListener("hashchange", follow);
  addEventListener("keydown", keys);
  browser.hidden = false;
  refresh();
  show(order[0] || null);
  list.scrollTop = 0;
  follow();
})();
