const PAIRS = 20;
/* The classes that occur, as what videos are or what they were named at any ratio: a matrix of all,
   of which a list has few, would be a blank square. */
function listPresent() {
  const present = new Set();
  data.totals.forEach((total, i) => total && present.add(i));
  for (const { confusion } of data.tested) {
    for (let i = 0; i < confusion.length; i += 3) present.add(confusion[i + 1]);
  }
  return [...present].sort((a, b) => a - b);
}

const matrix = data.several ? null : new Matrix(data.classes, data.totals, listPresent());
if (matrix && matrix.count < data.classes.length) {
  find("present").textContent =
    `Shown are the ${matrix.count} of ${data.classes.length} classes that occur.`;
}

function listNumbers(row) {
  const numbers = data.several
    ? [["mean average precision", percent(row.map_decoded)]]
    : [["top-1", percent(row.top1)], ["top-5", percent(row.top5)]];
  if (!data.several && data.failed.count) {
    numbers.push(["top-1 of those evaluated", percent(row.top1_decoded)]);
    numbers.push(["top-5 of those evaluated", percent(row.top5_decoded)]);
  }
  return [...numbers, ["videos", data.videos], ["classes", data.classes.length]];
}

/* ---- Classes --------------------------------------------------------------------------------- */
/* A row a class; value null where a class has no video. */
function listClasses(row) {
  const instead = new Map();
  for (const cell of matrix ? matrix.wrong : []) {
    const is = matrix.kept[cell.is];
    if (!instead.has(is)) instead.set(is, cell);
  }
  return data.classes.map((name, i) => {
    const total = data.totals[i];
    const value = data.several ? row.precision[i] : (total ? (100 * row.right[i]) / total : null);
    const most = instead.get(i);
    return {
      name, total, value, right: data.several ? null : row.right[i],
      instead: most ? matrix.classes[most.named] : "", times: most ? most.count : 0,
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
  return make("td", { name: "roomy", attributes: { "aria-hidden": true },
    children: [makeBar(value || 0)] });
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
        `Show in the matrix: ${matrix.classes[is]} named ${matrix.classes[named]}` } });
    button.addEventListener("click", () => {
      matrix.mark(is, named, true);
      find("plane").focus();
    });
    const share = (100 * count) / matrix.totals[is];
    return make("tr", { children: [
      make("td", { name: "name", text: matrix.classes[is] }),
      make("td", { name: "name", text: matrix.classes[named] }),
      make("td", { name: "number", text: `${count} of ${matrix.totals[is]}` }),
      make("td", { name: "number roomy", text: `${share.toFixed(1)}%` }),
      make("td", { name: "number roomy", text: matrix.countOf(named, is) }),
      make("td", { children: [button] }),
    ] });
  });
  const heads = [["Is", ""], ["Named", ""], ["Videos", "number"], ["Share", "number roomy"],
    ["Other way round", "number roomy"], ["Matrix", ""]];
  fillTable(find("pair-table"), heads, rows, "No confusions.");
}

function makeCard(mistake) {
  const picture = makePicture(mistake.row, mistake.path);
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
function showRow(row) {
  showNumbers(listNumbers(row));
  if (matrix) {
    matrix.show(row.confusion);
    showPairs();
    showMistakes(row);
  }
  items = listClasses(row);
  showClasses();
}

for (const id of ["mistakes", "pairs", "matrix"]) find(id).hidden = data.several;
makeClassTable();
begin(showRow, () => matrix && matrix.resize(matrix.zoom));
