
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const ROW = 18;
const NARROWEST = 0.001;
const FUNCTIONS = 40;

// Frames that say how a thread runs, not what it does.
const RUNTIME = /^[<&]*(alloc|core|std|tokio::runtime|tokio::task)::|^(__rust_try|_start|clone3?|start_thread|main)$/;

let frames = [];
let root;
let zoomed;
let pattern = "";

// Builds the frames from [parent, name, samples, own]. The time of a hidden frame is its caller's, and equal frames below one
// caller become one.
function build(withRuntime) {
  const kept = [];
  for (const [parent, nameIndex, samples, own] of data.frames) {
    const name = data.names[nameIndex];
    const above = kept[parent];
    if (above && above.depth > 0 && !withRuntime && RUNTIME.test(name)) {
      above.own += own;
      kept.push(above);
      continue;
    }
    let frame = above?.children.get(name);
    if (!frame) {
      frame = { name, samples: 0, own: 0, parent: above, depth: above ? above.depth + 1 : 0, children: new Map() };
      above?.children.set(name, frame);
    }
    frame.samples += samples;
    frame.own += own;
    kept.push(frame);
  }
  root = kept[0];
  zoomed = root;
  frames = [];
  const place = (frame, start) => {
    frame.start = start;
    frames.push(frame);
    for (const child of [...frame.children.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      place(child, start);
      start += child.samples;
    }
  };
  place(root, 0);
}

const element = (id) => document.getElementById(id);
const seconds = (samples) => (samples * data.period).toFixed(2) + " s";
const percent = (samples) => (root.samples ? (100 * samples / root.samples).toFixed(1) : "0.0") + " %";
const describe = (frame) => frame.name + ": " + seconds(frame.samples) + ", " + percent(frame.samples) + "; own " + seconds(frame.own);
const matches = (frame) => pattern !== "" && frame.name.toLowerCase().includes(pattern);

// The same crate has the same colour.
function hue(name) {
  let hash = 7;
  for (const letter of name.replace(/^[<&]+/, "").split("::")[0]) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return hash;
}

function isVisible(frame) {
  const end = zoomed.start + zoomed.samples;
  return frame.start < end && frame.start + frame.samples > zoomed.start && frame.samples >= zoomed.samples * NARROWEST;
}

function draw() {
  const graph = element("graph");
  const shown = frames.filter((frame) => frame.samples > 0 && isVisible(frame));
  graph.replaceChildren(...shown.map((frame) => {
    const box = document.createElement("button");
    const from = Math.max(frame.start, zoomed.start);
    const to = Math.min(frame.start + frame.samples, zoomed.start + zoomed.samples);
    box.type = "button";
    box.textContent = frame.name;
    box.title = describe(frame);
    box.style.left = 100 * (from - zoomed.start) / zoomed.samples + "%";
    box.style.width = 100 * (to - from) / zoomed.samples + "%";
    box.style.top = frame.depth * ROW + "px";
    box.style.setProperty("--hue", hue(frame.name));
    box.classList.toggle("above", frame.depth < zoomed.depth);
    box.classList.toggle("match", matches(frame));
    const show = () => { element("detail").textContent = describe(frame); };
    box.addEventListener("focus", show);
    box.addEventListener("pointerenter", show);
    box.addEventListener("click", () => zoom(frame));
    return box;
  }));
  graph.style.height = (1 + Math.max(0, ...shown.map((frame) => frame.depth))) * ROW + "px";
}

function zoom(frame) {
  zoomed = frame;
  element("detail").textContent = describe(frame);
  draw();
}

function search() {
  pattern = element("search").value.trim().toLowerCase();
  // A match inside a match is counted once.
  const isInside = (frame) => { for (let above = frame.parent; above; above = above.parent) { if (matches(above)) return true; } return false; };
  const found = frames.filter((frame) => matches(frame) && !isInside(frame)).reduce((sum, frame) => sum + frame.samples, 0);
  element("found").textContent = pattern === "" ? "" : percent(found) + " of the CPU time";
  draw();
}

function list() {
  const byName = new Map();
  for (const frame of frames.filter((frame) => frame.depth > 1)) {
    const sum = byName.get(frame.name) ?? { name: frame.name, own: 0, total: 0 };
    sum.own += frame.own;
    let above = frame.parent;
    while (above && above.name !== frame.name) above = above.parent;
    if (!above) sum.total += frame.samples;
    byName.set(frame.name, sum);
  }
  const busiest = [...byName.values()].filter((sum) => sum.own > 0).sort((a, b) => b.own - a.own).slice(0, FUNCTIONS);
  element("functions").replaceChildren(...busiest.map((sum) => {
    const row = document.createElement("tr");
    for (const text of [percent(sum.own), percent(sum.total), sum.name]) row.insertCell().textContent = text;
    return row;
  }));
}

build(false);
element("summary").textContent = data.started + ", " + data.duration.toFixed(1) + " s: " + seconds(data.samples) + " of CPU time in " + data.samples + " samples. "
  + (data.samples ? "Select a frame to zoom in, Escape to zoom out." : "The server used no CPU time that a sample saw.");
element("search").addEventListener("input", search);
element("runtime").addEventListener("change", () => { build(element("runtime").checked); search(); list(); });
element("reset").addEventListener("click", () => zoom(root));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") zoom(root); });
draw();
list();
