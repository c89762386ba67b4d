"use strict";
const cases = [...document.querySelectorAll(".case")];
const tools = document.getElementById("tools");
if (tools) {
  const count = document.getElementById("count");
  const texts = cases.map((one) => one.textContent.toLowerCase());
  const search = (query) => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    cases.forEach((one, n) => { one.hidden = !words.every((word) => texts[n].includes(word)); });
    const found = cases.filter((one) => !one.hidden).length;
    count.textContent = words.length ? `${found} of ${cases.length} items` : "";
  };
  const set = (open) => cases.forEach((one) => { one.open = open; });
  document.getElementById("query").addEventListener("input", (event) => search(event.target.value));
  document.getElementById("open").addEventListener("click", () => set(true));
  document.getElementById("close").addEventListener("click", () => set(false));
  tools.hidden = false;
}
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => { closed.forEach((one) => { one.open = false; }); });
