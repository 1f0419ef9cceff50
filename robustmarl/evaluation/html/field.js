// A field seen from above: things, shots, and the ghosts that agents believe in.

const FIRST = "first";
const ALL = "all";
const NOBODY = "nobody";
const WIDTH = 360; // of a field, in its own pixels
const LEAST = 9; // radius below which nothing is drawn
const LEAST_OF_MANY = 4; // the same where more than so many things would cover each other:
const MANY = 24;
const TEAM_COLOURS = 4;
const COLOUR_OF = { blue: 0, red: 1, green: 2 }; // of teams that are called so
const WHOLE = 0.25; // share of a field that is in use from which all of it is shown
const MARGIN = 0.1; // around what is in use, share of it
const FLATTEST = 0.6; // height of a part of a field, share of its width
const AROUND = 4; // steps before and after, whose places are in sight, too, where it is followed
const NEAR = 0.7; // share of the picture's width below which what goes on is followed
const SMALL = 20; // radius of the largest thing below which it is: of large ones all is seen

function fieldView(film, films) {
  const alike = films.filter((one) => String(one.bounds) === String(film.bounds));
  const teams = [...new Set(alike.flatMap(teamsOf))];
  const svg = drawn("svg", { class: "field", role: "img" });
  const layers = Object.fromEntries(
    ["ground", "shots", "things", "ghosts"].map((name) => [name, drawn("g", { class: name })]),
  );
  const camera = drawn("g", { class: "camera" }, ...Object.values(layers));
  svg.append(camera);
  let scene = null;
  let pick = () => {};

  function show(episode, number, believer) {
    if (scene?.episode !== episode) {
      const k = film.episodes.indexOf(episode);
      const frame = frameOf(film, alike.map((one) => one.episodes[k]).filter(Boolean));
      const things = new Map();
      scene = { episode, number: null, frame, teams, things, agents: film.agents };
      svg.setAttribute("viewBox", `0 0 ${WIDTH} ${frame.height}`);
      drawGround(layers.ground, frame, episode, film.lines);
      layers.things.replaceChildren();
    }
    const near = Math.abs(number - scene.number) === 1;
    svg.classList.toggle("still", !near);
    scene.number = number;
    const [right, down] = scene.frame.camera(number);
    camera.style.transform = `translate(${right}px, ${down}px)`;
    const step = episode.steps[number];
    svg.setAttribute("aria-label", `${film.title}, step ${number}: ${step.at.length} things`);
    const believers = believersIn(step, believer, film.agents);
    drawThings(layers.things, scene, step, believers, (agent) => pick(agent));
    drawShots(layers.shots, scene, step);
    drawGhosts(layers.ghosts, scene, step, believers);
  }

  return { element: svg, show, onPick: (take) => (pick = take) };
}

function teamsOf(film) {
  return film.episodes.flatMap((episode) => episode.things.map((thing) => thing.team));
}

function believersIn(step, believer, agents) {
  const fooled = agents.filter((agent) => step.ghosts?.[agent]);
  if (believer === ALL) return fooled;
  if (believer === FIRST) {
    const misled = new Set(changedIn(step).map(([agent]) => agents[agent]));
    return [fooled.find((agent) => misled.has(agent)) ?? fooled[0]].filter(Boolean);
  }
  return fooled.filter((agent) => agent === believer);
}

// The acts of those that would have done another thing: agent, act, and what instead, by number.
function changedIn(step) {
  return (step.acts ?? []).filter((act) => act.length > 2);
}

// The part of the field that is shown: all of it, or where anybody goes if that is little.
function frameOf(film, episodes) {
  const used = [Infinity, Infinity, -Infinity, -Infinity];
  for (const { things, steps } of episodes) {
    for (const [k, x, y] of steps.flatMap((step) => step.at)) {
      extend(used, x, y, things[k].radius);
    }
  }
  const share = areaOf(used) / areaOf(film.bounds);
  let shown = film.bounds;
  if (share < WHOLE) {
    for (const step of episodes.flatMap(({ steps }) => steps)) {
      for (const [, x, y] of Object.values(step.ghosts ?? {}).flat()) extend(used, x, y, 0);
    }
    shown = partOf(film.bounds, used);
  } else {
    extend(used, shown[0], shown[1], 0);
    extend(used, shown[2], shown[3], 0);
    shown = used;
  }
  const [left, low, right, high] = shown;
  const crowded = episodes.some(({ things }) => things.length > MANY);
  const least = crowded ? LEAST_OF_MANY : LEAST;
  const near = followed(episodes, shown);
  const scale = WIDTH / (near?.width ?? right - left);
  const frame = {
    left,
    low,
    right,
    high,
    scale,
    height: (near?.height ?? high - low) * scale,
    x: (x) => (x - left) * scale,
    y: (y) => (film.downward ? y - low : high - y) * scale,
    least,
    radius: (radius) => Math.max(radius * scale, least),
  };
  frame.camera = (number) => {
    if (near === null) return [0, 0];
    const [x, y] = near.middles[Math.min(number, near.middles.length - 1)];
    return [WIDTH / 2 - frame.x(x), frame.height / 2 - frame.y(y)];
  };
  return frame;
}

