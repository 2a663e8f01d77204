// Of scripts/explorer.html: draws the numbers of scripts/explore.py. It computes nothing of an encoding.
"use strict";
(async () => {
  const byId = (id) => document.getElementById(id);
  const index = JSON.parse(byId("index").textContent);
  const numbers = new Uint16Array(await unpacked("numbers"));  // little-endian, as every browser's machine
  await runPlotly();
  const GAP = 65535;
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, showSendToCloud: false };
  const soft = () => shade("--soft"), line = () => shade("--line");
  const shaded = (colour) => (colour in index.shades ? shade(index.shades[colour]) : colour);
  const diverging = () => (isDark()
    ? [[0, "#fdb863"], [0.25, "#a5661c"], [0.5, "#20252a"], [0.75, "#2f6ea8"], [1, "#8cc2f0"]]
    : [[0, "#b35806"], [0.25, "#f1a340"], [0.5, "#f7f7f7"], [0.75, "#6f9fce"], [1, "#08519c"]]);
  const POSITIONS = index.sinusoids[0][0].shape[1];
  const narrow = () => window.innerWidth < 640 && !onPaper();
  const range = (count) => Array.from({ length: count }, (_, k) => k);

  // An array of scripts/explore.py's Pack, nested as its shape says; null where it has a gap.
  function read({ at, shape, low, step }) {
    if (shape.length === 1) {
      return Array.from(numbers.subarray(at, at + shape[0]), (code) => (code === GAP ? null : low + step * code));
    }
    const [count, ...rest] = shape;
    const size = rest.reduce((product, n) => product * n, 1);
    return range(count).map((k) => read({ at: at + k * size, shape: rest, low, step }));
  }

  function options(select, entries) {
    const kept = select.value;
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
    if (entries.some(([value]) => String(value) === kept)) select.value = kept;
    select.parentElement.hidden = entries.length < 2;
  }

  function layout(more) {
    const axis = { gridcolor: line(), zerolinecolor: line(), linecolor: soft(), ticks: "outside", tickcolor: line() };
    const { xaxis, yaxis, ...rest } = more;
    return {
      margin: { l: 54, r: 10, t: 20, b: 44 }, font: { family: "system-ui, sans-serif", size: 12, color: shade("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", ...(onPaper() && { width: WIDTH_ON_PAPER }),
      showlegend: false, hoverlabel: { bgcolor: shade("--page") }, dragmode: false, ...rest,
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis },
    };
  }

  const upright = (x, color, dash = "dash") => (
    { type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color, dash, width: 1.3 } });
  const trainedMark = (context) => (
    { x: context, yref: "paper", y: 1, text: "trained length", showarrow: false, xanchor: "center", yanchor: "bottom",
      font: { size: 11, color: soft() } });

  // ----------------------------------------------------------------------------------------- the chosen encoding

  const encodings = new Map(index.encodings.map((encoding) => [encoding.name, encoding]));
  const chosen = () => encodings.get(byId("encoding").value);
  const state = () => chosen().states[Number(byId("state").value)];
  const layer = () => Number(byId("layer").value);

  function chooseEncoding() {
    const encoding = chosen();
    options(byId("state"), encoding.states.map((each, k) => [k, each.label]));
    byId("state").value = encoding.states.length - 1;  // the one that shows most
    chooseState();
    byId("name").textContent = encoding.name;
    const { dim, heads, layers } = index.shape;
    const facts = {
      "class": [encoding.class, ...encoding.inner].join(", around or of "),
      "parameters": `${encoding.parameters.toLocaleString("en")} (width ${dim}, ${heads} heads, ${layers} layers)`,
      "longest sequence": encoding.max_length === null ? "no limit" : `${encoding.max_length.toLocaleString("en")} tokens`,
      "scores depend on the distance alone": encoding.relative ? "yes" : "no",
      "hooks": encoding.hooks.join(", ") || "none",
    };
    const entries = Object.entries(facts).map(([name, value]) => fact(name, value));
    if (encoding.paper) {
      const link = Object.assign(document.createElement("a"), { href: encoding.paper, textContent: encoding.paper.replace("https://", ""), rel: "noreferrer" });
      entries.push(fact("paper", link));
    }
    byId("facts").replaceChildren(...entries);
    byId("formula").textContent = encoding.definition[0];
    byId("about").replaceChildren(...encoding.definition.slice(1).map((paragraph) => Object.assign(document.createElement("p"), { textContent: paragraph })));
  }

  function fact(name, value) {
    const element = document.createElement("div");
    element.append(
      Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
    element.lastChild.append(value);
    return element;
  }

  function chooseState() {
    const { layers, heads, pairs } = state();
    options(byId("layer"), range(layers).map((k) => [k, k]));
    options(byId("head"), [["all", "all"], ...range(heads).map((k) => [k, k])]);
    options(byId("source"), [["plain", "RoPE, by these sliders"], ...(pairs ? [["own", chosen().name]] : [])]);
    drawChosen();
  }

  function drawChosen() {
    drawCurve();
    drawMap();
    clocks.pairs.rebuild();
  }

  // The encodings whose curves lie over those of the chosen one.
  let over = [];

  function chooseOver(names) {
    over = names.filter((name) => encodings.has(name) && name !== byId("encoding").value);
    history.replaceState(null, "", `#${[byId("encoding").value, ...over].join(",")}`);
    const left = index.encodings.filter(({ name }) => name !== byId("encoding").value && !over.includes(name));
    options(byId("add"), [["", "add an encoding"], ...left.map(({ name }) => [name, name])]);
    byId("add").value = "";
    byId("over").replaceChildren(...over.map((name) => {
      const chip = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: `${name} ×` });
      chip.setAttribute("aria-label", `remove ${name}`);
      chip.addEventListener("click", () => { chooseOver(over.filter((other) => other !== name)); drawCurve(); });
      return chip;
    }));
  }

  const quantity = (logarithms) => (logarithms ? "ln weight" : "score");

  // The curves of one state of an encoding: a colour a head, or where several encodings are shown, the encoding's own.
  // What is no score but the logarithm of a weight, or the other way round, has the axis to the right.
  function tracesOf(encoding, own, several) {
    const only = byId("head").value;
    const heads = own.curves[byId("search").value][Math.min(layer(), own.layers - 1)];
    const distances = range(own.length);
    const yaxis = own.logarithms === state().logarithms ? "y" : "y2";
    const shown = range(heads.length).filter((head) => only === "all" || Number(only) === head);
    return shown.flatMap((head) => {
      const [mean, low, high] = read(heads[head]);
      const color = shaded(several ? encoding.colour : index.colours[head % index.colours.length]);
      const shared = { x: distances, type: "scatter", mode: "lines", yaxis, meta: encoding.name, legendgroup: encoding.name };
      const band = { ...shared, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
      const name = several ? encoding.name : `head ${head}`;
      const whose = several ? `${encoding.name}, head ${head}` : name;
      return [
        ...(several && shown.length > 1 ? [] : [{ ...band, y: low }, { ...band, y: high, fill: "tonexty", fillcolor: `${color}1c` }]),
        { ...shared, y: mean, name, showlegend: head === shown[0], line: { color, width: several && shown.length > 1 ? 1.3 : 2, dash: several ? encoding.dash : "solid" },
          hovertemplate: `${whose}: %{y:.3f}, %{x} tokens back<extra></extra>` },
      ];
    });
  }

  function drawCurve() {
    const { context, length, asked, logarithms } = state();
    const others = over.map((name) => encodings.get(name)).map((encoding) => [encoding, encoding.states.at(-1)]);
    const several = others.length > 0;
    const traces = [[chosen(), state()], ...others].flatMap(([encoding, own]) => tracesOf(encoding, own, several));
    const longest = Math.max(length, ...others.map(([, own]) => own.length));
    const along = (name) => traces.filter(({ yaxis }) => yaxis === name).flatMap(({ y }) => y);
    const second = along("y2");
    const untrained = byId("state").value === "0";
    byId("scoresNote").textContent = [
      `The last of ${length.toLocaleString("en")} tokens looks back, in a layer of random weights.`,
      length < asked && `It is not defined on more than ${length.toLocaleString("en")} tokens.`,
      untrained && chosen().states.length > 1 && "Some of what it learns is zero at the start: see its other state.",
      untrained && chosen().table && "Its table is drawn at random, which is noise until it is trained.",
    ].filter(Boolean).join(" ");
    const kinds = new Set([logarithms, ...others.map(([, own]) => own.logarithms)]);
    const [score, weight] = ["Score before the softmax", "Logarithm of the attention weight"];
    byId("curveCaption").textContent = (kinds.size > 1 ? `${score}; ${weight.toLowerCase()}, to the right,` : logarithms ? weight : score)
      + ` by distance: mean and the middle ${Math.round(100 * (index.band[1] - index.band[0]))} % of ${index.draws} random draws`;
    const right = { overlaying: "y", side: "right", showgrid: false, tickmode: "auto", nticks: 6, title: { text: quantity(!logarithms) } };
    Plotly.react("curve", traces, layout({
      height: several ? 430 : 380, hovermode: "closest", showlegend: several, legend: { orientation: "h", y: -0.2, yanchor: "top" },
      xaxis: { title: { text: "distance, tokens back" }, range: [0, longest - 1] },
      yaxis: { title: { text: quantity(logarithms) }, ...extent(along("y"), logarithms) },
      ...(second.length && { yaxis2: { ...right, ...extent(second, !logarithms) }, margin: { l: 54, r: 54, t: 20, b: 44 } }),
      shapes: [upright(context, soft())], annotations: context < longest ? [trainedMark(context)] : [],
    }), CONFIG);
  }

  // A weight below e^LEAST is nothing: the axis ends there. Curves that are flat but for rounding are drawn flat.
  const LEAST = -40, FLAT = 1e-3;
  function extent(values, logarithms) {
    const known = values.filter((value) => value !== null);
    const [least, most] = [Math.min(...known), Math.max(...known)];
    if (most - least < FLAT) return { range: [least - 1, most + 1] };
    return logarithms && least < LEAST ? { range: [LEAST, most + 0.05 * (most - LEAST)] } : {};
  }

  function drawMap() {
    const { context, logarithms, mapOf, mapAt, maps } = state();
    const heads = maps[layer()];
    const only = byId("head").value;
    const head = only === "all" || heads.length === 1 ? 0 : Number(only);
    const z = read(heads[head]);
    const known = z.flat().filter((value) => value !== null);
    byId("mapCaption").textContent = mapOf === "embeddings"
      ? "How alike the positions i and j look: cosine between what is added to the tokens"
      : `${logarithms ? "Mean logarithm of the weight" : "Mean score"} of query i and key j, the same token everywhere: ${chosen().name}, head ${head}`;
    const edge = { color: soft(), dash: "dash", width: 1.3 };
    Plotly.react("map", [{
      type: "heatmap", x: mapAt, y: mapAt, z, ...(mapOf === "embeddings" ? { zmin: -1, zmax: 1, colorscale: diverging() } : { colorscale: "Cividis", ...(logarithms && { zmin: Math.max(LEAST, Math.min(...known)), zmax: Math.max(...known) }) }),
      hovertemplate: "i = %{y}, j = %{x}: %{z:.3f}<extra></extra>", hoverongaps: false,
      colorbar: { thickness: 10, outlinewidth: 0 },
    }], layout({
      height: 380,
      xaxis: { title: { text: "key j" }, range: [mapAt[0], mapAt.at(-1)], constrain: "domain", showgrid: false },
      yaxis: { title: { text: "query i" }, range: [mapAt.at(-1), mapAt[0]], scaleanchor: "x", constrain: "domain", showgrid: false },
      shapes: context >= mapAt.at(-1) ? [] : [
        { type: "line", x0: context, x1: context, y0: mapAt[0], y1: mapAt.at(-1), line: edge },
        { type: "line", x0: mapAt[0], x1: mapAt.at(-1), y0: context, y1: context, line: edge }],
    }), CONFIG);
  }

  // ---------------------------------------------------------------------------------------------------- clocks

  // Sliders for base, width and position, and a button that moves the position on.
  class Clock {
    constructor(name, { widths, base, width, unit, rebuild, move }) {
      this.rebuild = () => { rebuild(this); this.show(); };
      this.move = move;
      this.unit = unit;
      this.widths = widths;
      const holder = document.querySelector(`[data-clock="${name}"]`);
      const slider = (title, count, value) => {
        const label = document.createElement("label");
        const output = document.createElement("output");
        const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: count - 1, step: 1, name: title });
        input.value = value;
        output.setAttribute("aria-live", "off");  // the slider says it itself
        label.append(title, output, input);
        holder.append(label);
        return { label, input, output };
      };
      this.button = Object.assign(document.createElement("button"), { type: "button", className: "play", textContent: "Play" });
      this.button.addEventListener("click", () => this.play(!this.timer));
      this.base = slider("base", index.bases.length, index.bases.indexOf(base));
      this.width = slider("width", widths.length, widths.indexOf(width));
      this.position = slider("position", POSITIONS, 0);
      holder.append(this.button);
      for (const each of [this.base, this.width]) each.input.addEventListener("input", this.rebuild);
      this.position.input.addEventListener("input", () => { this.play(false); this.show(); });
    }

    // A slider's value is a place in a list: what stands there is shown, and told to who can't see it.
    say({ input, output }, value) {
      output.value = value;
      input.setAttribute("aria-valuetext", value);
    }

    at(slider) { return Number(slider.input.value); }

    show() {
      this.say(this.base, index.bases[this.at(this.base)].toLocaleString("en"));
      this.say(this.width, this.widths[this.at(this.width)]);
      this.say(this.position, this.at(this.position));
      this.move(this, this.at(this.position));
    }

    play(on) {
      clearInterval(this.timer);
      this.timer = on && setInterval(() => {
        if (document.hidden) return;
        this.position.input.value = (this.at(this.position) + 1) % POSITIONS;
        this.show();
      }, 80);
      this.button.setAttribute("aria-pressed", String(Boolean(on)));
      this.button.textContent = on ? "Pause" : "Play";
    }
  }

  // At most `count` of n, evenly spread, the first and the last among them.
  const spread = (n, count) => (n <= count ? range(n) : range(count).map((k) => Math.round((k * (n - 1)) / (count - 1))));

  function drawWaves(clock) {
    const rows = read(index.sinusoids[clock.at(clock.base)][clock.at(clock.width)]);  // dimensions by position
    clock.rows = rows;
    const pairs = rows.length / 2;
    clock.shown = spread(Math.max(Math.min(4, pairs), Math.ceil(0.6 * pairs)), 4).flatMap((pair) => [2 * pair, 2 * pair + 1]);
    const positions = range(POSITIONS);
    const lines = clock.shown.map((dimension, k) => ({
      x: positions, y: rows[dimension], type: "scatter", mode: "lines", name: `dimension ${dimension}`,
      line: { color: index.colours[k >> 1], width: 2, dash: dimension % 2 ? "dash" : "solid" },
      hovertemplate: `dimension ${dimension} at %{x}: %{y:.3f}<extra></extra>`,
    }));
    const marks = { x: [], y: [], type: "scatter", mode: "markers", hoverinfo: "skip", marker: { size: 9, color: clock.shown.map((_, k) => index.colours[k >> 1]), line: { color: shade("--page"), width: 1 } } };
    const picture = {
      type: "heatmap", x: positions, y: range(rows.length), z: rows, yaxis: "y2", zmin: -1, zmax: 1, colorscale: diverging(), showscale: false,
      hovertemplate: "dimension %{y} at %{x}: %{z:.3f}<extra></extra>",
    };
    Plotly.react("waves", [...lines, marks, picture], layout({
      height: 470,
      xaxis: { title: { text: "position" }, range: [0, POSITIONS - 1], anchor: "y2" },
      yaxis: { domain: [0.55, 1], range: [-1.15, 1.15] },
      yaxis2: { domain: [0, 0.48], title: { text: "dimension" }, autorange: "reversed", ticks: "outside", tickcolor: line() },
      shapes: [upright(0, shade("--black"), "solid"), upright(index.context, soft())], annotations: [trainedMark(index.context)],
    }), CONFIG);
  }

  function moveWaves(clock, position) {
    const marks = clock.shown.length;
    const y = clock.shown.map((dimension) => clock.rows[dimension][position]);
    Plotly.update("waves", { x: [y.map(() => position)], y: [y] }, { "shapes[0].x0": position, "shapes[0].x1": position }, [marks]);
    const vector = clock.rows.map((row) => row[position]);
    byId("codeCaption").textContent = `What is added to the token at position ${position}, by dimension (times the encoding's scale)`;
    Plotly.react("code", [{
      type: "bar", x: range(vector.length), y: vector,
      marker: { color: vector.map((_, k) => (k % 2 ? "#56B4E9" : "#0072B2")) },
      hovertemplate: "dimension %{x}: %{y:.3f}<extra></extra>",
    }], layout({ height: 190, xaxis: { title: { text: "dimension" } }, yaxis: { range: [-1.05, 1.05] }, bargap: 0.1 }), CONFIG);
  }

  function drawCircles(clock) {
    const own = byId("source").value === "own" && state().pairs;
    const heads = own && state().pairs[layer()];
    const head = heads && heads.length > 1 && byId("head").value !== "all" ? Number(byId("head").value) : 0;
    const source = heads ? heads[head] : index.rotations[clock.at(clock.base)][clock.at(clock.width)];
    clock.base.label.hidden = clock.width.label.hidden = Boolean(own);
    [clock.cosines, clock.sines] = read(source.turns);  // each by position and pair
    const mean = read(source.mean);
    const count = clock.cosines[0].length;
    const columns = narrow() ? 4 : 8;
    clock.shown = spread(count, 8);
    clock.centres = clock.shown.map((_, k) => [2.5 * (k % columns), -3.3 * Math.floor(k / columns)]);
    const rows = Math.ceil(clock.shown.length / columns);
    const circle = range(61).map((k) => (k * 2 * Math.PI) / 60);
    const outlines = { x: [], y: [] };
    for (const [x, y] of clock.centres) {
      outlines.x.push(...circle.map((angle) => x + Math.cos(angle)), null);
      outlines.y.push(...circle.map((angle) => y + Math.sin(angle)), null);
    }
    const trace = { type: "scatter", hoverinfo: "skip" };
    byId("circlesCaption").textContent = own
      ? `${chosen().name}, ${state().label}${heads.length > 1 ? `, head ${head}` : ""}: ${clock.shown.length} of its ${count} pairs`
      : `${clock.shown.length} of ${count} pairs, from the fastest to the slowest`;
    Plotly.newPlot("circles", [  // react would keep the ranges that fitted another shape of the page
      { ...trace, ...outlines, mode: "lines", line: { color: shade("--faint"), width: 1.2 } },
      { ...trace, x: [], y: [], mode: "markers", marker: { color: "#9aa3ad", size: 5, opacity: [] } },
      { ...trace, x: [], y: [], mode: "lines+markers", line: { color: index.colours[0], width: 2.5 }, marker: { size: 7 } },
    ], layout({
      height: rows * (narrow() ? 135 : 180), margin: { l: 4, r: 4, t: 4, b: 4 },
      xaxis: { visible: false, range: [-1.25, 2.5 * (columns - 1) + 1.25], fixedrange: true },
      yaxis: { visible: false, range: [-3.3 * (rows - 1) - 2.1, 1.15], scaleanchor: "x", fixedrange: true },
      annotations: clock.centres.map(([x, y], k) => ({
        x, y: y - 1.15, yanchor: "top", showarrow: false, font: { size: narrow() ? 10 : 12, color: soft() },
        text: `pair ${clock.shown[k]}<br>${turns(source.wavelengths[clock.shown[k]])}`,
      })),
    }), CONFIG);
    Plotly.react("mean", [
      { x: range(POSITIONS), y: mean, type: "scatter", mode: "lines", line: { color: index.colours[0], width: 2 }, hovertemplate: "%{y:.3f} at distance %{x}<extra></extra>" },
      { x: [0], y: [1], type: "scatter", mode: "markers", marker: { size: 10, color: index.colours[1] }, hoverinfo: "skip" },
    ], layout({
      height: 220, xaxis: { title: { text: "distance, tokens" }, range: [0, POSITIONS - 1] }, yaxis: { range: [-1.05, 1.05] },
      shapes: [upright(index.context, soft())], annotations: [trainedMark(index.context)],
    }), CONFIG);
    clock.mean = mean;
  }

  const turns = (wavelength) => (
    wavelength === null ? "stands still" : `${wavelength < 100 ? wavelength.toFixed(1) : Math.round(wavelength).toLocaleString("en")} tokens`);

  function moveCircles(clock, position) {
    const hands = { x: [], y: [] }, trail = { x: [], y: [], opacity: [] };
    clock.centres.forEach(([x, y], k) => {
      const pair = clock.shown[k];
      hands.x.push(x, x + clock.cosines[position][pair], null);
      hands.y.push(y, y + clock.sines[position][pair], null);
      for (let back = Math.min(12, position); back > 0; back--) {
        trail.x.push(x + clock.cosines[position - back][pair]);
        trail.y.push(y + clock.sines[position - back][pair]);
        trail.opacity.push(0.8 - 0.06 * back);
      }
    });
    Plotly.restyle("circles", { x: [trail.x, hands.x], y: [trail.y, hands.y], "marker.opacity": [trail.opacity, 1] }, [1, 2]);
    Plotly.restyle("mean", { x: [[position]], y: [[clock.mean[position]]] }, [1]);
  }

  // ----------------------------------------------------------------------------------------------------- start

  const clocks = {
    pairs: new Clock("pairs", { widths: index.headWidths, base: 10000, width: 32, rebuild: drawCircles, move: moveCircles }),
    sinusoids: new Clock("sinusoids", { widths: index.widths, base: 10000, width: 64, rebuild: drawWaves, move: moveWaves }),
  };
  options(byId("encoding"), index.encodings.map(({ name }) => [name, name]));
  options(byId("search"), Object.entries(index.searches));
  const [named, ...overlaid] = decodeURIComponent(location.hash.slice(1)).split(",");
  byId("encoding").value = encodings.has(named) ? named : encodings.has(index.start) ? index.start : index.encodings[0].name;
  byId("encoding").addEventListener("change", () => { chooseOver(over); chooseEncoding(); });
  byId("add").addEventListener("change", () => { chooseOver([...over, byId("add").value]); drawCurve(); });
  byId("state").addEventListener("change", chooseState);
  for (const id of ["layer", "head"]) byId(id).addEventListener("change", drawChosen);
  byId("search").addEventListener("change", drawCurve);
  byId("source").addEventListener("change", () => clocks.pairs.rebuild());
  let wide = narrow();
  window.addEventListener("resize", () => { if (wide !== narrow()) { wide = narrow(); clocks.pairs.rebuild(); } });
  chooseOver(overlaid);
  chooseEncoding();
  clocks.sinusoids.rebuild();
  redrawOnChange(() => { drawChosen(); clocks.sinusoids.rebuild(); });
  document.documentElement.dataset.ready = "yes";
})();
