// Find pages by code, phrase or token. Every word must occur; a word that is the name of the page counts most.
"use strict";
(() => {
  const MOST = 40;
  const box = document.getElementById("search");
  const list = document.getElementById("found");
  const root = document.body.dataset.root;

  function score(entry, words) {
    const key = entry.k.toLowerCase(), title = entry.t.toLowerCase(), names = entry.n.split(" ");
    let sum = 0;
    for (const word of words) {
      if (key === word || names.includes(word)) sum += 100;
      else if (key.split(" ").includes(word)) sum += 40;
      else if (entry.w.split(/[^a-z0-9_.-]+/).includes(word)) sum += 10;
      else if (title.includes(word)) sum += 6;
      else if (key.includes(word) || entry.w.includes(word)) sum += 2;
      else return 0;
    }
    return sum;
  }

  function line(entry) {
    const item = document.createElement("li"), link = document.createElement("a"), key = document.createElement("b");
    link.href = root + entry.u;
    key.textContent = entry.k;
    link.append(key, " " + entry.t);
    item.append(link);
    return item;
  }

  function search() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean).slice(0, 12);
    const hits = words.length
      ? window.SEARCH_INDEX.map((entry) => [score(entry, words), entry]).filter(([sum]) => sum > 0)
      : [];
    hits.sort((one, other) => other[0] - one[0]);
    list.replaceChildren(...hits.slice(0, MOST).map(([, entry]) => line(entry)));
    if (words.length && !hits.length) {
      const none = document.createElement("li");
      none.textContent = "Nothing here has all of these words. Try fewer, or only the code.";
      list.append(none);
    }
    list.hidden = !words.length;
  }

  box.addEventListener("input", search);
  box.form.addEventListener("submit", (event) => {
    const first = list.querySelector("a");
    event.preventDefault();
    if (first) location.href = first.href;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { box.value = ""; search(); }
    if (event.key === "/" && document.activeElement !== box) { event.preventDefault(); box.focus(); }
  });
  const asked = new URLSearchParams(location.search).get("q");
  if (asked) { box.value = asked; search(); }
})();
