// Pages work without this script. It keeps a page new while nobody works on it, and offers to copy texts.
"use strict";

const main = document.querySelector("main");
const seconds = Number(main.dataset.refresh || 0);
const MOST_ERRORS = 5;
let changed = false, errors = 0, last = new Date(), timer;

const inUse = () =>
  document.hidden || changed || String(getSelection()) !== "" || main.querySelector("details[open]") !== null ||
  (main.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, button, summary"));

function replace(found) {
  const href = main.contains(document.activeElement) && document.activeElement.getAttribute("href");
  const shifts = [...main.querySelectorAll(".scroll")].map(each => each.scrollLeft);
  const { scrollX, scrollY } = window;
  main.replaceChildren(...found.childNodes);
  main.querySelectorAll(".scroll").forEach((each, n) => { each.scrollLeft = shifts[n] ?? 0; });
  if (href) [...main.querySelectorAll("a")].find(each => each.getAttribute("href") === href)?.focus({ preventScroll: true });
  window.scrollTo(scrollX, scrollY);
  offerCopies();
}

async function refresh() {
  if (inUse()) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(10_000) });
    if (!answer.ok || answer.redirected) throw new Error(`status ${answer.status}`);
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    errors = 0;
    last = new Date();
    if (!inUse()) replace(found);
  } catch {
    errors += 1;
    if (errors === MOST_ERRORS) clearInterval(timer);
    if (main.querySelector(".message.stale")) return;
    const line = Object.assign(document.createElement("p"), { className: "message warn stale" });
    line.setAttribute("role", "status");
    line.textContent = `Not refreshed since ${last.toLocaleTimeString()}. Reload the page to try again.`;
    main.prepend(line);
  }
}

function offerCopies() {
  if (!navigator.clipboard) return;
  for (const each of main.querySelectorAll("pre[data-copy]")) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "copy", textContent: "Copy" });
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(each.textContent);
      button.textContent = "Copied";
    });
    each.before(button);
  }
}

main.addEventListener("input", () => { changed = true; });
if (seconds > 0) timer = setInterval(refresh, seconds * 1000);
offerCopies();
