// The plots of this page: what can be chosen, and which run is hidden.
const DATA = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const redraws = [];

function view(title, draw, legend) {
  const controls = element("div", { class: "controls" }), host = element("div", { class: "plot" });
  const figure = element("figure", {}, element("figcaption", {}, title), controls, host);
  document.getElementById("views").append(figure);
  const redraw = () => draw(host);
  if (legend) figure.append(legendOf());
  redraws.push(redraw);
  return { controls, redraw };
}

function legendOf() {
  const box = element("div", { class: "legend" });
  DATA.runs.forEach((run, index) => {
    const sample = element("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
    sample.append(element("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: run.colour, "stroke-width": 2.5, "stroke-dasharray": run.dash }));
    const button = element("button", { type: "button", "aria-pressed": "true", "data-legend": index }, sample, run.label);
    button.addEventListener("click", () => {
      hidden.has(index) ? hidden.delete(index) : hidden.add(index);
      document.querySelectorAll(`[data-legend="${index}"]`).forEach((one) => one.setAttribute("aria-pressed", String(!hidden.has(index))));
      redraws.forEach((redraw) => redraw());
    });
    box.append(button);
  });
  return box;
}

function choice(controls, text, options, changed) {
  const select = element("select", { "aria-label": text });
  const fill = (entries) => {
    const before = select.value;
    select.replaceChildren(...entries.map(([value, name]) => element("option", { value }, name)));
    if (entries.some(([value]) => value === before)) select.value = before;
  };
  fill(options);
  select.addEventListener("change", changed);
  controls.append(element("label", {}, text, select));
  return { select, fill };
}

const linesOf = (points) => DATA.runs.map((run, i) => ({ name: run.label, colour: run.colour, dash: run.dash, points: (!hidden.has(i) && points(run)) || [] }));
const titles = (names) => names.map((name) => [name, `${DATA.metrics[name].title}  (${name})`]);
const layersOf = (metric) => [...new Set(DATA.runs.flatMap((run) => Object.keys(run.series[metric] ?? {})))].map((one) => [one, one || "whole block"]);

function depthView(title, wanted) {
  let metric, layer;
  const made = view(title, (host) => {
    if (!metric) return;
    const about = DATA.metrics[metric.select.value];
    const lines = linesOf((run) => run.series[metric.select.value]?.[layer.select.value]);
    const positive = lines.every((line) => line.points.every((p) => p[1] === null || p[1] > 0));
    linePlot(host, lines, { x: "block", y: about.axis, about: about.title }, { log: about.log && positive });
  }, true);
  metric = choice(made.controls, "series", titles(Object.keys(DATA.metrics)), () => { layer.fill(layersOf(metric.select.value)); made.redraw(); });
  if (DATA.metrics[wanted]) metric.select.value = wanted;
  layer = choice(made.controls, "of", layersOf(metric.select.value), made.redraw);
  const last = layersOf(metric.select.value).at(-1);
  layer.select.value = layersOf(metric.select.value).some(([name]) => name === "") ? "" : last[0];
  made.redraw();
}

function mapView(title, names, cellsOf, wanted) {
  if (!names.length) return;
  let metric, run;
  const made = view(title, (host) => {
    if (!metric) return;
    const name = metric.select.value, about = DATA.metrics[name];
    const cells = cellsOf(DATA.runs[Number(run.select.value)], name);
    heatMap(host, cells, { y: about.axis, about: about.title }, about.log && cells.every((cell) => cell[2] === null || cell[2] > 0));
  }, false);
  metric = choice(made.controls, "series", titles(names), made.redraw);
  if (names.includes(wanted)) metric.select.value = wanted;
  run = choice(made.controls, "run", DATA.runs.map((one, i) => [String(i), one.label]), made.redraw);
  made.redraw();
}

function spectrumView() {
  const blocks = [...new Set(DATA.runs.flatMap((run) => Object.keys(run.spectra).map(Number)))].sort((a, b) => a - b);
  if (!blocks.length) return;
  const slider = element("input", { type: "range", min: 0, max: blocks.length - 1, value: blocks.length - 1, "aria-label": "block" });
  const said = element("output");
  const made = view("Spectrum of the error, relative to the output", (host) => {
    const block = blocks[Number(slider.value)];
    said.textContent = String(block);
    linePlot(host, linesOf((run) => run.spectra[block]), { x: "rank of the direction", y: "error / output, eigenvalue", about: "error spectrum" }, { log: true, logX: true });
  }, true);
  made.controls.append(element("label", {}, "block", slider, said));
  slider.addEventListener("input", made.redraw);
  made.redraw();
}

function paretoView() {
  if (DATA.runs.length < 2) return;
  const made = view("Perplexity against stored bits", (host) => {
    const lines = linesOf((run) => [[run.bits, run.perplexity]]);
    linePlot(host, lines, { x: "stored bits per weight", y: "perplexity", about: "perplexity against stored bits" }, { log: true, dots: true });
  }, true);
  made.redraw();
}

const perLayer = Object.keys(DATA.metrics).filter((name) => DATA.runs.some((run) => Object.keys(run.series[name] ?? {}).filter(Boolean).length > 1));
const perHead = Object.keys(DATA.metrics).filter((name) => DATA.runs.some((run) => run.heads[name]));
const layerCells = (run, name) => Object.entries(run.series[name] ?? {}).filter(([layer]) => layer).flatMap(([layer, points]) => points.map(([block, value]) => [block, layer.split(".").at(-1), value]));
depthView("Series over depth", DATA.metrics["stream/drift"] ? "stream/drift" : "input_drift");
depthView("Another series beside it", DATA.metrics["stream/output_energy"] ? "stream/output_energy" : "output_energy");
mapView("Layer by layer", perLayer, layerCells, DATA.metrics["stream/output_error"] ? "stream/output_error" : "output_error");
mapView("Head by head", perHead, (run, name) => (run.heads[name] ?? []).map(([block, head, value]) => [block, `head ${head}`, value]), "attention/total_variation");
spectrumView();
paretoView();
document.querySelectorAll(".key[data-run]").forEach((key) => { key.style.background = DATA.runs[Number(key.dataset.run)].colour; });
