const NAMED = 12; // Least side of a cell, in pixels, for the classes' names to be drawn.
const MOST_FONT = 13;
const FONT = (size) => `${size}px system-ui, sans-serif`;

/* Colours as [red, green, blue] in 0..255, from "#rrggbb", and WCAG's contrast of two. */
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const blend = (top, below, alpha) =>
  rgb(top).map((value, i) => alpha * value + (1 - alpha) * rgb(below)[i]);
const luminance = (colour) => colour.reduce(
  (sum, value, i) => sum + [0.2126, 0.7152, 0.0722][i] * (value / 255) ** 2.2, 0.05);
const contrast = (a, b) => Math.max(luminance(a) / luminance(b), luminance(b) / luminance(a));

/* The confusion matrix: a canvas of the cells that are not empty, with one cell marked, which
   pointer, finger or keys choose. Rows are what the videos are, columns what they were named. Only
   the classes "kept" are shown; within this class they are counted from 0, and "kept" has their
   numbers. */
class Matrix {
  constructor(classes, totals, kept) {
    this.kept = kept;
    this.places = new Map(kept.map((i, place) => [i, place]));
    this.classes = kept.map((i) => classes[i]);
    this.totals = kept.map((i) => totals[i]);
    this.count = kept.length;
    this.zoom = 1;
    this.plane = document.getElementById("plane");
    this.canvas = document.getElementById("canvas");
    this.text = document.getElementById("cell");
    this.listen();
  }

  /* Show other counts: [is, named, count, is, named, count, ...]. */
  show(confusion) {
    this.cells = new Map();
    this.wrong = [];
    for (let i = 0; i < confusion.length; i += 3) {
      const [is, named] = [confusion[i], confusion[i + 1]].map((x) => this.places.get(x));
      const count = confusion[i + 2];
      this.cells.set(is * this.count + named, count);
      if (is !== named) this.wrong.push({ is, named, count });
    }
    this.wrong.sort((a, b) => b.count - a.count || this.share(b) - this.share(a));
    this.draw();
    if (this.at) this.mark(this.at.is, this.at.named);
    else this.text.textContent = "No cell chosen.";
  }

  share(cell) {
    return this.totals[cell.is] ? cell.count / this.totals[cell.is] : 0;
  }

  /* Opacity of a cell: the root of the share, so that rare confusions can be seen. */
  shade(is, count) {
    return 0.15 + 0.85 * Math.sqrt(Math.min(this.share({ is, count }), 1));
  }

  countOf(is, named) {
    return this.cells.get(is * this.count + named) || 0;
  }

  /* Side of a cell and width of the margin for names, which are drawn where they are legible. */
  measure(context) {
    const room = Math.min(this.plane.offsetWidth - 2, window.innerHeight * 0.86);
    context.font = FONT(MOST_FONT);
    const longest = Math.max(...this.classes.map((name) => context.measureText(name).width));
    const margin = Math.min(160, room * 0.3, longest + 14);
    const named = (room - margin) / this.count >= NAMED;
    const fit = Math.min((named ? room - margin : room) / this.count, 72);
    this.most = Math.max(fit, Math.min(48, 7000 / this.count));
    this.side = Math.min(fit * this.zoom, this.most);
    this.margin = this.side >= NAMED ? margin : 0;
  }

  draw() {
    const context = this.canvas.getContext("2d");
    this.measure(context);
    const size = Math.floor(this.margin + this.side * this.count);
    const scale = Math.min(window.devicePixelRatio || 1, 8000 / size);
    this.canvas.width = this.canvas.height = Math.floor(size * scale);
    this.canvas.style.width = this.canvas.style.height = `${size}px`;
    context.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.drawGrid(context, size, colour("--line"));
    // Names and cells of a class that is there once among hundreds stay visible: two pixels.
    const least = Math.max(this.side, 2);
    for (const [key, count] of this.cells) {
      const is = Math.floor(key / this.count), named = key % this.count;
      context.globalAlpha = this.shade(is, count);
      context.fillStyle = colour(is === named ? "--right" : "--wrong");
      const [left, top] = this.place(is, named);
      context.fillRect(left, top, least, least);
    }
    context.globalAlpha = 1;
    if (this.margin) this.drawTexts(context, colour);
  }

  place(is, named) {
    return [this.margin + named * this.side, this.margin + is * this.side];
  }

  drawGrid(context, size, colour) {
    if (this.side < 6) return;
    context.strokeStyle = colour;
    context.lineWidth = 0.5;
    context.beginPath();
    for (let i = 0; i <= this.count; i++) {
      const at = Math.min(this.margin + i * this.side, size - 0.5);
      context.moveTo(this.margin, at);
      context.lineTo(size, at);
      context.moveTo(at, this.margin);
      context.lineTo(at, size);
    }
    context.stroke();
  }

