// What every page does by itself: tables are sorted and copied, wide figures are opened, print shows what is folded.
const make = (tag, properties = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

const tables = (() => {
  const text = (cell) => cell.textContent.trim();
  const read = (table) => ({
    head: [...table.tHead.rows[0].cells].map((cell) => text(cell)),
    numeric: [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("number")),
    rows: [...table.tBodies[0].rows].map((row) => [...row.cells].map(text)),
  });

  const special = { "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}" };
  const symbols = { "^": "\\textasciicircum{}", "\\": "\\textbackslash{}", "\u2212": "$-$", "±": "$\\pm$", "–": "--", "<": "$<$", ">": "$>$" };
  const tex = (words) => words.replace(/[&%$#_{}~^\\\u2212±–<>]/g, (sign) => special[sign] ?? symbols[sign]);
  const latex = ({ head, numeric, rows }) => {
    const line = (cells) => `${cells.map(tex).join(" & ")} \\\\`;
    const columns = numeric.map((flag) => (flag ? "r" : "l")).join("");
    return [`\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  };
  const markdown = ({ head, numeric, rows }) => {
    const line = (cells) => `| ${cells.map((cell) => cell.replace(/\|/g, "\\|")).join(" | ")} |`;
    return [line(head), line(numeric.map((flag) => (flag ? "---:" : "---"))), ...rows.map(line), ""].join("\n");
  };

  // Where a page of a file may not write to the clipboard, a selection may be copied.
  const copy = async (words) => {
    try {
      await navigator.clipboard.writeText(words);
    } catch {
      const box = make("textarea", { value: words, readOnly: true });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
  };
  const copying = (table) => {
    const said = make("span", { role: "status" });
    const button = (name, write) =>
      make("button", {
        type: "button",
        textContent: `Copy as ${name}`,
        onclick: async () => {
          await copy(write(read(table)));
          said.textContent = "copied";
          setTimeout(() => (said.textContent = ""), 2000);
        },
      });
    return make("div", { className: "tools" }, button("LaTeX", latex), button("Markdown", markdown), said);
  };

  const value = (words) => {
    const number = Number.parseFloat(words.replace(/,/g, "").replace(/\u2212/g, "-").replace(/^[^\d.-]*/, ""));
    return Number.isNaN(number) ? null : number;
  };
  const sortable = (table) => {
    const cells = [...table.tHead.rows[0].cells];
    cells.forEach((cell, column) => {
      const numeric = cell.classList.contains("number");
      const button = make("button", { type: "button", className: "sort" }, ...cell.childNodes);
      cell.replaceChildren(button);
      button.onclick = () => {
        const down = cell.getAttribute("aria-sort") === "ascending" || (numeric && !cell.hasAttribute("aria-sort"));
        for (const other of cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => text(row.cells[column]);
        const order = (a, b) => {
          if (!numeric) return key(a).localeCompare(key(b), undefined, { numeric: true });
          const [x, y] = [value(key(a)), value(key(b))];
          return (x ?? -Infinity) - (y ?? -Infinity);
        };
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => (down ? -order(a, b) : order(a, b))));
      };
    });
  };
  return { copying, latex, markdown, read, sortable };
})();

for (const table of document.querySelectorAll("main table")) {
  table.closest(".wide").after(tables.copying(table));
  if (table.tHead.rows[0].cells.length > 2 && table.tBodies[0].rows.length > 2) tables.sortable(table);
}

// A figure on a phone is as wide as the phone; opened, it is as large as it was drawn.
const opened = make("dialog", { className: "figure" });
document.body.append(opened);
opened.onclick = () => opened.close();
for (const picture of document.querySelectorAll("figure img")) {
  const open = make("button", { type: "button", className: "open", textContent: "Enlarge" });
  open.setAttribute("aria-label", `Enlarge the figure: ${picture.alt.slice(0, 60)}`);
  open.onclick = () => {
    const close = make("button", { type: "button", textContent: "Close", onclick: () => opened.close() });
    const large = picture.cloneNode();
    large.onclick = (event) => event.stopPropagation();
    opened.replaceChildren(close, large);
    opened.setAttribute("aria-label", "A figure, enlarged");
    opened.showModal();
  };
  picture.closest(".paper").after(open);
}

const folded = new Set();
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    folded.add(fold);
    fold.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
  folded.clear();
});
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", () => {
    const fold = document.querySelector(link.getAttribute("href"))?.querySelector("details");
    if (fold && link.closest(".verdicts")) fold.open = true;
  });
}
