// Of eval/page/report.html. One state for the whole page: which encodings are on, and what is chosen in the selects.
// A panel (a figure or a table) is shown when its `when` agrees with every choice; figures are drawn when first near.
"use strict";
(() => {
  const start = JSON.parse(document.getElementById("start").textContent);
  const off = new Set(start.off);
  const chips = [...document.querySelectorAll(".chip")];
  const selects = [...document.querySelectorAll("select[data-choice]")];
  const grey = document.getElementById("grey");
  const panels = [...document.querySelectorAll(".panel")].map((element) => {
    const plot = element.querySelector(".plot");
    const figure = plot && JSON.parse(element.querySelector("script").textContent);
    return { element, plot, figure, when: JSON.parse(element.dataset.when), drawn: false, near: false };
  });
  const narrow = () => window.innerWidth < 640;

  // A trace as it looks now: as it is, in grey behind the others, or not at all.
  function look(trace) {
    if (trace.meta === undefined || !off.has(trace.meta)) return trace;
    const line = "line" in trace && !("fill" in trace) && trace.mode !== "markers";
    if (!(grey && grey.checked && line)) return { ...trace, visible: false };
    return { ...trace, mode: "lines", line: { color: "#d3d7dc", width: 1 }, hoverinfo: "skip", hovertemplate: null };
  }

  function draw(panel) {
    const traces = panel.figure.data.map(look);
    traces.sort((a, b) => ("hoverinfo" in b && !("fill" in b)) - ("hoverinfo" in a && !("fill" in a)));  // grey: behind
    const layout = structuredClone(panel.figure.layout);
    const shown = panel.figure.data.filter((trace) => trace.meta === undefined || !off.has(trace.meta));
    if (layout.yaxis.categoryarray) {
      const names = new Set(shown.flatMap((trace) => trace.y));
      layout.yaxis.categoryarray = layout.yaxis.categoryarray.filter((name) => names.has(name));
      layout.height -= layout.meta.line * (panel.figure.layout.yaxis.categoryarray.length - names.size);
    }
    if (narrow()) layout.margin = { ...layout.margin, l: 44, r: 6 };
    Plotly.react(panel.plot, traces, layout, { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover" });
    panel.drawn = true;
  }

  function show() {
    for (const panel of panels) {
      const choices = [...panel.element.closest("section").querySelectorAll("select[data-choice]")];
      const agrees = choices.every(({ dataset, value }) => !(dataset.choice in panel.when) || panel.when[dataset.choice] === value);
      panel.element.hidden = !agrees;
      if (panel.plot && agrees && panel.near) draw(panel); else panel.drawn = false;
    }
    for (const chip of chips) chip.setAttribute("aria-pressed", String(!off.has(chip.dataset.label)));
    for (const row of document.querySelectorAll("tr[data-label]")) row.classList.toggle("off", off.has(row.dataset.label));
  }

  function only(labels) {
    off.clear();
    for (const chip of chips) if (!labels.includes(chip.dataset.label)) off.add(chip.dataset.label);
    show();
  }

  function sort(header) {
    const column = [...header.parentElement.children].indexOf(header);
    const body = header.closest("table").tBodies[0];
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.children[column];
      if (!("value" in cell.dataset)) return cell.textContent;
      return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    const rows = [...body.rows].sort((one, two) => {
      const [a, b] = [key(one), key(two)];
      if (a === null || b === null) return (a === null) - (b === null);  // what has no number stands last
      return ascending ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
  }

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const label = chip.dataset.label;
      if (!off.delete(label)) off.add(label);
      show();
    });
    chip.addEventListener("dblclick", () => only([chip.dataset.label]));
  }
  document.getElementById("all")?.addEventListener("click", () => only(chips.map((chip) => chip.dataset.label)));
  document.getElementById("none")?.addEventListener("click", () => only([]));
  document.getElementById("best")?.addEventListener("click", () => only(start.best));
  if (grey) {
    grey.checked = start.off.length > 0;
    grey.addEventListener("change", show);
  }
  for (const select of selects) {
    select.addEventListener("change", () => {  // the same choice may stand in several sections
      for (const other of selects) {
        const offered = [...other.options].some((option) => option.value === select.value);
        if (other.dataset.choice === select.dataset.choice && offered) other.value = select.value;
      }
      show();
    });
  }
  for (const header of document.querySelectorAll("thead th")) {
    header.querySelector("button").addEventListener("click", () => sort(header));
  }
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const panel = panels.find((each) => each.element === entry.target);
      panel.near = entry.isIntersecting || panel.near;
      if (panel.near && panel.plot && !panel.drawn && !panel.element.hidden) draw(panel);
    }
  }, { rootMargin: "800px" });
  show();
  for (const panel of panels) observer.observe(panel.element);
})();
