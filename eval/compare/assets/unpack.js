// Of the report and the explorer: what eval/compare/packed.py packed, and the colours of the style sheet that is in force.
"use strict";

// The bytes of the script element `id`.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

const unpackedText = async (id) => new TextDecoder().decode(await unpacked(id));

async function runPlotly() {
  const text = await unpackedText("plotly");
  document.head.append(Object.assign(document.createElement("script"), { textContent: text }));
}

// A colour of the style sheet by its variable's name.
const shade = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// While a page is printed, its root has the class `paper`: it is light then, whatever the system's setting.
const WIDTH_ON_PAPER = 680;  // CSS pixels; A4 and Letter have some more between the margins of report.css
const onPaper = () => document.documentElement.classList.contains("paper");
const DARK = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => DARK.matches && !onPaper();

// Calls redraw(), without any figure left, when the system's setting changes, and before and after the page is printed.
function redrawOnChange(redraw) {
  const anew = () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.purge(plot);  // react keeps the paper's width
    redraw();
  };
  DARK.addEventListener("change", anew);
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => {
      document.documentElement.classList.toggle("paper", paper);
      anew();
    });
  }
}
