
"use strict";
// A click or Enter on a heading sorts its table; a second one turns the order around. Cells without a number are last.
const numberOf = (cell) => parseFloat(cell.dataset.sort ?? cell.textContent.replaceAll(",", "").replace("−", "-"));
for (const table of document.querySelectorAll("table:not(.heat)")) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const sort = () => {
      const ascending = heading.ariaSort !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      heading.ariaSort = ascending ? "ascending" : "descending";
      const entries = [...body.rows].map((row) => [row, numberOf(row.cells[column]), row.cells[column].textContent]);
      const areNumbers = entries.filter((entry) => !isNaN(entry[1])).length * 2 > entries.length;
      const order = ascending ? 1 : -1;
      entries.sort(([, a, x], [, b, y]) =>
        !areNumbers ? order * x.localeCompare(y) : isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : order * (a - b));
      body.append(...entries.map(([row]) => row));
    };
    heading.classList.add("sorts");
    heading.tabIndex = 0;
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
// A printed page has the folded parts too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
