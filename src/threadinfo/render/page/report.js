"use strict";
// Tables that sort and filter. Only what stands in the page is read; without this everything is there, in one order.
(() => {
  const text = (cell) => cell.textContent.trim();
  const key = (cell) => {
    if (!cell) return null;
    const raw = cell.dataset.n ?? text(cell).replaceAll(",", "");
    if (raw === "" || raw === "\u2013") return null;
    const number = Number(raw);
    return Number.isNaN(number) ? text(cell).toLowerCase() : number;
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  };

  const sort = (table, column) => {
    const heads = [...table.tHead.rows[0].cells];
    const head = heads[column];
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
    const first = rows.some(([value]) => typeof value === "number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const way = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of heads) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    body.remove(); // moving thousands of rows is quicker where nobody looks
    for (const [, row] of rows) body.append(row);
    table.append(body);
  };

  const addFilter = (table, tools) => {
    const rows = [...table.tBodies[0].rows];
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    let haystacks = null;
    input.type = "search";
    input.placeholder = "words";
    input.title = "All of the words must occur in a row";
    label.append("Filter", input);
    tools.append(label, count);
    const all = rows.length === 1 ? "1 row" : `${rows.length} rows`;
    const say = (shown) => { count.textContent = shown === rows.length ? all : `${shown} of ${all}`; };
    input.addEventListener("input", () => {
      haystacks ??= rows.map((row) => row.textContent.toLowerCase());
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        row.hidden = !words.every((word) => haystacks[index].includes(word));
        shown += row.hidden ? 0 : 1;
      });
      say(shown);
    });
    say(rows.length);
  };

  for (const table of document.querySelectorAll("table.data")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (head.classList.contains("chart")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column));
      head.append(button);
    });
    const tools = table.closest(".scroll").previousElementSibling;
    const isLong = table.tBodies[0].rows.length > 5; // fewer are seen at a glance
    if (isLong && tools?.classList.contains("tools")) addFilter(table, tools);
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
