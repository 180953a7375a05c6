// Drawing by hand: an SVG line plot with ticks, a legend that hides lines, and a tooltip at the nearest x.
const SIZE = { width: 620, height: 320, left: 62, right: 14, top: 12, bottom: 42 };

function element(name, attributes = {}, ...children) {
  const inSvg = ["svg", "g", "line", "path", "text", "circle", "rect", "title"].includes(name);
  const made = inSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shown(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size >= 10000 || (size > 0 && size < 0.001)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

// A scale from [low, high] to pixels, with readable ticks.
function scale(values, pixels, log, whole) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : whole ? [low - 0.5, high + 0.5] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
  const to = log ? Math.log10 : (x) => x;
  const margin = whole ? 0 : 0.04 * (to(high) - to(low));
  const [a, b] = [to(low) - margin, to(high) + margin];
  const at = (value) => pixels[0] + ((to(value) - a) / (b - a)) * (pixels[1] - pixels[0]);
  const ticks = (log ? logTicks(a, b) : linearTicks(a, b, whole)).filter((x) => to(x) >= a - 1e-9 && to(x) <= b + 1e-9);
  return { at, ticks };
}

function linearTicks(low, high, whole) {
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  if (whole) step = Math.max(1, Math.round(step));
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function logTicks(low, high) {
  const parts = high - low < 1 ? null : high - low < 2.5 ? [1, 2, 5] : [1];
  if (parts === null) return linearTicks(10 ** low, 10 ** high, false);
  const decades = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, i) => Math.floor(low) + i);
  const skip = Math.max(1, Math.ceil(decades.length / 8));
  return decades.filter((_, i) => i % skip === 0).flatMap((d) => parts.map((p) => p * 10 ** d));
}

// lines: [{name, colour, dash, points: [[x, y], ...]}]; labels: {x, y, about}; options: {log, logX, dots}
function linePlot(host, lines, labels, options = {}) {
  host.replaceChildren();
  const ok = ([x, y]) => y !== null && (!options.log || y > 0) && (!options.logX || x > 0);
  const drawn = lines.map((line) => ({ ...line, points: line.points.filter(ok) })).filter((line) => line.points.length);
  if (!drawn.length) return host.append(element("p", { class: "notice" }, "No run shown here has this series."));
  const all = drawn.flatMap((line) => line.points);
  const x = scale(all.map((p) => p[0]), [SIZE.left, SIZE.width - SIZE.right], options.logX, !options.logX && !options.dots);
  const y = scale(all.map((p) => p[1]), [SIZE.height - SIZE.bottom, SIZE.top], options.log, false);
  const svg = element("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": labels.about });
  frame(svg, x, y, labels);
  for (const line of drawn) {
    const path = line.points.map(([a, b], i) => `${i ? "L" : "M"}${x.at(a).toFixed(1)} ${y.at(b).toFixed(1)}`).join("");
    if (!options.dots) svg.append(element("path", { d: path, fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-dasharray": line.dash, class: "series" }));
    const radius = options.dots ? 5.5 : 2.6;
    if (options.dots || line.points.length <= 60) for (const [a, b] of line.points) svg.append(element("circle", { cx: x.at(a), cy: y.at(b), r: radius, fill: line.colour, class: "mark" }));
    if (options.dots) svg.append(nameOf(line, x, y));
  }
  host.append(svg);
  hover(host, svg, drawn, { x, y }, labels);
}

// A point's name, on the side where there is room for it.
function nameOf({ name, points: [[a, b]] }, x, y) {
  const right = x.at(a) > 0.7 * SIZE.width;
  return element("text", { x: x.at(a) + (right ? -9 : 9), y: y.at(b) + 4, "text-anchor": right ? "end" : "start", class: "title" }, name);
}

function frame(svg, x, y, labels) {
  const { width, height, left, right, top, bottom } = SIZE;
  for (const tick of y.ticks) {
    svg.append(element("line", { x1: left, x2: width - right, y1: y.at(tick), y2: y.at(tick), class: "grid" }));
    svg.append(element("text", { x: left - 6, y: y.at(tick) + 4, "text-anchor": "end" }, shown(tick)));
  }
  for (const tick of x.ticks) svg.append(element("text", { x: x.at(tick), y: height - bottom + 16, "text-anchor": "middle" }, shown(tick)));
  svg.append(element("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }));
  svg.append(element("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, labels.x));
  const turned = `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`;
  svg.append(element("text", { transform: turned, "text-anchor": "middle" }, labels.y));
}

function hover(host, svg, lines, { x, y }, labels) {
  const cursor = element("line", { y1: SIZE.top, y2: SIZE.height - SIZE.bottom, class: "cursor", visibility: "hidden" });
  svg.append(cursor);
  const places = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))];
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * SIZE.width;
    const nearest = places.reduce((best, place) => (Math.abs(x.at(place) - across) < Math.abs(x.at(best) - across) ? place : best));
    cursor.setAttribute("x1", x.at(nearest));
    cursor.setAttribute("x2", x.at(nearest));
    cursor.setAttribute("visibility", "visible");
    const found = lines.flatMap((line) => line.points.filter((p) => p[0] === nearest).map((p) => [line, p[1]]));
    const rows = found.sort((a, b) => b[1] - a[1]).map(([line, value]) => [line.colour, `${line.name}: ${shown(value)}`]);
    tip(host, event, `${labels.x}: ${shown(nearest)}`, rows);
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); tip(host); });
}

function tip(host, event, heading, rows = []) {
  host.querySelector(".tip")?.remove();
  if (!event) return;
  const made = element("div", { class: "tip" }, element("strong", {}, heading));
  for (const [colour, text] of rows) made.append(element("br"), element("span", { class: "key", style: `background:${colour}` }), text);
  host.append(made);
  const box = host.getBoundingClientRect();
  const left = event.clientX - box.left + 14;
  made.style.left = `${left + made.offsetWidth > box.width ? Math.max(0, left - made.offsetWidth - 28) : left}px`;
  made.style.top = `${event.clientY - box.top + 12}px`;
}
