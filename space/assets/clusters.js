// Clicks on cards, links to clusters and page numbers; arrow keys move between cards; Escape closes.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-cluster], button[data-at]");
  if (!button) return;
  window.sslZooActed = true; // what an address opens doesn't take the focus
  const data = { clicked: performance.now() };
  if (button.dataset.cluster !== undefined) {
    data.cluster = button.dataset.cluster;
    if (button.classList.contains("card")) window.sslZooLastCard = button.dataset.cluster;
  }
  if (button.dataset.at !== undefined) data.at = button.dataset.at;
  trigger("select", data);
});
element.addEventListener("keydown", (event) => {
  const close = document.querySelector("#cluster-detail .close");
  if (event.key === "Escape" && close) {
    close.click();
    return;
  }
  const card = event.target.closest("button.card");
  if (!card || !event.key.startsWith("Arrow")) return;
  const cards = [...element.querySelectorAll("button.card")];
  const across = Math.max(1, cards.filter((other) => other.offsetTop === cards[0].offsetTop).length);
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
  const next = cards[cards.indexOf(card) + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
});
watch("value", () => {
  const detail = element.querySelector(".detail");
  if (detail && window.sslZooActed) {
    detail.querySelector(".close").focus({ preventScroll: true });
    detail.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } else if (!detail && element.querySelector(".cards") === null && window.sslZooLastCard !== undefined) {
    const card = document.querySelector(`button.card[data-cluster="${window.sslZooLastCard}"]`);
    if (card) card.focus({ preventScroll: true });
    window.sslZooLastCard = undefined;
  }
});
