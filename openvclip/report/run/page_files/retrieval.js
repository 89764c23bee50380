const WAYS = [["t2v", "text to video (T2V)"], ["v2t", "video to text (V2T)"]];

/* ---- Numbers --------------------------------------------------------------------------------- */
/* The table of both directions stands below the large numbers. */
const directions = make("table");
find("numbers").after(make("div", { name: "wide", children: [directions], attributes: {
  id: "directions", tabindex: 0, role: "region", "aria-label": "Numbers of both directions" } }));

function showDirections(row) {
  const format = (key, value) => (key.endsWith("rank") ? value.toFixed(1) : percent(value));
  const heads = [["", ""], ...data.columns.map(([title]) => [title, "number"])];
  fillTable(directions, heads, WAYS.map(([way, name]) => make("tr", { children: [
    make("th", { text: name, attributes: { scope: "row" } }),
    ...data.columns.map(([, key]) =>
      make("td", { name: "number", text: format(key, row[`${way}_${key}`]) })),
  ] })));
}

/* How many queries have which rank; the bar is the share of the direction's queries. */
function showRanks(row) {
  const counts = WAYS.map(([way]) => row[`${way}_ranks`]);
  const totals = counts.map((parts) => Object.values(parts).reduce((sum, count) => sum + count, 0));
  const heads = [["Rank", "number"], ...WAYS.map(([, name]) => [name, ""])];
  const bins = Object.keys(counts[0]).filter((bin) => bin !== "failed" || data.failed.count);
  fillTable(find("rank-table"), heads, bins.map((bin) => make("tr", {
    children: [
      make("th", { name: "number", text: bin, attributes: { scope: "row" } }),
      ...counts.map((parts, i) => {
        const share = (100 * parts[bin]) / totals[i];
        const text = `${parts[bin]} (${share.toFixed(1)}%)`;
        return make("td", { children: [make("span", { text }), makeBar(share)] });
      }),
    ],
  })));
}

/* ---- Examples -------------------------------------------------------------------------------- */
/* A video with what it is here. */
function showVideo(role, path) {
  return [make("span", { name: "role", text: role, children: [
    make("span", { name: "path", text: path })] }), makePicture(data.rows[path], path)];
}

const say = (text) => make("q", { text });

function makeTextCard({ caption, rank, video, first }) {
  return make("figure", { name: "card", children: [
    make("figcaption", { children: [say(caption)] }),
    ...showVideo(`its video, at rank ${rank}`, video), ...showVideo("came first", first),
  ] });
}

function makeVideoCard({ caption, rank, video, first }) {
  return make("figure", { name: "card", children: [
    makePicture(data.rows[video], video),
    make("figcaption", { children: [
      `rank ${rank}; its caption: `, say(caption), make("br"), "came first: ", say(first),
      make("span", { name: "path", text: video }),
    ] }),
  ] });
}

function showCards(id, examples, makeCard) {
  find(id).replaceChildren(...(examples.length
    ? examples.map(makeCard)
    : [make("p", { text: "None: no query that was evaluated has a rank above 1." })]));
}

/* ---- All ------------------------------------------------------------------------------------- */
begin((row) => {
  showNumbers([["R@1 text to video", percent(row.t2v_r1)],
    ["R@1 video to text", percent(row.v2t_r1)], ["videos", data.videos],
    ["captions", data.captions]]);
  showDirections(row);
  showRanks(row);
  showCards("text-cards", row.examples.text_to_video, makeTextCard);
  showCards("video-cards", row.examples.video_to_text, makeVideoCard);
});
