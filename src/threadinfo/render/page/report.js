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

  // Flame graphs: a click, or Enter, makes a box as wide as the graph; arrows go about, Escape goes back to the whole.
  const addZoom = (graph, tools) => {
    const nodes = [...graph.children].map((box) => ({ box, ns: Number(box.dataset.v), parts: [], whole: null }));
    const open = [];
    for (const node of nodes) {
      const depth = Number(node.box.dataset.d);
      node.whole = open[depth - 1] ?? null;
      node.whole?.parts.push(node);
      open[depth] = node;
      const kind = node.box.firstElementChild.classList;
      node.isIdle = kind.contains("sleeping");
      node.name = node.box.querySelector("text").textContent;
    }
    const idle = (node) => node.idle ??= node.isIdle ? node.ns : node.parts.reduce((sum, part) => sum + idle(part), 0);
    const named = (words) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      label.append(input, words);
      return [label, input];
    };
    const [folding, fold] = named("Leave out waiting for work");
    const [searching, search] = named("");
    const back = document.createElement("button");
    const said = document.createElement("output");
    fold.type = "checkbox";
    fold.checked = idle(nodes[0]) < nodes[0].ns;
    search.type = "search";
    search.placeholder = "function, thread or file";
    searching.prepend("Find");
    back.type = "button";
    back.textContent = "Show all";
    tools.append(folding, searching, back, said);

    const time = (node) => node.ns - (fold.checked ? idle(node) : 0);
    let zoomed = nodes[0];
    const place = (node, left, width) => {
      node.box.toggleAttribute("hidden", width <= 0);
      node.box.setAttribute("x", `${left}%`);
      node.box.setAttribute("width", `${width}%`);
      const each = time(node) ? width / time(node) : 0;
      for (const part of node.parts) {
        place(part, left, time(part) * each);
        left += time(part) * each;
      }
    };
    const say = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const isFound = (node) => words.length > 0 && words.every((word) => node.name.toLowerCase().includes(word));
      const sum = (node) => (isFound(node) ? time(node) : node.parts.reduce((all, part) => all + sum(part), 0));
      for (const node of nodes) node.box.classList.toggle("found", isFound(node));
      const percent = (part, whole) => `${(whole ? (100 * part) / whole : 0).toFixed(1)} %`;
      const where = zoomed === nodes[0] ? "" : `${zoomed.name}: ${percent(time(zoomed), time(nodes[0]))} of all. `;
      said.textContent = where + (words.length ? `Found: ${percent(sum(zoomed), time(zoomed))} of what is shown` : "");
      back.hidden = zoomed === nodes[0];
    };
    const zoom = (node) => {
      zoomed = node;
      const above = new Set();
      for (let one = node.whole; one; one = one.whole) above.add(one);
      for (const one of nodes) {
        one.box.toggleAttribute("hidden", !above.has(one));
        one.box.classList.toggle("above", above.has(one));
      }
      for (const one of above) {
        one.box.setAttribute("x", "0%");
        one.box.setAttribute("width", "100%");
      }
      place(node, 0, 100);
      say();
    };
    const focus = (node) => {
      if (!node) return;
      for (const one of nodes) one.box.setAttribute("tabindex", one === node ? "0" : "-1");
      node.box.focus();
    };
    for (const node of nodes) {
      const shown = (parts) => (parts ?? []).filter((part) => !part.box.hasAttribute("hidden"));
      const beside = (step) => {
        const row = shown(node.whole?.parts);
        return row[row.indexOf(node) + step];
      };
      const keys = {
        Enter: () => zoom(node), " ": () => zoom(node), Escape: () => zoom(nodes[0]),
        ArrowDown: () => focus(shown(node.parts)[0]), ArrowUp: () => focus(node.whole),
        ArrowLeft: () => focus(beside(-1)), ArrowRight: () => focus(beside(1)),
      };
      node.box.setAttribute("tabindex", node === nodes[0] ? "0" : "-1");
      node.box.setAttribute("role", "button");
      node.box.addEventListener("click", () => zoom(node));
      node.box.addEventListener("keydown", (event) => {
        if (!keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
      });
    }
    fold.addEventListener("change", () => zoom(time(zoomed) ? zoomed : nodes[0]));
    search.addEventListener("input", say);
    back.addEventListener("click", () => zoom(nodes[0]));
    zoom(nodes[0]);
  };
  for (const graph of document.querySelectorAll("svg.flame")) addZoom(graph, graph.previousElementSibling);

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
