// Victims against attacks: a table whose cells tell more when pointed at or focused.

const BROAD = 10; // columns beyond which few teams stand side by side, and attacks below each other

function heatmap(table) {
  const teams = table.rows.filter((row) => !row.baseline);
  const baselines = table.rows.filter((row) => row.baseline);
  const single = baselines.every((row) => row.cells.filter(Boolean).length <= 1);
  const tall = table.columns.length > BROAD && teams.length <= BROAD / 2 && single;
  const head = tall ? tallHead(teams) : headRow(table);
  const body = element("tbody");
  body.append(...(tall ? tallRows(teams, table) : teams.map((row) => heatmapRow(row, table))));
  if (baselines.length > 0) {
    const heading = "For comparison: never trained, or without eyes";
    const span = tall ? teams.length + 2 : table.columns.length + 1;
    const group = element("th", { scope: "rowgroup", colspan: span }, element("span", {}, heading));
    body.append(element("tr", { class: "group" }, group));
    body.append(...baselines.map((row) => (tall ? tallBaseline : heatmapRow)(row, table)));
  }
  const grid = element(
    "table",
    { class: "heatmap", role: "grid", "aria-label": `${table.title}: ${table.metric}` },
    element("thead", {}, head),
    body,
  );
  walkByKeys(grid);
  const parts = table.about.map(faint);
  parts.push(element("div", { class: "scroll" }, grid), legendOf(table), faint(table.footer));
  if (table.findings.length > 0) parts.push(findingsList(table.findings));
  return parts;
}

// Columns that sum up others come last, behind a gap each.
function columnsOf(table) {
  const numbered = table.columns.map((column, index) => ({ ...column, index }));
  return [
    ...numbered.filter((column) => !column.apart),
    ...(table.averaged ? [{ name: "AVG", index: null, apart: true }] : []),
    ...numbered.filter((column) => column.apart),
  ];
}

function headRow(table) {
  const head = element("tr", {}, element("td"));
  for (const { name, apart } of columnsOf(table)) {
    if (apart) head.append(gap());
    head.append(element("th", { scope: "col", class: apart ? "apart" : "" }, name));
  }
  return head;
}

function heatmapRow(row, table) {
  const made = element("tr", { class: row.baseline ? "baseline" : "" });
  made.append(element("th", { scope: "row" }, row.name));
  for (const { name, index, apart } of columnsOf(table)) {
    if (apart) made.append(gap());
    const average = element("td", {}, row.average ?? "–");
    const cell = index === null ? average : figureCell(row.cells[index], row.name, name);
    if (apart) cell.classList.add("apart");
    made.append(cell);
  }
  return made;
}

// The same with a row for each attack, and beside a single team what is known of each.
function tallHead(teams) {
  const names = teams.map((team) => element("th", { scope: "col" }, team.name));
  return element("tr", {}, element("td"), ...names);
}

function tallRows(teams, table) {
  return columnsOf(table).flatMap(({ name, index, apart }) => {
    const made = element("tr", {}, element("th", { scope: "row" }, name));
    for (const team of teams) {
      const average = element("td", {}, team.average ?? "–");
      made.append(index === null ? average : figureCell(team.cells[index], team.name, name));
    }
    const notes = teams.length === 1 && index !== null ? (teams[0].cells[index]?.notes ?? []) : [];
    if (notes.length > 0) made.append(element("td", { class: "notes faint" }, notes.join(" · ")));
    return apart ? [element("tr", { class: "gap" }, gap()), made] : [made];
  });
}

function tallBaseline(row, table) {
  const index = row.cells.findIndex(Boolean);
  const name = table.columns[Math.max(index, 0)].name;
  const cell = figureCell(row.cells[index] ?? null, row.name, name);
  return element("tr", { class: "baseline" }, element("th", { scope: "row" }, row.name), cell);
}

function gap() {
  return element("td", { class: "gap" });
}

function figureCell(cell, victim, attack) {
  if (cell === null) return element("td", { class: "missing" }, "–");
  const [mean, interval] = splitOnce(cell.text, " ");
  const made = element(
    "td",
    {
      class: "figure",
      tabindex: -1,
      "aria-describedby": "tip",
      style: `background-color: ${cell.colour}; color: ${cell.ink}`,
    },
    element("span", { class: "mean" }, mean),
    element("span", { class: "interval" }, interval),
  );
  const lines = [
    element("span", { class: "head" }, `${victim}, ${attack}: ${cell.text}`),
    cell.about,
    ...cell.notes,
    ...cell.seeds,
  ];
  if (cell.command) lines.push(element("code", {}, cell.command));
  const tell = () => tip.show(made, lines, () => made.getBoundingClientRect());
  made.addEventListener("pointerenter", tell);
  made.addEventListener("focus", tell);
  made.addEventListener("pointerleave", () => tip.hide(made));
  made.addEventListener("blur", () => tip.hide(made));
  return made;
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return [text.slice(0, at), text.slice(at + 1)];
}

// One cell is reached by Tab, the others from it by arrow keys.
function walkByKeys(grid) {
  const rows = [...grid.tBodies[0].rows]
    .map((row) => [...row.querySelectorAll("td.figure")])
    .filter((cells) => cells.length > 0);
  rows[0][0].tabIndex = 0;
  const steps = {
    ArrowLeft: (r, c) => [r, c - 1],
    ArrowRight: (r, c) => [r, c + 1],
    ArrowUp: (r, c) => [r - 1, c],
    ArrowDown: (r, c) => [r + 1, c],
    Home: (r) => [r, 0],
    End: (r) => [r, rows[r].length - 1],
  };
  grid.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const r = rows.findIndex((cells) => cells.includes(event.target));
    if (!step || r < 0) return;
    event.preventDefault();
    const [row, column] = step(r, rows[r].indexOf(event.target));
    const cells = rows[row];
    const next = cells?.[Math.min(column, cells.length - 1)];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

function legendOf(table) {
  const bar = element("span", {
    class: "bar",
    style: `background: linear-gradient(to right, ${table.scale.stops.join(", ")})`,
  });
  const legend = element("div", { class: "scale faint" });
  legend.append(`${table.metric}: ${table.scale.low}`, bar, table.scale.high);
  return legend;
}

function findingsList(findings) {
  const items = findings.map((finding) => element("li", {}, finding));
  return element("ul", { class: "findings", "aria-label": "What to doubt" }, ...items);
}