// What is in sight where things keep together and move on: its size, and its middle at each step.
function followed(episodes, [left, , right]) {
  const largest = Math.max(...episodes.flatMap(({ things }) => things.map((one) => one.radius)));
  if (largest * (WIDTH / (right - left)) >= SMALL) return null;
  const length = Math.max(...episodes.map(({ steps }) => steps.length));
  const boxes = Array.from({ length }, (_, number) => {
    const used = [Infinity, Infinity, -Infinity, -Infinity];
    for (const { things, steps } of episodes) {
      const from = Math.max(0, Math.min(number, steps.length - 1) - AROUND);
      for (const step of steps.slice(from, number + AROUND + 1)) {
        for (const [k, x, y] of step.at) extend(used, x, y, things[k].radius);
        for (const [, x, y] of Object.values(step.ghosts ?? {}).flat()) extend(used, x, y, 0);
      }
    }
    return used;
  });
  const widest = Math.max(...boxes.map((box) => box[2] - box[0])) * (1 + MARGIN);
  const highest = Math.max(...boxes.map((box) => box[3] - box[1])) * (1 + MARGIN);
  const width = Math.max(widest, highest * FLATTEST);
  if (!(width < NEAR * (right - left))) return null;
  const middles = boxes.map((box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
  return { width, height: Math.max(highest, widest * FLATTEST), middles };
}

function extend(box, x, y, radius) {
  box[0] = Math.min(box[0], x - radius);
  box[1] = Math.min(box[1], y - radius);
  box[2] = Math.max(box[2], x + radius);
  box[3] = Math.max(box[3], y + radius);
}

function areaOf([left, low, right, high]) {
  return (right - left) * (high - low);
}

// What is in use with a margin, no flatter than it is easily looked at, as far as the field goes.
function partOf([left, low, right, high], used) {
  const width = (used[2] - used[0]) * (1 + MARGIN);
  const height = (used[3] - used[1]) * (1 + MARGIN);
  const halves = [Math.max(width, height * FLATTEST) / 2, Math.max(height, width * FLATTEST) / 2];
  const [x, y] = [(used[0] + used[2]) / 2, (used[1] + used[3]) / 2];
  return [
    Math.max(left, x - halves[0]),
    Math.max(low, y - halves[1]),
    Math.min(right, x + halves[0]),
    Math.min(high, y + halves[1]),
  ];
}

function drawGround(layer, frame, episode, painted) {
  const { left, low, right, high } = frame;
  const gap = right - left > 60 ? 10 : right - left > 4 ? 1 : 0.5;
  let lines = "";
  const [wide, tall] = [(right - left) * frame.scale, (high - low) * frame.scale];
  for (let x = Math.ceil(left / gap) * gap; x <= right; x += gap) {
    lines += `M${frame.x(x)} 0V${tall}`;
  }
  for (let y = Math.ceil(low / gap) * gap; y <= high; y += gap) {
    lines += `M0 ${frame.y(y)}H${wide}`;
  }
  const edge = frame.scale;
  const walls = episode.walls.map(([x, y]) => {
    const top = Math.min(frame.y(y), frame.y(y + 1));
    return drawn("rect", { class: "wall", x: frame.x(x), y: top, width: edge, height: edge });
  });
  const paint = painted.map((line) => {
    const corners = line.map(([x, y]) => `${frame.x(x)} ${frame.y(y)}`);
    return drawn("path", { class: "paint", d: `M${corners.join("L")}` });
  });
  layer.replaceChildren(drawn("path", { class: "grid", d: lines }), ...walls, ...paint);
}

function drawThings(layer, scene, step, believers, pick) {
  const present = new Map(step.at.map((at) => [at[0], at]));
  const changed = new Set(changedIn(step).map(([agent]) => scene.agents[agent]));
  scene.episode.things.forEach((thing, k) => {
    const at = present.get(k);
    if (!scene.things.has(k)) {
      if (!at) return;
      scene.things.set(k, thingNode(thing, scene, pick));
      layer.append(scene.things.get(k).element);
    }
    const node = scene.things.get(k);
    node.element.classList.toggle("gone", !at);
    node.element.classList.toggle("changed", changed.has(thing.name));
    node.element.classList.toggle("believer", believers.includes(thing.name));
    if (at) node.place(at);
  });
}

function teamClass(thing, scene) {
  const number = COLOUR_OF[thing.team] ?? scene.teams.indexOf(thing.team);
  return `team-${number % TEAM_COLOURS}`;
}

function thingNode(thing, scene, pick) {
  const { frame } = scene;
  const radius = frame.radius(thing.radius);
  const made = drawn("g", { class: `thing ${teamClass(thing, scene)}` });
  made.append(
    drawn("circle", { class: "believer-ring", r: radius + frame.least }),
    drawn("circle", { class: "changed-ring", r: radius + frame.least / 2 }),
    bodyOf(thing, radius, "body"),
    drawn("path", { class: "cross", d: crossOf(radius) }),
  );
  if (thing.label) made.append(labelOf(thing, radius));
  const width = 2 * Math.max(radius, frame.least);
  const thick = frame.least / 2.25;
  const bars = [drawn("rect", { class: "health" }), drawn("rect", { class: "shield" })];
  const grounds = bars.map(() => drawn("rect", { class: "bar-ground" }));
  made.append(...grounds, ...bars);
  let told = [];

  function place([, x, y, ...pools]) {
    made.style.transform = `translate(${frame.x(x)}px, ${frame.y(y)}px)`;
    bars.forEach((bar, i) => {
      const shown = pools[i] !== undefined;
      const y = -radius - frame.least - 1.5 * thick * i;
      const box = { x: -width / 2, y, height: shown ? thick : 0 };
      for (const [rect, share] of [[bar, pools[i] ?? 0], [grounds[i], 1]]) {
        for (const [key, value] of Object.entries(box)) rect.setAttribute(key, value);
        rect.setAttribute("width", Math.max(0, width * share));
      }
    });
    const names = [thing.name, thing.kind].filter(Boolean).join(", ");
    told = [element("span", { class: "head" }, names)];
    if (pools.length > 0) told.push(`health ${(100 * pools[0]).toFixed(0)} %`);
    if (pools.length > 1) told.push(`shield ${(100 * pools[1]).toFixed(0)} %`);
    told.push(`at ${x.toFixed(1)}, ${y.toFixed(1)}`);
  }

  const rectangle = () => made.getBoundingClientRect();
  made.addEventListener("pointerenter", () => tip.show(made, told, rectangle));
  made.addEventListener("pointerleave", () => tip.hide(made));
  made.addEventListener("click", () => pick(thing.name));
  return { element: made, place };
}

function crossOf(radius) {
  const [half, whole] = [radius / 2, radius];
  return `M${-half} ${-half}l${whole} ${whole}m0 ${-whole}l${-whole} ${whole}`;
}

function bodyOf(thing, radius, kind) {
  if (!thing.square) return drawn("circle", { class: kind, r: radius });
  const box = { x: -radius, y: -radius, width: 2 * radius, height: 2 * radius, rx: radius / 5 };
  return drawn("rect", { class: kind, ...box });
}

function labelOf(thing, radius) {
  const size = Math.max(radius * 1.1, 11);
  return drawn("text", { class: "label", "font-size": size, dy: "0.35em" }, thing.label);
}

function drawShots(layer, scene, step) {
  const { frame } = scene;
  const here = lastPlaces(scene);
  const lines = (step.shots ?? []).map(([k, x, y]) => {
    const from = here(k);
    if (!from) return "";
    return drawn("line", {
      class: `shot ${teamClass(scene.episode.things[k], scene)}`,
      x1: frame.x(from[1]),
      y1: frame.y(from[2]),
      x2: frame.x(x),
      y2: frame.y(y),
    });
  });
  layer.replaceChildren(...lines);
}

// Where a thing is, or was last: who shoots may die in the same step.
function lastPlaces(scene) {
  return (k) => {
    for (let number = scene.number; number >= 0; number -= 1) {
      const found = scene.episode.steps[number].at.find((at) => at[0] === k);
      if (found) return found;
    }
    return undefined;
  };
}

function drawGhosts(layer, scene, step, believers) {
  const { frame } = scene;
  const present = new Map(step.at.map((at) => [at[0], at]));
  const nodes = believers.flatMap((agent) => step.ghosts[agent]).flatMap(([k, x, y]) => {
    const thing = scene.episode.things[k];
    const kind = teamClass(thing, scene);
    const outline = bodyOf(thing, frame.radius(thing.radius), "outline");
    const ghost = drawn("g", { class: `ghost ${kind}` }, outline);
    ghost.style.transform = `translate(${frame.x(x)}px, ${frame.y(y)}px)`;
    const at = present.get(k);
    if (!at) return [ghost];
    const tie = { x1: frame.x(at[1]), y1: frame.y(at[2]), x2: frame.x(x), y2: frame.y(y) };
    return [drawn("line", { class: `tie ${kind}`, ...tie }), ghost];
  });
  layer.replaceChildren(...nodes);
}
