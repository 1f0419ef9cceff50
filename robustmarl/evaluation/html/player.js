// Recorded episodes, side by side and in step: what is there, what is believed, what is done.

const STEPS_PER_SECOND = 4;
const SPEEDS = { "½×": 0.5, "1×": 1, "2×": 2, "4×": 4 };
const LONG_LIST = 6; // agents whose actions are listed without being asked for

function player(films) {
  const views = films.map((film) => filmView(film, films));
  const episodes = Math.max(...films.map((film) => film.episodes.length));
  const state = { episode: 0, step: 0, believer: FIRST, timer: null, speed: 1 };
  const last = () => lastStep(films, state.episode);

  const play = element("button", { type: "button", class: "play" });
  const slider = element("input", { type: "range", min: 0, step: 1, "aria-label": "Step" });
  const counter = element("output", { class: "counter" });

  function show() {
    slider.max = last();
    slider.value = state.step;
    counter.textContent = `${state.step} / ${last()}`;
    play.textContent = state.timer === null ? "▶ Play" : "❚❚ Pause";
    for (const view of views) view.show(state);
  }

  function stop() {
    clearInterval(state.timer);
    state.timer = null;
  }

  function start() {
    stop();
    if (state.step >= last()) state.step = 0;
    state.timer = setInterval(() => {
      state.step += 1;
      if (state.step >= last()) stop();
      show();
    }, 1000 / (STEPS_PER_SECOND * state.speed));
  }

  function seek(step) {
    stop();
    state.step = Math.max(0, Math.min(step, last()));
    show();
  }

  play.addEventListener("click", () => {
    if (state.timer === null) start();
    else stop();
    show();
  });
  slider.addEventListener("input", () => seek(Number(slider.value)));
  for (const view of views) view.onSeek(seek);

  const controls = element("div", { class: "controls", role: "group", "aria-label": "Playback" });
  controls.append(element("div", { class: "transport" }, play, slider, counter));
  if (episodes > 1) {
    const choices = Array.from({ length: episodes }, (_, k) => [k + 1, k]);
    controls.append(
      choice("Episode", choices, 0, (episode) => {
        stop();
        Object.assign(state, { episode, step: 0 });
        show();
      }),
    );
  }
  controls.append(
    choice("Speed", Object.entries(SPEEDS), 1, (speed) => {
      state.speed = speed;
      if (state.timer !== null) start();
    }),
  );
  const believers = [...new Set(films.flatMap(believersOf))];
  if (believers.length > 0) {
    const choices = [["the first misled", FIRST], ["all", ALL], ["nobody", NOBODY]];
    const agents = believers.map((agent) => [agent, agent]);
    const believerChoice = choice("Beliefs of", [...choices, ...agents], FIRST, (believer) => {
      state.believer = believer;
      show();
    });
    for (const view of views) view.onPick((agent) => believerChoice.pick(agent));
    controls.append(believerChoice);
  }

  show();
  const stages = element("div", { class: "films" }, ...views.map((view) => view.element));
  return [filmLegend(films), stages, controls];
}

// The last step of the longest film: the others stand still at their ends until then.
function lastStep(films, episode) {
  return Math.max(...films.map((film) => (film.episodes[episode]?.steps.length ?? 1) - 1));
}

function stepsOf(films) {
  return films.flatMap((film) => film.episodes).flatMap((episode) => episode.steps);
}

function believersOf(film) {
  const fooled = new Set(stepsOf([film]).flatMap((step) => Object.keys(step.ghosts ?? {})));
  return film.agents.filter((agent) => fooled.has(agent));
}

function choice(name, entries, chosen, take) {
  const select = element("select");
  for (const [text] of entries) select.append(element("option", {}, text));
  select.selectedIndex = entries.findIndex(([, value]) => value === chosen);
  select.addEventListener("change", () => take(entries[select.selectedIndex][1]));
  const made = element("label", { class: "choice" }, `${name} `, select);
  made.pick = (value) => {
    const index = entries.findIndex(([, one]) => one === value);
    if (index < 0) return;
    select.selectedIndex = index;
    take(value);
  };
  return made;
}

