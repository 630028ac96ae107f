"use strict";
// Everything shown comes from the data block; text only ever goes into text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const files = data.files;

function element(tag, attributes = {}, ...inside) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

const baseName = (path) => path.split("/").pop();
const clock = (seconds) => {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((n, i) => (i ? String(n).padStart(2, "0") : n)).join(":");
};
const at = (part) => part.end < 60
  ? `${part.start.toFixed(1)}–${part.end.toFixed(1)} s`
  : `${clock(part.start)}–${clock(part.end)}`;
const sizeOf = (row) => `${row.width} × ${row.height}`;

// ---- the list

const columns = [
  { title: "Video", key: (f) => f.row.file, cell: nameCell, kind: "name" },
  { title: "Score", key: (f) => f.row.score, cell: scoreCell, kind: "number" },
  { title: "MOS", key: (f) => f.row.mos, text: (r) => r.mos.toFixed(2), kind: "number" },
  { title: "Worst part", key: (f) => f.row.worst?.score, text: (r) => r.worst ? `${r.worst.score.toFixed(1)} at ${at(r.worst)}` : "", kind: "number wide" },
  { title: "Length", key: (f) => f.row.duration, text: (r) => clock(r.duration), kind: "number wide" },
  { title: "Size", key: (f) => f.row.width * f.row.height, text: sizeOf, kind: "number wide" },
  { title: "Frames/s", key: (f) => f.row.fps, text: (r) => String(r.fps), kind: "number wide" },
  { title: "Codec", key: (f) => f.row.codec, text: (r) => r.codec, kind: "wide" },
];
const order = { column: -1, down: false };

function nameCell(file, number) {
  return [element("a", { href: `#${number + 1}`, title: file.row.file }, file.row.file)];
}

function scoreCell(file) {
  const bar = element("i");
  bar.style.width = `${Math.min(100, Math.max(0, file.row.score))}%`;
  return [element("span", { class: "meter", "aria-hidden": "true" }, bar), file.row.score.toFixed(1)];
}

function lineOf(file, number) {
  const line = element("tr", file.row.error ? { class: "why" } : {});
  const picture = element("td", { class: "thumb" });
  if (file.thumb) picture.append(element("img", { src: file.thumb, alt: "", loading: "lazy" }));
  line.append(picture);
  if (file.row.error) {
    const reason = file.row.error.replace(`${file.row.file}: `, "");
    line.append(element("td", { class: "name", colspan: columns.length }, file.row.file, element("br"), reason));
    return line;
  }
  for (const { cell, text, kind } of columns) {
    line.append(element("td", { class: kind }, ...(cell ? cell(file, number) : [text(file.row)])));
  }
  return line;
}

function compare(one, other) {
  const key = columns[order.column].key;
  const [a, b] = [key(files[one]), key(files[other])];
  const missing = (v) => v === undefined || Number.isNaN(v);
  if (missing(a) || missing(b)) return missing(a) - missing(b) || one - other;  // last either way
  const found = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  return (order.down ? -found : found) || one - other;
}

