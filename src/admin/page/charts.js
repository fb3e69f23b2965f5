// The line charts. uPlot draws on a canvas; colours come from the style sheet, so that they follow the theme.

import { create, setText } from "./dom.js";
import { clock } from "./format.js";

/** Pixels, unless a chart says otherwise. */
const HEIGHT = 150;
const FONT = "11px system-ui, sans-serif";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Indexes of values without neighbours, which a line does not show. */
function isolated(values) {
  const isNone = (index) => values[index] === null || values[index] === undefined;
  return values.flatMap((_, index) => (!isNone(index) && isNone(index - 1) && isNone(index + 1) ? [index] : []));
}

export class Chart {
  #plot;
  #series;
  #format;
  #legend;
  #range = [0, 1];
  #data = [];

  /**
   * `series`: `{column, name, color, width, fill}`. `format` writes a value. `label` names the chart for screen
   * readers. The arrow keys move the cursor.
   */
  constructor(parent, { series, format, label, height = HEIGHT }) {
    this.#series = series;
    this.#format = format;
    this.#legend = create("ul", "legend");
    const canvas = create("div", "plot");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    parent.append(this.#legend, canvas);
    for (const { name, color: key } of series) {
      const mark = create("i", `mark ${key}`);
      this.#legend.append(create("li", "", mark, create("span", "", name), " ", create("b")));
    }
    const axis = (values, size) => ({
      stroke: () => color("muted"), font: FONT, values, size, gap: 4,
      grid: { stroke: () => color("grid"), width: 1 }, ticks: { show: false },
    });
    const options = {
      width: 300, height, padding: [8, 14, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "time" }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      scales: {
        x: { time: true, range: () => this.#range },
        y: { range: (_, _min, max) => [0, max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        { ...axis((_, splits, _axis, _space, step) => splits.map((time) => clock(time).slice(0, step < 60 ? 8 : 5)), 24), space: 50 },
        { ...axis((_, splits) => splits.map(format), 62), space: 30 },
      ],
      series: [{}, ...series.map((one) => this.#line(one))],
      hooks: { setCursor: [() => this.#showLegend()] },
    };
    this.#plot = new uPlot(options, [[], ...series.map(() => [])], canvas);
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#plot.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width > 0) this.#plot.setSize({ width, height });
    }).observe(canvas);
  }

  get columns() {
    return this.#series.map(({ column }) => column);
  }

  #line({ name, color: key, width, fill }) {
    return {
      label: name, width: width ?? 1.5, stroke: () => color(key),
      fill: fill ? () => color(`${key}-fill`) : undefined,
      points: { size: 4, show: () => false, filter: (plot, index) => isolated(plot.data[index]) },
    };
  }

  /** Shows `data` from the time `from` to `to`. */
  show(data, from, to) {
    this.#data = data;
    this.#range = [from, to];
    this.#plot.setData(data);
    this.#showLegend();
  }

  /** Draws again with the colours of the theme. */
  redraw() {
    this.#plot.redraw(false);
  }

  /** The values under the cursor, or the newest ones. */
  #showLegend() {
    const index = this.#plot?.cursor.idx ?? this.#data[0]?.length - 1;
    this.#series.forEach((_, at) => {
      setText(this.#legend.children[at].lastElementChild, this.#format(this.#data[at + 1]?.[index] ?? null));
    });
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const times = this.#data[0];
    if (!step || !times?.length) return;
    event.preventDefault();
    const now = this.#plot.cursor.idx ?? times.length;
    const index = Math.min(times.length - 1, Math.max(0, now + step));
    this.#plot.setCursor({ left: this.#plot.valToPos(times[index], "x"), top: 0 });
  }
}
