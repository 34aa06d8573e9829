// Whether a visitor has done anything yet, for what Gradio does by itself while it builds the page.
for (const kind of ["pointerdown", "keydown", "click"]) {
  document.addEventListener(kind, () => { window.sslZooTouched = true; }, { capture: true, once: true });
}
// Enter opens what was typed into a field with a list: of such a field Gradio only says which option was clicked.
document.addEventListener("keydown", (event) => {
  const place = event.target.closest?.("#bar, #compare-bar");
  if (event.key !== "Enter" || !place || !event.target.matches("input[aria-autocomplete]")) return;
  // Gradio takes the text over when the field is left, which Enter does.
  event.target.addEventListener("blur", () => setTimeout(() => place.querySelector("#open, #compare").click()), { once: true });
});