  drawTexts(context, colour) {
    context.fillStyle = colour("--text");
    context.font = FONT(Math.min(MOST_FONT, this.side * 0.85));
    context.textBaseline = "middle";
    this.classes.forEach((name, i) => {
      const label = this.shorten(context, name);
      const middle = this.margin + (i + 0.5) * this.side;
      context.textAlign = "right";
      context.fillText(label, this.margin - 6, middle);
      context.save();
      context.translate(middle, this.margin - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(label, 0, 0);
      context.restore();
    });
    if (this.side < 26) return;
    context.textAlign = "center";
    for (const [key, count] of this.cells) {
      const is = Math.floor(key / this.count), named = key % this.count;
      const [left, top] = this.place(is, named);
      const fill = blend(colour(is === named ? "--right" : "--wrong"), colour("--page"),
        this.shade(is, count));
      context.fillStyle = [colour("--text"), colour("--page")].sort(
        (a, b) => contrast(rgb(b), fill) - contrast(rgb(a), fill))[0];
      context.fillText(count, left + this.side / 2, top + this.side / 2);
    }
  }

  shorten(context, name) {
    const room = this.margin - 12;
    if (context.measureText(name).width <= room) return name;
    const letters = Array.from(name);
    let keep = letters.length;
    while (keep && context.measureText(`${letters.slice(0, keep).join("")}…`).width > room) keep--;
    return `${letters.slice(0, keep).join("").trimEnd()}…`;
  }

  /* Mark a cell and say what it holds. */
  mark(is, named, follow = false) {
    this.at = { is, named };
    const [left, top] = this.place(is, named);
    const end = this.margin + this.side * this.count;
    const least = Math.max(this.side, 2);
    this.box("across", 0, top, end, least);
    this.box("down", left, 0, least, end);
    this.say(is, named);
    if (follow) this.follow(left, top);
  }

  box(id, left, top, width, height) {
    Object.assign(document.getElementById(id).style, {
      display: "block", left: `${left}px`, top: `${top}px`, width: `${width}px`,
      height: `${height}px`,
    });
  }

  unmark() {
    this.at = null;
    for (const id of ["across", "down"]) document.getElementById(id).style.display = "none";
    this.text.textContent = "No cell chosen.";
  }

  say(is, named) {
    const count = this.countOf(is, named), total = this.totals[is];
    const share = total ? ` (${((100 * count) / total).toFixed(1)}%)` : "";
    const bold = (text) => make("b", { text });
    const what = is === named
      ? [bold(this.classes[is]), " named rightly: "]
      : [bold(this.classes[is]), " named ", bold(this.classes[named]), ": "];
    const back = is === named ? "." : `; the other way round ${this.countOf(named, is)} of ` +
      `${this.totals[named]}.`;
    this.text.replaceChildren(...what, `${count} of ${total} videos${share}${back}`);
  }

  /* Keep a marked cell in view when the matrix is larger than its frame. */
  follow(left, top) {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.plane;
    if (left < scrollLeft || left + this.side > scrollLeft + clientWidth) {
      this.plane.scrollLeft = left - clientWidth / 2;
    }
    if (top < scrollTop || top + this.side > scrollTop + clientHeight) {
      this.plane.scrollTop = top - clientHeight / 2;
    }
  }

  resize(zoom) {
    this.zoom = Math.max(1, zoom);
    this.draw();
    if (this.at) this.mark(this.at.is, this.at.named, true);
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.plane.addEventListener("keydown", (event) => this.press(event));
    const zoom = { larger: () => (this.side < this.most ? this.zoom * 2 : this.zoom),
      smaller: () => this.zoom / 2, fit: () => 1 };
    for (const [id, next] of Object.entries(zoom)) {
      document.getElementById(id).addEventListener("click", () => this.resize(next()));
    }
  }

  /* The cell below the pointer; where cells are small, the nearest one that is not empty. */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const named = Math.floor((event.clientX - box.left - this.margin) / this.side);
    const is = Math.floor((event.clientY - box.top - this.margin) / this.side);
    if (is < 0 || named < 0 || is >= this.count || named >= this.count) return;
    const near = this.side < 8 ? this.nearest(is, named, Math.ceil(8 / this.side)) : null;
    const cell = near || { is, named };
    this.mark(cell.is, cell.named);
  }

  nearest(is, named, reach) {
    let best = null, least = Infinity;
    for (let row = Math.max(0, is - reach); row <= Math.min(this.count - 1, is + reach); row++) {
      const end = Math.min(this.count - 1, named + reach);
      for (let column = Math.max(0, named - reach); column <= end; column++) {
        const far = (row - is) ** 2 + (column - named) ** 2;
        if (far < least && this.countOf(row, column)) {
          least = far;
          best = { is: row, named: column };
        }
      }
    }
    return best;
  }

  press(event) {
    const last = this.count - 1;
    const { is, named } = this.at || { is: 0, named: 0 };
    const moves = {
      ArrowUp: [is - 1, named], ArrowDown: [is + 1, named], ArrowLeft: [is, named - 1],
      ArrowRight: [is, named + 1], Home: [is, 0], End: [is, last],
    };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") this.unmark();
    else if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
    else if (moves[event.key]) {
      const to = this.at ? moves[event.key] : [0, 0];
      this.mark(...to.map((x) => Math.min(Math.max(x, 0), last)), true);
    } else return;
    event.preventDefault();
  }

  /* Go to the next confusion by count, or the one before. */
  step(by) {
    if (!this.wrong.length) return;
    const now = !this.at ? -1 : this.wrong.findIndex(
      (cell) => cell.is === this.at.is && cell.named === this.at.named);
    const next = now < 0 ? (by > 0 ? 0 : -1) : now + by;
    const cell = this.wrong[(next + this.wrong.length) % this.wrong.length];
    this.mark(cell.is, cell.named, true);
  }
}
