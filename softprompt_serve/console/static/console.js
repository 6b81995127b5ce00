"use strict";

// The console works without this. It keeps what changes up to date, says how long ago things were,
// and copies digests.

(() => {
  const FRAGMENT = "x-console-fragment";
  const SECONDS = 1000;
  const PATIENCE = 8 * SECONDS;
  const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

  const main = document.getElementById("content");
  const connection = document.getElementById("connection");
  const every = Number(main.dataset.refresh || 0) * SECONDS;
  // What the server sent of each part: the page's own copy has other times in it.
  const sent = new Map();
  let timer = 0;
  let lost = null;

  function parts(root) {
    return root.querySelectorAll("[data-live][id]");
  }

  function ago(at) {
    const passed = Math.max(0, (Date.now() - at) / SECONDS);
    for (const [unit, size] of UNITS) {
      if (passed >= size) return `${Math.floor(passed / size)} ${unit} ago`;
    }
    return "now";
  }

  function tellTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      const text = ago(at);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function isRead(part) {
    const selection = document.getSelection();
    return !selection.isCollapsed && selection.containsNode(part, true);
  }

  function replace(part, fresh) {
    const open = new Set([...part.querySelectorAll("details[open][id]")].map((d) => d.id));
    for (const details of fresh.querySelectorAll("details[id]")) details.open = open.has(details.id);
    const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    const places = [...part.querySelectorAll("a, button, summary, [tabindex]")];
    const place = places.indexOf(document.activeElement);
    part.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((box, i) => { box.scrollLeft = scrolled[i] || 0; });
    if (place >= 0) {
      const focus = fresh.querySelectorAll("a, button, summary, [tabindex]")[place];
      if (focus) focus.focus({ preventScroll: true });
    }
  }

  function update(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    for (const part of parts(document)) {
      const fresh = page.getElementById(part.id);
      if (!fresh || isRead(part)) continue;
      const markup = fresh.outerHTML;
      if (sent.get(part.id) === markup) continue;
      sent.set(part.id, markup);
      if (part.getAttribute("role") === "status") {
        part.textContent = fresh.textContent; // the same element, so that it is read out
        continue;
      }
      tellTimes(fresh);
      replace(part, document.adoptNode(fresh));
    }
    tellTimes(document);
  }

  function say(problem) {
    if (problem === null) {
      lost = null;
      connection.hidden = true;
      connection.textContent = "";
      return;
    }
    lost = lost || new Date();
    const text = `${problem} What is shown is from before ${lost.toLocaleTimeString()}.`;
    if (connection.textContent !== text) connection.textContent = text;
    connection.hidden = false;
  }

  async function refresh() {
    try {
      const answer = await fetch(location.href, {
        headers: { [FRAGMENT]: "1" },
        cache: "no-store",
        credentials: "same-origin",
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.status === 401 || answer.status === 404) {
        location.reload();
        return;
      }
      if (answer.ok) {
        update(await answer.text());
        say(null);
      } else {
        say(`The server answers ${answer.status}.`);
      }
    } catch {
      say("The server can't be reached.");
    }
    next();
  }

  function next() {
    clearTimeout(timer);
    if (every && !document.hidden) timer = setTimeout(refresh, every);
  }

  function copy(event) {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    navigator.clipboard.writeText(button.dataset.copy).then(() => {
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1.5 * SECONDS);
    });
  }

  for (const part of parts(document)) sent.set(part.id, part.outerHTML);
  tellTimes(document);
  if (every) {
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (!document.hidden) refresh();
    });
    next();
  }
  // Only where the page came over HTTPS, or from this machine.
  if (navigator.clipboard) {
    document.documentElement.classList.add("can-copy");
    document.addEventListener("click", copy);
  }
})();
