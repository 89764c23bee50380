"use strict";

/* What every report has: the headline with its ratios, failed videos, protocol; and what the rest of
   a page is made with. The page's other script calls begin(). */
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
let chosen = data.best;

/* An element of a tag with a class, text, attributes and children; texts are never markup. */
function make(tag, { name = "", text = null, attributes = {}, children = [] } = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== null) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const percent = (value) => (value === null ? "–" : `${value.toFixed(2)}%`);
const ratioName = (row) => (row.patching_ratio === null ? "" : String(row.patching_ratio));

function showFacts() {
  find("about").textContent = `${data.title}, ${data.date}`;
  find("short").textContent = data.short;
  find("caution").textContent = data.caution;
  find("caution").hidden = !data.caution;
  for (const id of ["protocol", "loaded"]) {
    for (const [name, value] of data[id]) {
      const hash = name.startsWith("SHA-256") ? "hash" : "";
      find(id).append(make("dt", { text: name }), make("dd", { name: hash, text: value }));
    }
  }
  const { count, shown } = data.failed;
  find("failed-note").textContent = count
    ? `${count} of ${data.videos} videos could not be evaluated` +
      `${data.failed.effect}.` +
      (shown.length < count ? ` The first ${shown.length}; results.json has them all.` : "")
    : "None: every video was evaluated.";
  find("failed-list").append(...shown.map(({ path, reason }) =>
    make("li", { text: path, children: [make("span", { text: reason })] })));
}

function showContents() {
  for (const section of document.querySelectorAll("main section:not([hidden])")) {
    const text = section.querySelector("h2").textContent;
    find("contents").append(make("a", { text, attributes: { href: `#${section.id}` } }));
  }
}

/* Show [name, value] pairs, and how many videos failed if any did. */
function showNumbers(numbers) {
  if (data.failed.count) numbers.push(["failed", data.failed.count]);
  find("numbers").replaceChildren(...numbers.map(([name, value]) =>
    make("div", { children: [make("dt", { text: name }), make("dd", { text: value })] })));
}

/* ---- Ratios ---------------------------------------------------------------------------------- */
function listRatios(show) {
  if (data.tested[0].patching_ratio === null) return;
  find("choice").hidden = false;
  find("ratio").append(...data.tested.map((row, i) => make("option", {
    text: ratioName(row) + (i === data.best && data.tested.length > 1 ? " (best)" : ""),
    attributes: { value: i },
  })));
  find("ratio").value = data.best;
  find("ratio").addEventListener("change", (event) => show(Number(event.target.value)));
  if (data.tested.length === 1) return;
  find("ratio-note").textContent = `${ratioName(data.tested[data.best])} has the best ` +
    `${data.best_by} of the ${data.tested.length} ratios tested here, and is shown first. ` +
    "It was chosen on this same list: choose the ratio of a number that you report on " +
    "other videos.";
  find("sweep").hidden = false;
}

function showRatios(chosen) {
  if (find("sweep").hidden) return;
  const head = ["ratio", ...data.metrics.map(([name]) => name)];
  find("ratios").replaceChildren(
    make("thead", { children: [make("tr", {
      children: head.map((text) => make("th", { name: "number", text })),
    })] }),
    make("tbody", { children: data.tested.map((row, i) => make("tr", {
      name: i === chosen ? "chosen" : "", attributes: i === chosen ? { "aria-current": true } : {},
      children: [ratioName(row), ...data.metrics.map(([, key]) => percent(row[key]))].map(
        (text) => make("td", { name: "number", text })),
    })) }));
  drawCurve(chosen);
}

/* Move ends of curves apart where their names would lie on each other. */
function placeNames(ends) {
  if (ends.length < 2 || Math.abs(ends[0] - ends[1]) >= 14) return ends;
  const middle = (ends[0] + ends[1]) / 2, side = ends[0] <= ends[1] ? 7 : -7;
  return [middle - side, middle + side];
}

