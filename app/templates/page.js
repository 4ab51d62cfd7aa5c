// Sorts a table by the column whose button was pressed; pressed again, the other way round.
document.addEventListener("click", (event) => {
  const button = event.target.closest && event.target.closest("button.mc-sort");
  if (!button) return;
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const column = head.cellIndex;
  const upward = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", upward ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.sort;
  const order = (one, other) => {
    const [a, b] = [key(one), key(other)];
    const numbers = a !== "" && b !== "" && !isNaN(a) && !isNaN(b);
    return (numbers ? a - b : a.localeCompare(b)) * (upward ? 1 : -1);
  };
  body.append(...[...body.rows].sort(order));
});
