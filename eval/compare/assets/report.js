// Of eval/compare/assets/report.html. One state for the whole page: which encodings are on, and what is chosen in the selects.
// A panel (a figure or a table) is shown when its `when` agrees with every choice; figures are drawn when first near.
"use strict";
(() => {
  const start = JSON.parse(document.getElementById("start").textContent);
  const off = new Set(start.off);
  const controls = new Set(start.controls);
  const chips = [...document.querySelectorAll(".chip")];
  const selects = [...document.querySelectorAll("select[data-choice]")];
  const grey = document.getElementById("grey");
  const panels = [...document.querySelectorAll(".panel")].map((element) => (
    { element, plot: element.querySelector(".plot"), when: JSON.parse(element.dataset.when), drawn: false, near: false }));
  const narrow = () => window.innerWidth < 640 && !onPaper();
  let ready = false;  // plotly runs, and panels with a plot have their `figure`

  const isOff = (trace) => off.has(trace.meta);

  // A trace as it looks now: as it is, in grey, or not at all. Of what is in grey, bands and single seeds are left out.
  function look(trace) {
    if (!isOff(trace)) return trace;
    if (!grey.checked || "fill" in trace || trace.opacity) return { ...trace, visible: false };
    const colour = { color: shade("--faint") };
    const line = trace.mode === "markers" ? {} : { mode: "lines", line: { ...colour, width: 1 } };
    return { ...trace, ...line, marker: { ...trace.marker, ...colour }, error_x: { ...trace.error_x, ...colour } };
  }

  // The least and the greatest positive number of these.
  const extent = (values) => values.reduce(
    ([least, most], value) => (value > 0 ? [Math.min(least, value), Math.max(most, value)] : [least, most]), [Infinity, 0]);

  // Labels at 1, 2 and 5 alone where a logarithmic axis spans most of a decade; plotly's own choice crowds them there.
  function thin(axis, values) {
    if (axis.type !== "log" || axis.tickvals) return;
    const [low, high] = axis.range ? axis.range.map((end) => 10 ** end) : extent(values);
    if (high / low > 6) axis.dtick = "D2";
  }

  // Bands that lie over each other are together no darker than OVERLAID, each no darker than it is by itself.
  const OVERLAID = 0.35;
  function lighten(bands) {
    const most = 1 - (1 - OVERLAID) ** (1 / bands.length);
    for (const band of bands) {
      const [red, green, blue, alpha] = band.fillcolor.match(/[\d.]+/g).map(Number);
      band.fillcolor = `rgba(${red},${green},${blue},${Math.min(alpha, most).toFixed(3)})`;
    }
  }

  // Controls don't stretch a logarithmic axis: one that lies `far` times beyond all encodings stands in a note at its end.
  function leaveOut(layout, shown) {
    if (layout.yaxis.type !== "log") return;
    const isControl = (trace) => controls.has(trace.meta);
    let [low, high] = extent(shown.filter((trace) => !isControl(trace)).flatMap(({ y }) => y));
    if (!high) return;
    const [ends, beyond] = [[low, high], []];
    for (const label of new Set(shown.filter(isControl).map((trace) => trace.meta))) {
      const [least, most] = extent(shown.filter(({ meta, name }) => meta === label && name).flatMap(({ y }) => y));
      if (least > low / start.far && most < high * start.far) ends.push(least, most);
      else beyond.push({ label, value: least > high ? least : most, above: most > high });
    }
    if (!beyond.length) return;
    [low, high] = [Math.log10(Math.min(...ends)), Math.log10(Math.max(...ends))];
    const room = 0.06 * (high - low) || 0.1;
    layout.yaxis.range = [low - room, high + room];
    for (const above of [true, false]) {
      const notes = beyond.filter((each) => each.above === above && !off.has(each.label));
      const text = notes.map(({ label, value }) => `${escaped(label)} ${value.toPrecision(4)} ${above ? "↑" : "↓"}`).join(", ");
      const place = { x: 1, xref: "paper", xanchor: "right", y: above ? 1 : 0, yref: "paper", yanchor: above ? "top" : "bottom" };
      if (text) (layout.annotations ??= []).push({ ...place, text, showarrow: false, font: { size: 12, color: shade("--soft") } });
    }
  }

  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  // Where the page is dark, a copy with the style sheet's colours in the place of those that are for white.
  function recoloured(value) {
    if (Array.isArray(value)) return typeof value[0] === "object" ? value.map(recoloured) : value;
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([key, own]) => {
        if (typeof own !== "string") return [key, recoloured(own)];
        return [key, key.endsWith("color") ? shades(own) : own];
      }));
    }
    return value;
  }

  function shades(colour) {
    if (colour in start.shades) return shade(start.shades[colour]);
    return colour.replace(/^rgba\(0,0,0,(?=0\.)/, "rgba(255,255,255,");  // black's band
  }

  function draw(panel) {
    const layout = structuredClone(panel.figure.layout);
    const data = [...panel.figure.data].sort((one, other) => isOff(other) - isOff(one)).map(look);  // what is off: behind
    const shown = data.filter((trace) => trace.visible !== false);
    lighten(shown.filter((trace) => "fill" in trace));
    leaveOut(layout, shown);
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
    if (onPaper()) layout.width = WIDTH_ON_PAPER;
    panel.plot.style.minHeight = `${layout.height}px`;
    const buttons = ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"];
    const settings = { responsive: !onPaper(), displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: buttons };
    const looks = isDark() ? recoloured([data, layout]) : [data, layout];
    Plotly.react(panel.plot, ...looks, { ...settings, displayModeBar: narrow() || onPaper() ? false : "hover" });
    panel.drawn = true;
  }

  function show() {
    for (const panel of panels) {
      const choices = [...panel.element.closest("section").querySelectorAll("select[data-choice]")];
      const agrees = choices.every(({ dataset, value }) => !(dataset.choice in panel.when) || panel.when[dataset.choice] === value);
      panel.element.hidden = !agrees;
      if (!panel.plot || !ready) continue;
      if (agrees && (panel.near || onPaper())) draw(panel);
      else if (panel.drawn) {
        Plotly.purge(panel.plot);
        panel.drawn = false;
      }
    }
    for (const note of document.querySelectorAll(".nothing")) {
      note.hidden = note.parentElement.querySelector(".panel:not([hidden])") !== null;
    }
    for (const chip of chips) chip.setAttribute("aria-pressed", String(!off.has(chip.dataset.label)));
  }

  // The chips that are on first. It waits until the pointer or the focus has left them: none moves away under it.
  function arrange() {
    const place = document.querySelector(".chips");
    const order = [...chips].sort((one, other) => off.has(one.dataset.label) - off.has(other.dataset.label));
    if (place && order.some((chip, k) => place.children[k] !== chip)) place.append(...order);
  }

  function only(labels) {
    off.clear();
    for (const chip of chips) if (!labels.includes(chip.dataset.label)) off.add(chip.dataset.label);
    arrange();
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
  const bar = document.querySelector(".chips");
  bar?.addEventListener("mouseleave", arrange);
  bar?.addEventListener("focusout", ({ relatedTarget }) => { if (relatedTarget && !bar.contains(relatedTarget)) arrange(); });
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
      if (ready && panel.near && panel.plot && !panel.drawn && !panel.element.hidden) draw(panel);
    }
  }, { rootMargin: "800px" });
  arrange();
  show();
  for (const panel of panels) observer.observe(panel.element);
  redrawOnChange(show);
  Promise.all([unpackedText("figures"), runPlotly()]).then(([text]) => {
    const figures = JSON.parse(text);
    panels.filter(({ plot }) => plot).forEach((panel, k) => { panel.figure = figures[k]; });
    ready = true;
    show();
  }).catch((error) => {
    for (const { plot } of panels) if (plot) plot.textContent = `No figures: ${error}. The tables have their numbers.`;
    throw error;
  });
})();
