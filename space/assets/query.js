// Page "Try an image". The image goes from here to a function of the server, and no file is made of it on the way.
const find = (selector) => element.querySelector(selector);
const MOST_BYTES = 10000000;
let chosen = null; // {image: data URL} or {example: number}
let seed = 0;
let turn = 0; // only the answer to the last question is shown
let stream = null;
// A tab that is built while the server answers may start without any value; it comes a moment later.
const known = () => ({request: {}, view: {}, examples: [], ...(props.value || {})});
const EMPTY = find(".query-found").innerHTML;

const say = (words, isError = false) => {
  const status = find(".query-status");
  status.textContent = words;
  status.classList.toggle("query-error", isError);
};

const ask = async (part) => {
  const answer = await server.try_image({
    ...chosen, part, seed, request: known().request, view: known().view,
  });
  if (answer.error) throw new Error(answer.error);
  return answer;
};

const guarded = async (work) => {
  const mine = ++turn;
  const isOld = () => mine !== turn;
  element.querySelector(".query-output").setAttribute("aria-busy", "true");
  try {
    await work(isOld);
  } catch (error) {
    if (isOld()) return;
    const words = error instanceof Error && error.message ? error.message : "";
    const network = /failed to fetch|networkerror|load failed|http|json|unexpected/i.test(words) || !words;
    say(network ? "The server didn't answer: try again." : words, true);
  } finally {
    if (!isOld()) element.querySelector(".query-output").removeAttribute("aria-busy");
  }
};

const showViews = async (isOld) => {
  const answer = await ask("views");
  if (!isOld()) find(".query-views").innerHTML = answer.html;
};

const look = () => guarded(async (isOld) => {
  say("Looking …");
  const answer = await ask("look");
  if (isOld()) return;
  find(".query-found").innerHTML = answer.html;
  const preview = find(".query-preview");
  preview.src = answer.picture;
  preview.alt = answer.alt;
  preview.hidden = false;
  find(".query-drop").classList.add("query-full");
  find('[data-do="clear"]').disabled = false;
  say(answer.words);
  await showViews(isOld);
});

const clear = (words = "") => {
  turn += 1;
  chosen = null;
  const preview = find(".query-preview");
  preview.hidden = true;
  preview.removeAttribute("src");
  preview.alt = "";
  find(".query-drop").classList.remove("query-full");
  find('[data-do="clear"]').disabled = true;
  find(".query-found").innerHTML = EMPTY;
  find(".query-views").innerHTML = "";
  find(".query-output").removeAttribute("aria-busy");
  mark();
  say(words);
};

const mark = () => element.querySelectorAll(".query-examples button").forEach((button) => {
  button.setAttribute("aria-pressed", String(Boolean(chosen) && String(chosen.example) === button.dataset.example));
});

const refuse = (words) => { clear(); say(words, true); };

const take = (blob) => {
  if (blob.size > MOST_BYTES) {
    refuse(`The file has ${(blob.size / 1e6).toFixed(1)} MB; at most 10 MB are read.`);
    return;
  }
  if (!blob.size) { refuse("The file is empty."); return; }
  const reader = new FileReader();
  reader.onerror = () => refuse("The file can't be read: it may have been moved, or be a folder.");
  reader.onload = () => {
    clear();
    chosen = {image: reader.result};
    look();
  };
  reader.readAsDataURL(blob);
};

const stop = () => {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  find("video").srcObject = null;
  find(".query-camera").hidden = true;
};

const openCamera = async () => {
  if (!navigator.mediaDevices || !navigator.mediaDevices.getUserMedia) {
    say("The browser opens a webcam only for pages that come by https, or from this machine.", true);
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}, audio: false});
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The webcam was not allowed." : "There is no webcam to be had.", true);
    return;
  }
  const video = find("video");
  video.srcObject = stream;
  find(".query-camera").hidden = false;
  await video.play();
  find('[data-do="take"]').focus();
};

const shoot = () => {
  const video = find("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  if (!canvas.width) return;
  canvas.getContext("2d").drawImage(video, 0, 0);
  stop();
  canvas.toBlob((blob) => take(blob), "image/jpeg", 0.95);
};

const actions = {
  browse: () => find(".query-file").click(),
  camera: openCamera,
  take: shoot,
  stop,
  clear: () => clear(),
  again: () => { seed += 1; guarded(showViews); },
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  if (button.dataset.cluster) trigger("select", {cluster: button.dataset.cluster, clicked: performance.now()});
  else if (button.dataset.example) {
    clear();
    chosen = {example: Number(button.dataset.example)};
    mark();
    look();
  } else if (actions[button.dataset.do]) actions[button.dataset.do]();
});

element.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && stream) { stop(); return; }
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  const button = event.target.closest(".query-examples button");
  if (!step || !button) return;
  const all = [...element.querySelectorAll(".query-examples button")];
  all[(all.indexOf(button) + step + all.length) % all.length].focus();
  event.preventDefault();
});

find(".query-file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  event.target.value = ""; // choosing the same file again is a choice, too
  if (file) take(file);
});

const drop = find(".query-drop");
const withFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
element.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("query-over");
});
element.addEventListener("dragleave", (event) => {
  if (!element.contains(event.relatedTarget)) drop.classList.remove("query-over");
});
element.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("query-over");
  if (withFiles(event) && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  else say("That was a link or text: save the image and drop the file.", true);
});

const onPaste = (event) => {
  if (!element.isConnected) { document.removeEventListener("paste", onPaste); return; }
  if (!element.offsetParent || event.target.closest("input, textarea, [contenteditable]")) return;
  const file = [...(event.clipboardData ? event.clipboardData.files : [])][0];
  if (file) { event.preventDefault(); take(file); } else say("There is no image on the clipboard.", true);
};
document.addEventListener("paste", onPaste);

const showExamples = () => {
  const box = find(".query-examples");
  box.replaceChildren(...known().examples.map((example) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    button.type = "button";
    button.dataset.example = example.number;
    button.title = example.alt;
    image.src = example.src;
    image.alt = example.alt;
    button.append(image);
    return button;
  }));
  find(".query-input h3").hidden = !known().examples.length;
  mark();
};

let opened = JSON.stringify(known().request);
showExamples();
watch("value", () => {
  showExamples();
  const now = JSON.stringify(known().request);
  if (now !== opened) {
    opened = now;
    if (chosen && chosen.example !== undefined) { clear(); return; } // number of another gallery
  }
  if (chosen) look();
});
// Gradio may take that value for known and not hand it on: it is asked for once more.
if (!known().examples.length) setTimeout(() => { if (!known().examples.length) trigger("ready"); }, 300);