function fillList() {
  const wanted = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = files.map((_, number) => number).filter((number) => {
    const { row } = files[number];
    const text = [row.file, row.codec, row.error, row.width && sizeOf(row), row.hdr].join(" ").toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
  if (order.column >= 0) chosen.sort(compare);
  $("rows").replaceChildren(...chosen.map((number) => lineOf(files[number], number)));
  const failed = chosen.filter((number) => files[number].row.error).length;
  const of = chosen.length < files.length ? ` of ${files.length}` : "";
  $("count").textContent = `${chosen.length}${of} videos${failed ? `, ${failed} not scored` : ""}`;
}

function makeHeads() {
  $("heads").append(element("th", { scope: "col", "aria-label": "Picture" }));
  columns.forEach(({ title, kind }, number) => {
    const button = element("button", { type: "button" }, title);
    const head = element("th", { scope: "col", class: kind }, button);
    button.addEventListener("click", () => {
      order.down = order.column === number ? !order.down : false;
      order.column = number;
      for (const other of $("heads").children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      fillList();
    });
    $("heads").append(head);
  });
}

// ---- one video

let now = null; // the file that is shown
let sheet = null; // its maps, as one picture
const video = $("video"), heat = $("heat"), chart = $("chart");
let chosen = ""; // the name of the map that is shown
const colours = {};
for (const [name, { colours: hexes }] of Object.entries(data.maps)) {
  colours[name] = hexes.match(/.{6}/g).map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
}
const titled = (name) => name[0].toUpperCase() + name.slice(1);
// The sound may begin before the pictures, or end after them.
const lengthOf = () => Math.max(partsOf(now.row).at(-1).end, video.duration || 0);
const partAt = (seconds) => {
  const parts = partsOf(now.row);
  const found = parts.findIndex((part) => seconds < part.end);
  return found < 0 ? parts.length - 1 : found;
};
const partsOf = (row) => row.segments.length ? row.segments : [{ start: 0, end: row.duration, score: row.score }];

function open(file, number) {
  now = file;
  sheet = null;
  const { row } = file;
  document.title = `${baseName(row.file)} · video quality`;
  $("name").textContent = row.file;
  for (const [id, step] of [["before", -1], ["after", 1]]) {
    let other = number + step;
    while (files[other]?.row.error) other += step;
    files[other] ? $(id).setAttribute("href", `#${other + 1}`) : $(id).removeAttribute("href");
  }
  $("unplayed").hidden = true;
  video.src = file.link;
  heat.hidden = true;
  const names = Object.keys(file.maps);
  for (const label of document.querySelectorAll(".maps")) label.hidden = !names.length;
  $("choose").hidden = names.length < 2;
  $("map").replaceChildren(...names.map((name) => element("option", { value: name }, titled(name))));
  if (names.length) choose(names.includes(chosen) ? chosen : names[0]);
  showFacts(row);
  $("caption").textContent = row.segments.length
    ? "Score of each part over time (dashed line: whole video). Click or use the arrow keys to seek."
    : "Score over time: one part (--segments gives more)";
  drawChart();
}

function choose(name) {
  chosen = name;
  sheet = null;
  $("map").value = name;
  $("mapname").textContent = titled(name);
  $("mapname").title = data.maps[name]?.meaning || "";
  const file = now, picture = new Image();
  picture.onload = () => {
    if (now !== file || chosen !== name) return;
    sheet = picture;
    drawHeat();
  };
  picture.src = file.maps[name].sheet;
}

function close() {
  now = sheet = null;
  video.removeAttribute("src");
  video.load();
  document.title = data.title;
}

function showFacts(row) {
  const [low, high] = row.mos_range;
  $("score").replaceChildren(row.score.toFixed(1), " ", element("small", {}, "of 100, not clipped"));
  const facts = [
    ["MOS", `${row.mos.toFixed(2)} on ${low}–${high} of ${row.dataset}`],
    ["Worst part", row.worst && `${row.worst.score.toFixed(1)} at ${at(row.worst)}`],
    ["Size", sizeOf(row)],
    ["Length", `${row.duration} s, ${row.total_frames} frames`],
    ["Frames/s", row.fps || "unknown"],
    ["Codec", [row.codec, row.bit_rate && `${(row.bit_rate / 1e6).toFixed(2)} Mbit/s`].filter(Boolean).join(", ")],
    ["Pixels", [row.pix_fmt, `${row.bit_depth} bit`, row.color_space].filter(Boolean).join(", ")],
    ["HDR", row.hdr && `${row.hdr}, scored as if it were SDR`],
    ["Rotation", row.rotation && `${row.rotation}°`],
    ["Damaged", row.damaged && `${row.damaged} packets or frames`],
    ["Notes", row.notes],
    ...Object.entries(now.maps).map(([name, map]) => [titled(name), `of ${map.seconds.length} frames, blended between them`]),
    ["Player", now.proxy && "shows a copy as H.264"],
    ["Looked at", `${row.frames} frames${row.segments.length ? " of each part" : ""}`],
    ["Took", `${row.seconds} s`],
  ];
  const shown = facts.filter(([, value]) => value);
  $("facts").replaceChildren(...shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
}

// Where the picture is inside the video element, which letterboxes it.
function pictureBox() {
  const [wide, high] = [video.clientWidth, video.clientHeight];
  // The player's size takes the pixel aspect ratio into account.
  const [width, height] = [video.videoWidth || now.row.width, video.videoHeight || now.row.height];
  const scale = Math.min(wide / width, high / height);
  const [w, h] = [width * scale, height * scale];
  return [video.offsetLeft + (wide - w) / 2, video.offsetTop + (high - h) / 2, w, h];
}

function drawHeat() {
  const shows = now && sheet && $("shown").checked;
  heat.hidden = !shows || video.currentTime < partsOf(now.row)[0].start - 0.01;
  if (heat.hidden) return;
  const { width, height, columns, seconds } = now.maps[chosen];
  const [left, top, w, h] = pictureBox();
  Object.assign(heat.style, { left: `${left}px`, top: `${top}px`, width: `${w}px`, height: `${h}px` });
  if (heat.width !== width) heat.width = width;
  if (heat.height !== height) heat.height = height;
  const time = video.currentTime;
  let next = seconds.findIndex((s) => s > time);
  if (next < 0) next = seconds.length - 1;
  const before = Math.max(0, next - 1);
  const span = seconds[next] - seconds[before];
  const share = span > 0 ? Math.min(1, Math.max(0, (time - seconds[before]) / span)) : 1;
  const pen = heat.getContext("2d", { willReadFrequently: true });
  const put = (number) => pen.drawImage(sheet, (number % columns) * width, Math.floor(number / columns) * height, width, height, 0, 0, width, height);
  pen.globalAlpha = 1;
  put(before);
  pen.globalAlpha = share;
  put(next);
  const pixels = pen.getImageData(0, 0, width, height);
  const strength = Number($("strength").value) / 100;
  const palette = colours[chosen];
  for (let i = 0; i < pixels.data.length; i += 4) {
    const level = pixels.data[i];
    const [r, g, b] = palette[level];
    pixels.data[i] = r;
    pixels.data[i + 1] = g;
    pixels.data[i + 2] = b;
    pixels.data[i + 3] = strength * level;
  }
  pen.putImageData(pixels, 0, 0);
}

// ---- quality over time

let drawn = null; // the bars of the chart, and the conversion between seconds and pixels

function ticks(low, high, most) {
  const step = [0.5, 1, 2, 5, 10, 15, 20, 25, 30, 50, 60, 100, 120, 300, 600, 1200, 1800, 3600, 7200].find((s) => (high - low) / s <= most) || 14400;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9; at += step) found.push(at);
  return found;
}

function drawChart() {
  if (!now) return;
  const { row } = now, parts = partsOf(row), length = lengthOf();
  const wide = chart.clientWidth, high = chart.clientHeight;
  const box = { left: 40, right: wide - 12, top: 10, bottom: high - 24 };
  const scores = [...parts.map((p) => p.score), row.score];
  const low = Math.min(0, Math.floor(Math.min(...scores) / 10) * 10);
  const top = Math.max(100, Math.ceil(Math.max(...scores) / 10) * 10);
  const x = (s) => box.left + (length ? s / length : 0) * (box.right - box.left);
  const y = (v) => box.bottom - ((v - low) / (top - low)) * (box.bottom - box.top);
  const secondsAt = (px) => Math.min(1, Math.max(0, (px - box.left) / (box.right - box.left))) * length;
  const worst = row.worst ? row.worst.start : -1;
  const bars = parts.map((part) => {
    const [a, b] = [x(part.start), x(part.end)];
    const gap = b - a > 4 ? 1 : 0;
    const bar = element("svg:rect", { x: a, y: y(part.score), width: Math.max(0.5, b - a - gap), height: Math.max(1, box.bottom - y(part.score)), class: part.start === worst && parts.length > 1 ? "part worst" : "part" });
    bar.append(element("svg:title", {}, `${part.score.toFixed(1)} at ${at(part)}`));
    return bar;
  });
  chart.setAttribute("aria-valuemax", length);
  chart.replaceChildren(
    ...ticks(low, top, 5).flatMap((v) => [
      element("svg:line", { x1: box.left, x2: box.right, y1: y(v), y2: y(v), class: "grid" }),
      element("svg:text", { x: box.left - 6, y: y(v) + 4, "text-anchor": "end" }, String(v)),
    ]),
    ...bars,
    ...ticks(0, length, Math.max(2, Math.floor(wide / 90))).map((s) => element("svg:text", { x: x(s), y: high - 6, "text-anchor": !s ? "start" : x(s) > box.right - 20 ? "end" : "middle" }, Number.isInteger(s) ? clock(s) : `${s} s`)),
    element("svg:line", { x1: box.left, x2: box.right, y1: y(row.score), y2: y(row.score), class: "whole" }),
    element("svg:line", { y1: box.top - 6, y2: box.bottom, class: "cursor" }),
  );
  drawn = { bars, x, secondsAt };
  follow();
}

function follow() {
  if (!now || !drawn) return;
  const time = video.currentTime, part = partAt(time);
  const cursor = chart.querySelector(".cursor");
  const place = drawn.x(Math.min(time, lengthOf()));
  cursor.setAttribute("x1", place);
  cursor.setAttribute("x2", place);
  drawn.bars.forEach((bar, i) => bar.classList.toggle("now", i === part));
  chart.setAttribute("aria-valuenow", time.toFixed(2));
  chart.setAttribute("aria-valuetext", `${clock(time)}, score ${partsOf(now.row)[part].score.toFixed(1)}`);
}

const seek = (seconds) => { video.currentTime = Math.min(Math.max(0, seconds), lengthOf()); };
const pointed = (event) => seek(drawn.secondsAt(event.clientX - chart.getBoundingClientRect().left));
chart.addEventListener("pointerdown", (event) => { chart.setPointerCapture(event.pointerId); pointed(event); });
chart.addEventListener("pointermove", (event) => { if (chart.hasPointerCapture(event.pointerId)) pointed(event); });
chart.addEventListener("keydown", (event) => {
  const parts = partsOf(now.row), part = partAt(video.currentTime);
  const steps = { ArrowRight: part + 1, ArrowUp: part + 1, ArrowLeft: part - 1, ArrowDown: part - 1, Home: 0, End: parts.length - 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  seek(parts[Math.min(parts.length - 1, Math.max(0, steps[event.key]))].start);
});

// ---- playback and controls

const both = () => { follow(); drawHeat(); };
function tick() {
  if (video.paused || video.ended) return;
  both();
  requestAnimationFrame(tick);
}
video.addEventListener("play", tick);
for (const event of ["seeked", "seeking", "timeupdate", "pause"]) video.addEventListener(event, both);
video.addEventListener("loadedmetadata", () => { drawChart(); drawHeat(); });
video.addEventListener("error", () => {
  if (!now) return;
  $("unplayed").textContent = `This browser cannot play ${now.link}: the file has moved, or its codec is not supported.`;
  $("unplayed").hidden = false;
});
new ResizeObserver(() => { drawChart(); drawHeat(); }).observe(chart);
new ResizeObserver(drawHeat).observe(video);
$("shown").addEventListener("change", drawHeat);
$("map").addEventListener("change", () => choose($("map").value));
$("strength").addEventListener("input", drawHeat);
$("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : $("screen").requestFullscreen()));
$("filter").addEventListener("input", fillList);
document.addEventListener("keydown", (event) => {
  if (!now || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search]")) return;
  if (event.key === "s" && chosen in now.maps) $("shown").click();
  if (event.key === "f") $("full").click();
  if (event.key === " " && event.target === document.body) {
    event.preventDefault();
    video.paused ? video.play() : video.pause();
  }
});

function route() {
  const only = files.length === 1 && !files[0].row.error;
  const number = only ? 0 : parseInt(location.hash.slice(1), 10) - 1;
  const file = files[number];
  const shown = Boolean(file && !file.row.error);
  $("one").hidden = !shown;
  $("list").hidden = shown;
  $("steps").hidden = only;
  shown ? open(file, number) : close();
  scrollTo(0, 0);
}

$("model").textContent = data.model;
makeHeads();
fillList();
route();
addEventListener("hashchange", route);
