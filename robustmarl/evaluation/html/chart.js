// Curves with their intervals; a cross-hair, moved by pointer or keys, tells of them.

const CHART_HEIGHT = 270;
const EDGES = { top: 10, right: 14, bottom: 44, left: 50 };
const SERIES_COLOURS = 7;
const DOTS = ["2 4", "9 3 2 3", "1 7", "14 5"]; // of baselines, all of one colour

function chartGroup(group) {
  const hidden = new Set();
  const charts = group.charts.map((data) => chart(data, hidden));
  const lines = new Map();
  for (const line of group.charts.flatMap((data) => data.lines)) {
    if (!lines.has(line.label)) lines.set(line.label, line);
  }
  const legend = element("div", { class: "legend", role: "group", "aria-label": "Curves shown" });
  for (const line of lines.values()) {
    const button = element("button", { type: "button", "aria-pressed": "true" });
    button.append(swatchOf(line), line.label);
    button.addEventListener("click", () => {
      const showing = hidden.delete(line.label);
      if (!showing) hidden.add(line.label);
      button.setAttribute("aria-pressed", String(showing));
      for (const one of charts) one.draw();
    });
    legend.append(button);
  }
  const panels = element("div", { class: "charts" }, ...charts.map((one) => one.element));
  return [legend, panels, ...group.notes.map(faint)];
}

function colourOf(line) {
  return line.colour === null
    ? "var(--series-none)"
    : `var(--series-${line.colour % SERIES_COLOURS})`;
}

function dashOf(line) {
  if (line.dotted !== null) return DOTS[line.dotted % DOTS.length];
  if (line.dashed || line.colour >= SERIES_COLOURS) return "7 4";
  return "none";
}

function swatchOf(line) {
  const stroke = `stroke: ${colourOf(line)}; stroke-dasharray: ${dashOf(line)}`;
  return drawn(
    "svg",
    { class: "swatch-line", viewBox: "0 0 24 8", "aria-hidden": "true" },
    drawn("line", { x1: 0, y1: 4, x2: 24, y2: 4, style: stroke }),
  );
}

function chart(data, hidden) {
  const svg = drawn("svg", { height: CHART_HEIGHT, "aria-hidden": "true" });
  const plot = element("div", {
    class: "plot",
    tabindex: 0,
    role: "img",
    "aria-label": `${data.title} over ${data.xlabel}: arrow keys tell of places, a table follows`,
    "aria-describedby": "tip",
  });
  plot.append(svg);
  const made = element("figure", { class: "chart" }, element("figcaption", {}, data.title), plot);
  made.append(figuresTable(data));
  const places = [...new Set(data.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  let axes = null;
  let at = null;

  function draw() {
    const width = plot.clientWidth;
    if (width === 0) return;
    svg.setAttribute("width", width);
    svg.setAttribute("viewBox", `0 0 ${width} ${CHART_HEIGHT}`);
    const lines = data.lines.filter((line) => !hidden.has(line.label));
    axes = axesOf(data, lines, width);
    svg.replaceChildren(...drawAxes(axes, data), ...lines.flatMap((line) => drawLine(line, axes)));
    point(null);
  }

  function point(index) {
    at = index;
    svg.querySelector(".cross-hair")?.remove();
    if (index === null || axes === null) {
      tip.hide(plot);
      return;
    }
    const x = axes.x(places[index]);
    const { top, bottom } = axes;
    svg.append(drawn("line", { class: "cross-hair", x1: x, x2: x, y1: top, y2: bottom }));
    const lines = data.lines.filter((line) => !hidden.has(line.label));
    const rectangle = () => {
      const box = plot.getBoundingClientRect();
      const [left, right] = [box.left + x, box.left + x];
      return { left, right, top: box.top + top, bottom: box.top + bottom + 30 };
    };
    tip.show(plot, toldAt(places[index], data, lines), rectangle);
  }

  plot.addEventListener("pointermove", (event) => {
    const x = event.clientX - plot.getBoundingClientRect().left;
    const distances = places.map((place) => Math.abs(axes.x(place) - x));
    point(distances.indexOf(Math.min(...distances)));
  });
  plot.addEventListener("pointerleave", () => point(null));
  plot.addEventListener("blur", () => point(null));
  plot.addEventListener("keydown", (event) => {
    const last = places.length - 1;
    const from = at ?? -1;
    const targets = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last };
    const target = targets[event.key];
    if (target === undefined) return;
    event.preventDefault();
    point(Math.max(0, Math.min(target, last)));
  });
  new ResizeObserver(draw).observe(plot);
  return { element: made, draw };
}

function axesOf(data, lines, width) {
  const xs = lines.flatMap((line) => line.x);
  const means = lines.flatMap((line) => [...line.mean, ...line.seeds.flat()]);
  const ends = lines.flatMap((line) => [...line.low, ...line.high]).filter((end) => end !== null);
  let [low, high] = rangeOf(means);
  if (data.share) [low, high] = [0, 1];
  else {
    // Of two seeds an interval is so wide that what it is about could not be seen beside it.
    const room = high - low || 1;
    const [lowest, highest] = rangeOf([...means, ...ends]);
    [low, high] = [Math.max(lowest, low - room), Math.min(highest, high + room)];
    if (low === high) [low, high] = [low - 1, high + 1];
  }
  let [left, right] = rangeOf(xs);
  if (left === right) [left, right] = [left - 1, right + 1];
  const [top, bottom] = [EDGES.top, CHART_HEIGHT - EDGES.bottom];
  const across = (width - EDGES.left - EDGES.right) / (right - left);
  const up = (bottom - top) / (high - low);
  return {
    width,
    top,
    bottom,
    x: (x) => EDGES.left + (x - left) * across,
    y: (y) => bottom - (Math.max(low, Math.min(y, high)) - low) * up,
    xTicks: ticks(left, right, Math.max(2, Math.floor(width / 90))),
    yTicks: ticks(low, high, 5),
  };
}

function rangeOf(values) {
  if (values.length === 0) return [0, 1];
  return [Math.min(...values), Math.max(...values)];
}

// Round numbers in a range, about so many.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    found.push(k * step);
  }
  return found;
}

