const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const PAIRS = 20;

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
  for (const id of ["protocol", "loaded"]) {
    for (const [name, value] of data[id]) {
      const hash = name.startsWith("SHA-256") ? "hash" : "";
      find(id).append(make("dt", { text: name }), make("dd", { name: hash, text: value }));
    }
  }
  const { count, shown } = data.failed;
  find("failed-note").textContent = count
    ? `${count} of ${data.videos} videos could not be evaluated` +
      (data.several ? ", and are left out." : "; they count as wrong.") +
      (shown.length < count ? ` The first ${shown.length}; results.json has all.` : "")
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

function showNumbers(row) {
  const numbers = data.several
    ? [["mean average precision", percent(row.map_decoded)]]
    : [["top-1", percent(row.top1)], ["top-5", percent(row.top5)]];
  if (!data.several && data.failed.count) {
    numbers.push(["top-1 of those evaluated", percent(row.top1_decoded)]);
    numbers.push(["top-5 of those evaluated", percent(row.top5_decoded)]);
  }
  numbers.push(["videos", data.videos], ["classes", data.classes.length]);
  if (data.failed.count) numbers.push(["failed", data.failed.count]);
  find("numbers").replaceChildren(...numbers.map(([name, value]) =>
    make("div", { children: [make("dt", { text: name }), make("dd", { text: value })] })));
}

/* ---- Ratios ---------------------------------------------------------------------------------- */
const METRICS = data.several
  ? [["mAP", "map_decoded"]] : [["top-1", "top1"], ["top-5", "top5"]];

function listRatios() {
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
    `${METRICS[0][0]} of the ${data.tested.length} ratios tested here, and is shown first. ` +
    "It was found with this list's own labels: choose the ratio of a number that you report on " +
    "other videos.";
  find("sweep").hidden = false;
}

function showRatios(chosen) {
  if (find("sweep").hidden) return;
  const head = ["ratio", ...METRICS.map(([name]) => name)];
  find("ratios").replaceChildren(
    make("thead", { children: [make("tr", {
      children: head.map((text) => make("th", { name: "number", text })),
    })] }),
    make("tbody", { children: data.tested.map((row, i) => make("tr", {
      name: i === chosen ? "chosen" : "", attributes: i === chosen ? { "aria-current": true } : {},
      children: [ratioName(row), ...METRICS.map(([, key]) => percent(row[key]))].map(
        (text) => make("td", { name: "number", text })),
    })) }));
  drawCurve(chosen);
}

