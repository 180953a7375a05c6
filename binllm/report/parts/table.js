// The table of layers: a click on a heading sorts, a second one turns the order, the search field filters.
(function layerTable() {
  const table = document.getElementById("layer-table"), filter = document.getElementById("filter"), count = document.getElementById("count");
  const order = { column: -1, down: false };
  const numeric = DATA.columns.map((_, i) => DATA.rows.some((row) => typeof row[i] === "number"));

  function compare(a, b) {
    const [x, y] = [a[order.column], b[order.column]];
    if (x === null || y === null) return (x === null) - (y === null); // what was not measured stays at the end
    const sign = order.down ? -1 : 1;
    return sign * (numeric[order.column] ? x - y : String(x).localeCompare(String(y)));
  }

  function fill() {
    const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const rows = DATA.rows.filter((row) => words.every((word) => row.some((cell) => typeof cell === "string" && cell.toLowerCase().includes(word))));
    if (order.column >= 0) rows.sort(compare);
    table.tBodies[0].replaceChildren(...rows.map((row) => element("tr", {}, ...row.map((cell, i) => element("td", numeric[i] ? { class: "number" } : {}, typeof cell === "number" ? shown(cell) : cell ?? "-")))));
    count.textContent = `${rows.length} of ${DATA.rows.length}`;
    [...table.tHead.rows[0].cells].forEach((cell, i) => (i === order.column ? cell.setAttribute("aria-sort", order.down ? "descending" : "ascending") : cell.removeAttribute("aria-sort")));
  }

  const headings = DATA.columns.map((name, i) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      order.down = order.column === i && !order.down;
      order.column = i;
      fill();
    });
    return element("th", numeric[i] ? { class: "number" } : {}, button);
  });
  table.tHead.append(element("tr", {}, ...headings));
  filter.addEventListener("input", fill);
  fill();
})();
