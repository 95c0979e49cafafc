"use strict";
/* Draws the figures that stand in #charts-data, in the reader's colour scheme and for the width of the screen. */
(() => {
  const stored = JSON.parse(document.getElementById("charts-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 900px)");
  const finePointer = window.matchMedia("(pointer: fine)");
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  /* A deep copy, with light colours exchanged for dark ones where the reader wants dark. */
  const themed = (value) => {
    if (typeof value === "string") return dark.matches && Object.hasOwn(stored.dark, value) ? stored.dark[value] : value;
    if (Array.isArray(value)) return value.map(themed);
    if (isObject(value)) return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item)]));
    return value;
  };

  const merged = (under, over) => {
    const result = { ...under };
    for (const [key, value] of Object.entries(over)) {
      result[key] = isObject(value) && isObject(result[key]) ? merged(result[key], value) : value;
    }
    return result;
  };

  const draw = () => {
    for (const [name, chart] of Object.entries(stored.charts)) {
      const place = document.getElementById("chart-" + name);
      if (!place) continue;
      const layout = themed(narrow.matches ? merged(chart.layout, chart.narrow) : chart.layout);
      if (chart.zoom && finePointer.matches) layout.dragmode = "zoom";
      const fixed = layout.dragmode !== "zoom";
      for (const key of Object.keys(layout)) {
        if (/^[xy]axis/.test(key)) layout[key].fixedrange = fixed;
      }
      place.style.minHeight = layout.height + "px";
      Plotly.react(place, themed(chart.data), layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
    }
  };

  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
})();