// One film: a title, a field or a picture, how many actions were changed when, and what is done.
function filmView(film, films) {
  const stage = film.bounds === null ? pictureView(film) : fieldView(film, films);
  const status = element("p", { class: "status", role: "status" });
  const strip = stripView(film, films);
  const acts = element("ol", { class: "acts" });
  const listed =
    film.agents.length <= LONG_LIST
      ? acts
      : element("details", {}, element("summary", {}, "What everybody does"), acts);
  const attack = element("p", { class: "faint attack", title: film.attack }, film.attack);
  const made = element(
    "article",
    { class: "film", "aria-label": film.title },
    element("h3", {}, film.title),
    attack,
    stage.element,
    strip.element,
    status,
    listed,
  );

  function show(state) {
    const episode = film.episodes[state.episode];
    made.hidden = episode === undefined;
    if (episode === undefined) return;
    const number = Math.min(state.step, episode.steps.length - 1);
    const step = episode.steps[number];
    status.setAttribute("aria-live", state.timer === null ? "polite" : "off");
    status.replaceChildren(...statusOf(episode, number));
    acts.replaceChildren(...film.agents.map((_, agent) => actOf(film, agent, step)));
    strip.show(state.episode, number);
    stage.show(episode, number, state.believer);
  }

  return { element: made, show, onSeek: strip.onSeek, onPick: stage.onPick };
}

function statusOf(episode, number) {
  const step = episode.steps[number];
  const texts = [`Step ${number}`, `earned ${step.earned}`];
  if (step.acts) {
    texts.push(`${changedIn(step).length} of ${step.acts.length} actions changed`);
  }
  const parts = [texts.join(" · ")];
  if (number === episode.steps.length - 1) {
    parts.push(element("strong", {}, ["The end", ...episode.figures].join(" · ")));
  }
  return parts.map((part) => element("span", {}, part));
}

function actOf(film, agent, step) {
  const [, act, instead] = step.acts?.find(([who]) => who === agent) ?? [];
  const line = element("li", {}, element("span", { class: "who" }, film.agents[agent]));
  line.append(element("span", {}, film.acts[act] ?? "–"));
  if (instead !== undefined) {
    line.classList.add("changed");
    line.append(element("span", {}, `instead of ${film.acts[instead]}`));
  }
  const changes = step.shown?.[film.agents[agent]] ?? [];
  if (changes.length > 0) {
    const texts = changes.map(([k, truth, seen]) => `[${k}] ${truth} → ${seen}`);
    line.append(element("span", { class: "shown" }, `sees ${texts.join(", ")}`));
  }
  return line;
}

// The share of actions that are changed, step by step.
function stripView(film, films) {
  const height = 20;
  const bars = drawn("path", { class: "bars" });
  const over = drawn("rect", { class: "over", y: 0, height });
  const cursor = drawn("line", { class: "cursor", y1: 0, y2: height });
  const made = drawn(
    "svg",
    { class: "strip", preserveAspectRatio: "none", "aria-hidden": "true" },
    over,
    bars,
    cursor,
  );
  let shown = null;
  let seek = () => {};

  function show(episode, step) {
    if (episode !== shown) {
      const steps = film.episodes[episode].steps;
      const length = lastStep(films, episode) + 1;
      made.setAttribute("viewBox", `0 0 ${length} ${height}`);
      over.setAttribute("x", steps.length);
      over.setAttribute("width", length - steps.length);
      bars.setAttribute("d", steps.map((one, k) => barOf(one, k, height)).join(""));
      shown = episode;
    }
    cursor.setAttribute("x1", step + 0.5);
    cursor.setAttribute("x2", step + 0.5);
  }

  made.addEventListener("click", (event) => {
    const { left, width } = made.getBoundingClientRect();
    const length = lastStep(films, shown) + 1;
    seek(Math.floor(((event.clientX - left) / width) * length));
  });
  return { element: made, show, onSeek: (take) => (seek = take) };
}

function barOf(step, k, height) {
  const changed = changedIn(step).length;
  if (changed === 0) return "";
  const top = height * (1 - changed / step.acts.length);
  return `M${k} ${height}V${top}H${k + 1}V${height}Z`;
}

// Where nobody tells where things are, the environment's own pictures.
function pictureView(film) {
  const image = element("img", { class: "field" });
  return {
    element: image,
    show(episode, number) {
      image.src = episode.steps[number].picture;
      image.alt = `${film.title}, step ${number}`;
    },
    onPick() {},
  };
}

function filmLegend(films) {
  const told = films.some((film) => film.bounds !== null);
  const entries = [];
  if (told) entries.push(["there", "what is there"]);
  if (stepsOf(films).some((step) => step.shots)) entries.push(["shot", "shot"]);
  if (films.some((film) => believersOf(film).length > 0)) {
    entries.push(["believed", "what an agent believes, tied to what is there"]);
    entries.push(["believer", "whose beliefs these are"]);
  }
  if (stepsOf(films).some((step) => step.at?.some((at) => at.length > 3))) {
    entries.push(["pool", "health, and above it the shield"]);
  }
  entries.push(["changed", "action changed; below, the share of them step by step"]);
  const items = entries.map(([kind, text]) =>
    element("li", {}, element("span", { class: `sign ${kind}` }), text),
  );
  return element("ul", { class: "signs faint", "aria-label": "Signs" }, ...items);
}