function drawCurve(chosen) {
  const curves = data.metrics.slice(0, 2);
  const width = Math.max(260, Math.min(640, find("curve").clientWidth || 640)), height = 260;
  const left = 42, top = 12, bottom = 40;
  const right = 15 + 7 * Math.max(...curves.map(([name]) => name.length));
  const most = Math.max(...data.tested.flatMap((row) => curves.map(([, key]) => row[key])));
  const scale = [20, 40, 60].find((value) => most <= value) || 100;
  const x = (ratio) => left + ratio * (width - left - right);
  const y = (value) => top + (1 - value / scale) * (height - top - bottom);
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": "Accuracy against the patching ratio; the table next to it has the numbers." });
  for (const value of [0, 1, 2, 3, 4].map((part) => (part * scale) / 4)) {
    svg.append(draw("line", { class: "grid", x1: left, x2: x(1), y1: y(value), y2: y(value) }),
      draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value}%`));
  }
  for (const ratio of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(draw("text", { x: x(ratio), y: height - 22, "text-anchor": "middle" }, ratio));
  }
  svg.append(draw("text", { x: (left + x(1)) / 2, y: height - 4, "text-anchor": "middle" },
    "patching ratio (0: fine-tuned, 1: CLIP)"));
  const here = x(data.tested[chosen].patching_ratio);
  svg.append(draw("line", { class: "here", x1: here, x2: here, y1: top, y2: y(0) }));
  const rows = [...data.tested].sort((a, b) => a.patching_ratio - b.patching_ratio);
  const last = rows[rows.length - 1];
  const places = placeNames(curves.map(([, key]) => y(last[key])));
  curves.forEach(([name, key], i) => {
    const kind = ["first", "second"][i];
    const points = rows.map((row) => [x(row.patching_ratio), y(row[key])]);
    svg.append(draw("polyline", { class: `line ${kind}`, points: points.join(" ") }));
    svg.append(...points.map(([cx, cy]) =>
      draw("circle", { class: `dot ${kind}`, cx, cy, r: 3.5 })));
    svg.append(draw("text", { x: x(last.patching_ratio) + 8, y: places[i] + 4 }, name));
  });
  find("curve").replaceChildren(svg);
}

/* ---- What pages are made with ---------------------------------------------------------------- */
/* Heads are [text, class]; rows are elements, or none: then there is a row that says so. */
function fillTable(table, heads, rows, none = "") {
  table.replaceChildren(
    make("thead", { children: [make("tr", { children: heads.map(([text, name]) =>
      make("th", { text, name, attributes: { scope: "col" } })) })] }),
    make("tbody", { children: rows.length ? rows
      : [make("tr", { children: [make("td", { text: none,
        attributes: { colspan: heads.length } })] })] }));
}

/* A bar of a width in percent. */
function makeBar(value) {
  const fill = make("i");
  fill.style.width = `${value}%`;
  return make("span", { name: "bar", children: [fill] });
}

function makePicture(row, path) {
  const source = data.pictures[row];
  const picture = source
    ? make("img", { attributes: { src: source, loading: "lazy",
      alt: `First, middle and last frame of ${path}` } })
    : make("div", { name: "none", text: "no picture" });
  picture.addEventListener("load", () => {
    picture.classList.toggle("small", picture.naturalHeight < 64);
  });
  return picture;
}

/* Show the page: showRow(row) shows a ratio's results, redraw() what depends on size or colours. */
function begin(showRow, redraw = () => {}) {
  const show = (index) => {
    chosen = index;
    showRow(data.tested[index]);
    showRatios(index);
  };
  const redrawAll = () => {
    redraw();
    if (!find("sweep").hidden) drawCurve(chosen);
  };
  showFacts();
  showContents();
  listRatios(show);
  show(data.best);
  window.addEventListener("resize", redrawAll);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
}
