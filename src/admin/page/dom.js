// Changes to the document. Text goes through `textContent` only, because clients chose parts of it.

export const byId = (id) => document.getElementById(id);

/** Sets the text of an element if it differs, so that a selection and a live region survive. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** An element with a class and children, which are elements or text. */
export function create(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Gives `parent` one child for each item: `make()` creates a child, `fill(child, item)` updates it. */
export function list(parent, items, make, fill) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, index) => {
    let child = parent.children[index];
    if (!child) {
      child = make();
      parent.append(child);
    }
    fill(child, item);
  });
}

/** Name and value pairs in a `dl`. An item is `[name, value, hint]`. */
export function tiles(parent, items) {
  const make = () => create("div", "", create("dt"), create("dd"));
  list(parent, items, make, (tile, [name, value, hint]) => {
    setText(tile.firstElementChild, name);
    setText(tile.lastElementChild, value);
    tile.title = hint ?? "";
  });
}

/** Short name and value pairs in a `ul`. An item is `[name, value, hint]`. */
export function pairs(parent, items) {
  const make = () => create("li", "", create("span"), " ", create("b"));
  list(parent, items, make, (pair, [name, value, hint]) => {
    setText(pair.firstElementChild, name);
    setText(pair.lastElementChild, value);
    pair.title = hint ?? "";
  });
}

/**
 * A table whose rows are reused. A column is `{name, value(row), kind, hint(row)}`; the kind is the class of its
 * cells.
 */
export class Table {
  #body = create("tbody");
  #columns;
  #empty;

  constructor(table, columns, empty) {
    this.#columns = columns;
    this.#empty = empty;
    const head = create("tr");
    for (const { name, kind } of columns) {
      const cell = create("th", kind ?? "", name);
      cell.scope = "col";
      head.append(cell);
    }
    table.append(create("thead", "", head), this.#body);
  }

  show(rows) {
    if (rows.length === 0) {
      const cell = create("td", "empty", this.#empty);
      cell.colSpan = this.#columns.length;
      this.#body.replaceChildren(create("tr", "", cell));
      return;
    }
    if (this.#body.querySelector(".empty")) this.#body.replaceChildren();
    const make = () => create("tr", "", ...this.#columns.map(({ kind }) => create("td", kind ?? "")));
    list(this.#body, rows, make, (line, row) => {
      this.#columns.forEach(({ value, hint }, index) => {
        setText(line.children[index], value(row));
        if (hint) line.children[index].title = hint(row);
      });
    });
  }
}
