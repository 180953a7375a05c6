// A map of cells: blocks across, layers or heads down, colour for the value (cividis, which colour-blind readers can read).
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];

function colourOf(share) {
  const place = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1), below = Math.min(Math.floor(place), CIVIDIS.length - 2);
  const mixed = CIVIDIS[below].map((part, i) => Math.round(part + (place - below) * (CIVIDIS[below + 1][i] - part)));
  return `rgb(${mixed.join(" ")})`;
}

// cells: [[block, row name, value], ...]
function heatMap(host, cells, labels, log) {
  host.replaceChildren();
  const known = cells.filter((cell) => cell[2] !== null && (!log || cell[2] > 0));
  if (!known.length) return host.append(element("p", { class: "notice" }, "This run does not have this series."));
  const rows = [...new Set(cells.map((cell) => cell[1]))], blocks = [...new Set(cells.map((cell) => cell[0]))].sort((a, b) => a - b);
  const to = log ? Math.log10 : (x) => x;
  const values = known.map((cell) => to(cell[2])), low = Math.min(...values), high = Math.max(...values);
  const width = SIZE.width, left = 96, deep = Math.max(18, Math.min(30, 250 / rows.length)), wide = (width - left - 14) / blocks.length;
  const bottom = 10 + rows.length * deep;
  const svg = element("svg", { viewBox: `0 0 ${width} ${bottom + 76}`, role: "img", "aria-label": labels.about });
  rows.forEach((row, i) => svg.append(element("text", { x: left - 6, y: 14 + (i + 0.5) * deep, "text-anchor": "end" }, String(row))));
  const every = Math.ceil(blocks.length / 15);
  blocks.forEach((block, i) => i % every === 0 && svg.append(element("text", { x: left + (i + 0.5) * wide, y: bottom + 15, "text-anchor": "middle" }, String(block))));
  svg.append(element("text", { x: (left + width) / 2, y: bottom + 30, "text-anchor": "middle" }, "block"));
  for (const [block, row, value] of known) {
    const share = high > low ? (to(value) - low) / (high - low) : 0.5;
    const cell = element("rect", {
      x: left + blocks.indexOf(block) * wide, y: 10 + rows.indexOf(row) * deep, width: Math.max(wide - 1, 1), height: deep - 1, fill: colourOf(share), class: "cell",
    });
    cell.addEventListener("pointermove", (event) => tip(host, event, `block ${block}, ${row}`, [[colourOf(share), shown(value)]]));
    cell.addEventListener("pointerleave", () => tip(host));
    svg.append(cell);
  }
  colourBar(svg, { left, width, top: bottom + 42 }, log ? [10 ** low, 10 ** high] : [low, high], labels.y);
  host.append(svg);
}

function colourBar(svg, { left, width, top }, [low, high], text) {
  const steps = 60, length = (width - left - 14) / 2, step = length / steps;
  for (let i = 0; i < steps; i++) svg.append(element("rect", { x: left + i * step, y: top, width: step + 0.5, height: 9, fill: colourOf(i / (steps - 1)) }));
  svg.append(element("text", { x: left, y: top + 22 }, shown(low)));
  svg.append(element("text", { x: left + length, y: top + 22, "text-anchor": "end" }, shown(high)));
  svg.append(element("text", { x: left + length + 12, y: top + 9 }, text));
}
