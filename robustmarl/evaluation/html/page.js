// The page: what the report holds, one section after another.

function themeButton() {
  const root = document.documentElement;
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  const button = element("button", { type: "button", id: "theme" });
  let chosen = remembered("theme");

  function show() {
    const theme = chosen ?? (preferred.matches ? "dark" : "light");
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show the report on ${theme === "dark" ? "light" : "dark"}`);
  }

  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    remember("theme", chosen);
    show();
  });
  preferred.addEventListener("change", show);
  show();
  return button;
}

// Pages of a folder may be forbidden to remember anything: then they do without.
function remembered(key) {
  try {
    return localStorage.getItem(`robustmarl-${key}`);
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`robustmarl-${key}`, value);
  } catch {
    // see above
  }
}

function masthead(report) {
  const texts = element("div", {}, element("h1", {}, report.title));
  if (report.command) texts.append(element("code", { class: "command" }, report.command));
  return element("header", { class: "masthead" }, texts, themeButton());
}

function sectionsOf(report) {
  const sections = report.tables.map((table) => ({ title: table.title, content: heatmap(table) }));
  for (const group of report.groups) {
    sections.push({ title: group.title, content: chartGroup(group) });
  }
  if (report.films.length > 0) {
    sections.push({ title: "Episodes", content: player(report.films) });
  }
  return sections;
}

function show(report) {
  const sections = sectionsOf(report);
  const contents = element("nav", { class: "contents", "aria-label": "Contents" });
  const page = element("main", { class: "page" }, masthead(report));
  if (sections.length > 1) page.append(contents);
  sections.forEach(({ title, content }, index) => {
    const id = `section-${index + 1}`;
    contents.append(element("a", { href: `#${id}` }, title));
    const heading = element("h2", {}, title);
    page.append(element("section", { id, "aria-label": title }, heading, ...content));
  });
  page.append(faint(report.made));
  document.body.append(page, tip.element);
}

show(JSON.parse(document.getElementById("data").textContent));
