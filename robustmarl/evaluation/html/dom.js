// Elements, and the box that tells of a figure. Whatever comes from data becomes a text node or an
// attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function faint(text) {
  return element("p", { class: "faint" }, text);
}

const tip = {
  element: element("div", { class: "tip", id: "tip", role: "tooltip", hidden: "" }),
  owner: null,
  rectangle: null,

  // Show lines, each a text or an element, beside a rectangle of the window, which a function says.
  show(owner, lines, rectangle) {
    Object.assign(this, { owner, rectangle });
    this.element.replaceChildren(...lines.map((line) => element("span", { class: "line" }, line)));
    this.element.hidden = false;
    this.place();
  },

  place() {
    if (this.element.hidden) return;
    const beside = this.rectangle();
    const { width, height } = this.element.getBoundingClientRect();
    const room = { right: innerWidth - width - 8, bottom: innerHeight - height - 8 };
    const middle = (beside.left + beside.right - width) / 2;
    const below = beside.bottom + 8;
    const top = below <= room.bottom ? below : beside.top - height - 8;
    this.element.style.left = `${Math.max(8, Math.min(middle, room.right))}px`;
    this.element.style.top = `${Math.max(8, top)}px`;
  },

  hide(owner = this.owner) {
    if (owner === this.owner) this.element.hidden = true;
  },
};

addEventListener("keydown", (event) => {
  if (event.key === "Escape") tip.hide();
});
addEventListener("scroll", () => tip.place(), { passive: true, capture: true });