function shortNumber(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (size >= 1e4) return `${trimmed(value / 1e3)}k`;
  return trimmed(value);
}

function trimmed(value) {
  return String(Number(value.toPrecision(4)));
}

function drawAxes(axes, data) {
  const { top, bottom, width } = axes;
  const right = width - EDGES.right;
  const made = [];
  for (const value of axes.yTicks) {
    const y = axes.y(value);
    made.push(drawn("line", { class: "rule", x1: EDGES.left, x2: right, y1: y, y2: y }));
    const place = { x: EDGES.left - 8, y, dy: "0.35em", "text-anchor": "end" };
    made.push(drawn("text", { class: "tick", ...place }, shortNumber(value)));
  }
  for (const value of axes.xTicks) {
    const x = axes.x(value);
    made.push(drawn("line", { class: "rule", x1: x, x2: x, y1: top, y2: bottom }));
    const place = { x, y: bottom + 17, "text-anchor": "middle" };
    made.push(drawn("text", { class: "tick", ...place }, shortNumber(value)));
  }
  const middle = (EDGES.left + right) / 2;
  const place = { x: middle, y: CHART_HEIGHT - 6, "text-anchor": "middle" };
  made.push(drawn("text", { class: "axis", ...place }, data.xlabel));
  return made;
}

function drawLine(line, axes) {
  const at = (k, values) => `${axes.x(line.x[k]).toFixed(1)},${axes.y(values[k]).toFixed(1)}`;
  const pathOf = (values) => values.map((_, k) => at(k, values)).join(" ");
  const [fill, stroke] = [`fill: ${colourOf(line)}`, `stroke: ${colourOf(line)}`];
  const made = [];
  const known = [...line.x.keys()].filter((k) => line.low[k] !== null && line.high[k] !== null);
  if (known.length > 0 && line.dotted === null) {
    const above = known.map((k) => at(k, line.high));
    const below = known.reverse().map((k) => at(k, line.low));
    const points = [...above, ...below].join(" ");
    made.push(drawn("polygon", { class: "band", points, style: fill }));
  }
  for (const seed of line.seeds) {
    made.push(drawn("polyline", { class: "seed", points: pathOf(seed), style: stroke }));
  }
  const style = `${stroke}; stroke-dasharray: ${dashOf(line)}`;
  made.push(drawn("polyline", { class: "mean", points: pathOf(line.mean), style }));
  if (line.marked) {
    for (const [k, x] of line.x.entries()) {
      const place = { cx: axes.x(x), cy: axes.y(line.mean[k]), r: 3.5 };
      made.push(drawn("circle", { ...place, style: fill }));
    }
  }
  return made;
}

function toldAt(place, data, lines) {
  const told = [element("span", { class: "head" }, `${data.xlabel} ${trimmed(place)}`)];
  for (const line of lines) {
    const k = line.x.indexOf(place);
    if (k < 0) continue;
    const swatch = element("span", { class: "swatch", style: `background: ${colourOf(line)}` });
    told.push(element("span", {}, swatch, `${line.label}: ${figureAt(line, k)} (${line.count})`));
  }
  return told;
}

function figureAt(line, k) {
  const mean = trimmedTo3(line.mean[k]);
  if (line.low[k] === null || line.high[k] === null) return mean;
  return `${mean} [${trimmedTo3(line.low[k])}, ${trimmedTo3(line.high[k])}]`;
}

function trimmedTo3(value) {
  return String(Number(value.toPrecision(3)));
}

// The same as a table, made when somebody asks for it.
function figuresTable(data) {
  const details = element("details", {}, element("summary", {}, "As a table"));
  const made = () => {
    if (!details.open || details.childElementCount > 1) return;
    const head = element("tr", {}, element("th", { scope: "col" }, data.xlabel));
    head.append(...data.lines.map((line) => element("th", { scope: "col" }, line.label)));
    const table = element("table", { class: "figures" }, element("thead", {}, head));
    const places = [...new Set(data.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    for (const place of places) {
      const row = element("tr", {}, element("th", { scope: "row" }, trimmed(place)));
      for (const line of data.lines) {
        const k = line.x.indexOf(place);
        row.append(element("td", {}, k < 0 ? "–" : figureAt(line, k)));
      }
      table.append(row);
    }
    details.append(element("div", { class: "scroll tall" }, table));
  };
  details.addEventListener("toggle", made);
  return details;
}