function drawCurve(chosen) {
  const width = Math.max(260, Math.min(640, find("curve").clientWidth || 640)), height = 260;
  const left = 42, right = 50, top = 12, bottom = 40;
  const x = (ratio) => left + ratio * (width - left - right);
  const y = (value) => top + (1 - value / 100) * (height - top - bottom);
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": "Accuracy against the patching ratio; the table beside it has the numbers." });
  for (const value of [0, 25, 50, 75, 100]) {
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
  METRICS.forEach(([name, key], i) => {
    const kind = ["first", "second"][i];
    const points = rows.map((row) => [x(row.patching_ratio), y(row[key])]);
    svg.append(draw("polyline", { class: `line ${kind}`, points: points.join(" ") }));
    svg.append(...points.map(([cx, cy]) =>
      draw("circle", { class: `dot ${kind}`, cx, cy, r: 3.5 })));
    const [endX, endY] = points[points.length - 1];
    svg.append(draw("text", { x: endX + 8, y: endY + 4 }, name));
  });
  find("curve").replaceChildren(svg);
}

/* ---- Classes --------------------------------------------------------------------------------- */
/* A row a class; value null where a class has no video. */
function listClasses(row) {
  const instead = new Map();
  for (const cell of matrix ? matrix.wrong : []) {
    if (!instead.has(cell.is)) instead.set(cell.is, cell);
  }
  return data.classes.map((name, i) => {
    const total = data.totals[i];
    const value = data.several ? row.precision[i] : (total ? (100 * row.right[i]) / total : null);
    const most = instead.get(i);
    return {
      name, total, value, right: data.several ? null : row.right[i],
      instead: most ? data.classes[most.named] : "", times: most ? most.count : 0,
    };
  });
}

const COLUMNS = [
  { title: "Class", key: "name", name: "name", text: (item) => item.name },
  { title: "Videos", key: "total", name: "number", text: (item) => item.total },
  { title: data.several ? "Average precision" : "Top-1", key: "value", name: "number",
    text: (item) => percent(item.value) },
];
if (!data.several) {
  COLUMNS.splice(2, 0,
    { title: "Right", key: "right", name: "number roomy", text: (item) => item.right });
  COLUMNS.push({ title: "Most often named instead", key: "times", name: "name",
    text: (item) => (item.times ? `${item.instead} (${item.times})` : "") });
}
const order = { key: "value", down: false };
let items = [];

function compare(a, b) {
  const [first, second] = [a[order.key], b[order.key]];
  if (first === null || second === null) return (first === null) - (second === null);
  const by = typeof first === "string" ? first.localeCompare(second) : first - second;
  return (order.down ? -by : by) || a.name.localeCompare(b.name);
}

function showBar(value) {
  const fill = make("i");
  fill.style.width = `${value || 0}%`;
  return make("td", { name: "roomy", attributes: { "aria-hidden": true },
    children: [make("span", { name: "bar", children: [fill] })] });
}

function showClasses() {
  const words = find("search").value.toLocaleLowerCase().split(/\s+/);
  const shown = items.filter(({ name }) =>
    words.every((word) => name.toLocaleLowerCase().includes(word))).sort(compare);
  find("found").textContent = `${shown.length} of ${items.length} classes`;
  find("class-table").tBodies[0].replaceChildren(...shown.map((item) => {
    const cells = COLUMNS.map((column) =>
      make("td", { name: column.name, text: column.text(item) }));
    cells.splice(COLUMNS.findIndex((column) => column.key === "value") + 1, 0, showBar(item.value));
    return make("tr", { children: cells });
  }));
}

function makeClassTable() {
  const heads = COLUMNS.map((column) => {
    const button = make("button", { text: column.title, attributes: { type: "button" } });
    const head = make("th", { name: column.name, attributes: { scope: "col" },
      children: [button] });
    button.addEventListener("click", () => {
      const again = order.key === column.key;
      Object.assign(order, { key: column.key, down: again && !order.down });
      markOrder(heads);
      showClasses();
    });
    return head;
  });
  const bar = make("td", { name: "roomy", attributes: { "aria-hidden": true } });
  const cells = [...heads];
  cells.splice(COLUMNS.findIndex((column) => column.key === "value") + 1, 0, bar);
  find("class-table").append(make("thead", { children: [make("tr", { children: cells })] }),
    make("tbody"));
  markOrder(heads);
  find("search").addEventListener("input", showClasses);
}

function markOrder(heads) {
  COLUMNS.forEach((column, i) => {
    const now = order.down ? "descending" : "ascending";
    heads[i].setAttribute("aria-sort", column.key === order.key ? now : "none");
  });
}

/* ---- Mistakes -------------------------------------------------------------------------------- */
function showPairs() {
  const shown = matrix.wrong.slice(0, PAIRS);
  const rows = shown.map(({ is, named, count }) => {
    const button = make("button", { text: "Show",
      attributes: { type: "button", "aria-label":
        `Show in the matrix: ${data.classes[is]} named ${data.classes[named]}` } });
    button.addEventListener("click", () => {
      matrix.mark(is, named, true);
      find("plane").focus();
    });
    const share = (100 * count) / data.totals[is];
    return make("tr", { children: [
      make("td", { name: "name", text: data.classes[is] }),
      make("td", { name: "name", text: data.classes[named] }),
      make("td", { name: "number", text: `${count} of ${data.totals[is]}` }),
      make("td", { name: "number roomy", text: `${share.toFixed(1)}%` }),
      make("td", { name: "number roomy", text: matrix.countOf(named, is) }),
      make("td", { children: [button] }),
    ] });
  });
  const heads = [["Is", ""], ["Named", ""], ["Videos", "number"], ["Share", "number roomy"],
    ["Other way round", "number roomy"], ["Matrix", ""]];
  find("pair-table").replaceChildren(
    make("thead", { children: [make("tr", { children: heads.map(([text, name]) =>
      make("th", { text, name, attributes: { scope: "col" } })) })] }),
    make("tbody", { children: rows.length ? rows
      : [make("tr", { children: [make("td", { text: "No confusions.",
        attributes: { colspan: heads.length } })] })] }));
}

function makeCard(mistake) {
  const source = data.pictures[mistake.row];
  const picture = source
    ? make("img", { attributes: { src: source, loading: "lazy",
      alt: `First, middle and last frame of ${mistake.path}` } })
    : make("div", { name: "none", text: "no picture" });
  picture.addEventListener("load", () => {
    picture.classList.toggle("small", picture.naturalHeight < 64);
  });
  return make("figure", { name: "card", children: [picture, make("figcaption", { children: [
    "is ", make("b", { text: data.classes[mistake.is] }),
    ", named ", make("b", { text: data.classes[mistake.named] }),
    `, ${(100 * mistake.confidence).toFixed(1)}% sure`,
    make("span", { name: "path", text: mistake.path }),
  ] })] });
}

function showMistakes(row) {
  find("cards").replaceChildren(...(row.mistakes.length
    ? row.mistakes.map(makeCard) : [make("p", { text: "No mistakes." })]));
}

/* ---- All ------------------------------------------------------------------------------------- */
const matrix = data.several ? null : new Matrix(data.classes, data.totals);
let chosen = data.best;

function show(index) {
  chosen = index;
  const row = data.tested[index];
  showNumbers(row);
  showRatios(index);
  if (matrix) {
    matrix.show(row.confusion);
    showPairs();
    showMistakes(row);
  }
  items = listClasses(row);
  showClasses();
}

function redraw() {
  if (matrix) matrix.resize(matrix.zoom);
  if (!find("sweep").hidden) drawCurve(chosen);
}

for (const id of ["mistakes", "pairs", "matrix"]) find(id).hidden = data.several;
showFacts();
showContents();
listRatios();
makeClassTable();
show(data.best);
window.addEventListener("resize", redraw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
