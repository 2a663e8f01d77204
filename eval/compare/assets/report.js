// Of eval/compare/assets/report.html. One state for the whole page: which encodings are on, and what is chosen in the selects.
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

  const isOff = (trace) => off.has(trace.meta);

  // A trace as it looks now: as it is, in grey, or not at all. Of what is in grey, bands and single seeds are left out.
  function look(trace) {
    if (!isOff(trace)) return trace;
    if (!grey.checked || "fill" in trace || trace.opacity) return { ...trace, visible: false };
    const colour = { color: "#cdd2d8" };
    const line = trace.mode === "markers" ? {} : { mode: "lines", line: { ...colour, width: 1 } };
    return { ...trace, ...line, marker: { ...trace.marker, ...colour }, error_x: { ...trace.error_x, ...colour } };
  }

  // Labels at 1, 2 and 5 alone where a logarithmic axis spans most of a decade; plotly's own choice crowds them there.
  function thin(axis, values) {
    const numbers = values.filter((value) => typeof value === "number" && value > 0);
    if (axis.type !== "log" || axis.tickvals || !numbers.length) return;
    const [low, high] = numbers.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, 0]);
    if (high / low > 6) axis.dtick = "D2";
  }

  function draw(panel) {
    const layout = structuredClone(panel.figure.layout);
    const data = [...panel.figure.data].sort((one, other) => isOff(other) - isOff(one)).map(look);  // what is off: behind
    const shown = data.filter((trace) => trace.visible !== false);
    if (layout.yaxis.categoryarray) {
      const names = new Set(shown.flatMap((trace) => trace.y));
      const all = layout.yaxis.categoryarray;
      layout.yaxis.categoryarray = all.filter((name) => names.has(name));
      layout.yaxis.range = [-0.7, names.size - 0.3];
      layout.height -= layout.meta.line * (all.length - names.size);
    }
    thin(layout.xaxis, shown.flatMap((trace) => trace.x));
    thin(layout.yaxis, shown.flatMap((trace) => trace.y));
    if (narrow()) {
      layout.font.size = 11;
      layout.margin = { ...layout.margin, l: 44, r: 6 };
    }
    panel.plot.style.minHeight = `${layout.height}px`;
    const buttons = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"];
    const settings = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: buttons };
    Plotly.react(panel.plot, data, layout, { ...settings, displayModeBar: narrow() ? false : "hover" });
    panel.drawn = true;
  }

  function show() {
    for (const panel of panels) {
      const choices = [...panel.element.closest("section").querySelectorAll("select[data-choice]")];
      const agrees = choices.every(({ dataset, value }) => !(dataset.choice in panel.when) || panel.when[dataset.choice] === value);
      panel.element.hidden = !agrees;
      if (panel.plot && agrees && panel.near) draw(panel); else panel.drawn = false;
    }
    for (const note of document.querySelectorAll(".nothing")) {
      note.hidden = note.parentElement.querySelector(".panel:not([hidden])") !== null;
    }
    for (const chip of chips) chip.setAttribute("aria-pressed", String(!off.has(chip.dataset.label)));
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
    grey.checked = document.getElementById("best") !== null;
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
