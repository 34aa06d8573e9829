// Page "Map". Points are written straight into the pixels of a canvas, so that 10,000 follow the pointer; the server is
// asked for the map, a piece of the work at each question, and for small pictures, never for two things of a kind at once.
// A tab that is built while the server answers may start without any value; it comes a moment later.
const known = () => ({ request: {}, view: {}, methods: [], ...(props.value || {}) });
const find = (selector) => element.querySelector(selector);
const canvas = find(".map-canvas");
const context = canvas.getContext("2d", { alpha: false });
const PAGE = 60; // pictures in an answer and in a part of the list
const CELL = 52, PICTURE = 44; // of the grid of pictures on the map, and a picture in it, in CSS pixels
const REACH = 12; // how near the pointer must be to a point
const KEPT = 2000; // pictures in memory
const DIM = 0.14;

let data = null; // what the server said of the map, unpacked
let view = { x: 0, y: 0, zoom: 1 };
let color = "clusters", tool = "move", method = "auto";
let only = null; // number of the cluster or class that is shown alone
let selected = null, listed = 0; // numbers of the images in the list, and how many are shown
let hovered = -1, pinned = -1;
let withPictures = false;
let outline = null; // path that is being drawn, in CSS pixels
let turn = 0, asked = "", working = false, paused = false;

// --- small things -------------------------------------------------------------------------------------------------
const make = (tag, words, attributes = {}) => {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : /[sx]$/.test(word) ? "es" : "s"}`;
const unpack = (text, Kind) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
};
const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const styled = (name) => getComputedStyle(find(".map")).getPropertyValue(name).trim();
const shown = () => canvas.clientWidth > 0;
const say = (words, { error = false, share = null, stop = false, again = false } = {}) => {
  const cover = find(".map-cover");
  cover.classList.toggle("map-away", !words);
  cover.classList.toggle("map-over", data !== null); // an old map stays in sight while the next is made
  cover.classList.toggle("map-error", error);
  find(".map-words").textContent = words;
  find(".map-progress").hidden = share === null;
  find(".map-progress").value = share ?? 0;
  find('[data-do="stop"]').hidden = !stop;
  find('[data-do="again"]').hidden = !again;
};
const words = (number) => {
  const made = [`Image ${number}`, `cluster ${data.clusters[number]}`];
  if (data.classes) made.push(className(data.classes[number]));
  made.push(`confidence ${confidence(number).toFixed(2)}`);
  return made;
};
const className = (label) => (label < 0 ? "no label" : data.class_names[label]);
const confidence = (number) => data.confidence[number];
// The darkest shades can't be seen on a dark page.
const shades = () => (document.body.classList.contains("dark") ? data.shades.slice(Math.floor(data.shades.length / 4)) : data.shades);

// --- pictures -----------------------------------------------------------------------------------------------------
const pictures = new Map(); // number -> loaded Image
let urgent = [], later = [], loading = false, patience = null;
const need = (numbers, now = true) => {
  const missing = numbers.filter((number) => !pictures.has(number));
  if (now) urgent = missing; else later = missing;
  if (missing.length) load();
};
const load = async () => {
  if (loading) return;
  loading = true;
  try {
    for (;;) {
      const wanted = [...new Set([...urgent, ...later])].filter((number) => !pictures.has(number)).slice(0, PAGE);
      if (!wanted.length || !data) break;
      const of = data;
      const answer = await server.map_images({ request: known().request, numbers: wanted });
      if (of !== data) continue; // other images by now
      if (answer.error || !answer.images.length) break;
      await Promise.all(answer.images.map(async ([number, source]) => {
        const image = new Image();
        image.src = source;
        try { await image.decode(); } catch { /* stays blank */ }
        pictures.set(number, image);
      }));
      for (const number of pictures.keys()) {
        if (pictures.size <= KEPT) break;
        pictures.delete(number);
      }
      for (const blank of element.querySelectorAll(".map-blank[data-picture]")) {
        const number = Number(blank.dataset.picture);
        if (pictures.has(number)) blank.replaceWith(picture(number));
      }
      draw();
    }
  } catch { /* the next wish tries again */ } finally { loading = false; }
};
const picture = (number) => {
  if (!pictures.has(number)) return make("span", undefined, { class: "map-blank", "data-picture": number });
  const image = make("img", undefined, { width: 96, height: 96, alt: words(number).slice(0, 3).join(", ") });
  image.src = pictures.get(number).src;
  return image;
};

// --- drawing ------------------------------------------------------------------------------------------------------
let screen = { width: 0, height: 0, ratio: 1, half: 1 };
let pixels = null, words32 = null, waiting = false;
const place = (number) => [
  (data.points[2 * number] - view.x) * view.zoom * screen.half + screen.width / 2,
  (view.y - data.points[2 * number + 1]) * view.zoom * screen.half + screen.height / 2,
];
const radius = () => Math.min(7, (data.images > 6000 ? 1.7 : data.images > 2500 ? 2.1 : data.images > 800 ? 2.7 : 3.6) * view.zoom ** 0.4);
const groupOf = (number) => (color === "classes" ? data.classes[number] : data.clusters[number]);
const isBright = (number) => only === null || groupOf(number) === only;
const rgbOf = () => {
  if (color === "confidence") {
    const all = shades(), steps = all.length / Math.max(data.high - data.low, 1e-9);
    return (number) => all[Math.max(0, Math.min(all.length - 1, Math.floor((data.confidence[number] - data.low) * steps)))];
  }
  return color === "classes" ? (number) => data.class_colors[data.classes[number]] : (number) => data.cluster_colors[data.clusters[number]];
};
const draw = () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; if (shown()) paint(); });
};
const paint = () => {
  const { ratio } = screen, wide = canvas.width, high = canvas.height;
  const paper = parts(styled("--map-paper")), ink = styled("--map-ink");
  const opaque = 0xff000000;
  words32.fill(opaque | (paper[2] << 16) | (paper[1] << 8) | paper[0]);
  if (data) {
    const size = radius() * ratio, reach = Math.ceil(size), rgb = rgbOf();
    const stamp = []; // row, column and cover of the pixels of a round point
    for (let row = -reach; row <= reach; row++) for (let column = -reach; column <= reach; column++) {
      const cover = Math.min(1, Math.max(0, size + 0.5 - Math.hypot(row, column)));
      if (cover > 0) stamp.push([row * wide + column, cover]);
    }
    const chosen = selected ? data.isSelected : null;
    for (const bright of [false, true]) for (let number = 0; number < data.images; number++) {
      if ((isBright(number) && (!chosen || chosen[number] === 1)) !== bright) continue;
      const [left, top] = place(number);
      const x = Math.round(left * ratio), y = Math.round(top * ratio);
      if (x < reach || y < reach || x >= wide - reach || y >= high - reach) continue;
      const [red, green, blue] = rgb(number), start = y * wide + x, strength = bright ? 0.9 : DIM;
      for (const [step, cover] of stamp) {
        const old = words32[start + step], share = cover * strength, rest = 1 - share;
        words32[start + step] = opaque | ((blue * share + ((old >> 16) & 255) * rest) << 16)
          | ((green * share + ((old >> 8) & 255) * rest) << 8) | (red * share + (old & 255) * rest);
      }
    }
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.putImageData(pixels, 0, 0);
  if (!data) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (withPictures) paintPictures();
  for (const [number, width] of [[pinned, 3], [hovered, 2]]) {
    if (number < 0) continue;
    const [x, y] = place(number);
    context.strokeStyle = ink;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius() + 4, 0, 2 * Math.PI);
    context.stroke();
  }
  if (outline) {
    context.strokeStyle = ink;
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.beginPath();
    corners(outline).forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.stroke();
    context.setLineDash([]);
  } else if (canvas.matches(":focus-visible")) {
    const x = screen.width / 2, y = screen.height / 2;
    context.strokeStyle = ink;
    context.lineWidth = 1;
    context.strokeRect(x - 8, y, 16, 0);
    context.strokeRect(x, y - 8, 0, 16);
  }
};
const paintPictures = () => {
  const best = new Map(), rgb = rgbOf(), cell = CELL / (view.zoom * screen.half), taken = [];
  for (let number = 0; number < data.images; number++) {
    const [x, y] = place(number);
    if (!isBright(number) || (selected && !data.isSelected[number])) continue;
    if (x < 0 || y < 0 || x > screen.width || y > screen.height) continue;
    // The grid is fixed to the map, so that the pictures stay the same while it is moved.
    const column = data.points[2 * number] / cell, row = data.points[2 * number + 1] / cell;
    const key = `${Math.floor(column)} ${Math.floor(row)}`;
    const off = Math.hypot(column - Math.floor(column) - 0.5, row - Math.floor(row) - 0.5);
    if (!best.has(key) || off < best.get(key)[0]) best.set(key, [off, number, x, y]);
  }
  for (const [, number, x, y] of [...best.values()].sort((one, other) => one[1] - other[1])) {
    if (!taken.some(([, left, top]) => Math.max(Math.abs(left - x), Math.abs(top - y)) < PICTURE)) taken.push([number, x, y]);
  }
  for (const [number, x, y] of taken) {
    const image = pictures.get(number);
    if (!image || !image.naturalWidth) continue;
    context.drawImage(image, x - PICTURE / 2, y - PICTURE / 2, PICTURE, PICTURE);
    context.strokeStyle = `rgb(${rgb(number).join(",")})`;
    context.lineWidth = 2;
    context.strokeRect(x - PICTURE / 2, y - PICTURE / 2, PICTURE, PICTURE);
  }
  const missing = taken.map(([number]) => number).filter((number) => !pictures.has(number));
  clearTimeout(patience);
  if (missing.length) patience = setTimeout(() => need(missing, false), 120);
};
const fit = () => { // the whole map fills the canvas at zoom 1
  const [across, down] = data ? data.extent : [1, 1];
  screen.half = Math.max(20, Math.min((screen.width / 2 - 16) / across, (screen.height / 2 - 16) / down));
};
const resize = () => {
  if (!shown()) return;
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  screen = { width: canvas.clientWidth, height: canvas.clientHeight, ratio };
  fit();
  canvas.width = Math.round(screen.width * ratio);
  canvas.height = Math.round(screen.height * ratio);
  pixels = context.createImageData(canvas.width, canvas.height);
  words32 = new Uint32Array(pixels.data.buffer);
  paint();
};

// --- moving -------------------------------------------------------------------------------------------------------
const zoomBy = (factor, x = screen.width / 2, y = screen.height / 2) => {
  const zoom = Math.min(200, Math.max(0.5, view.zoom * factor));
  const across = (x - screen.width / 2) / screen.half, down = (y - screen.height / 2) / screen.half;
  view = { x: view.x + across / view.zoom - across / zoom, y: view.y - down / view.zoom + down / zoom, zoom };
  hold();
};
const moveBy = (across, down) => {
  view = { ...view, x: view.x - across / (view.zoom * screen.half), y: view.y + down / (view.zoom * screen.half) };
  hold();
};
const hold = () => { // some part of the map stays in reach
  view.x = Math.min(1.2, Math.max(-1.2, view.x));
  view.y = Math.min(1.2, Math.max(-1.2, view.y));
  hover(-1);
  draw();
};
const nearest = (x, y, reach) => {
  let best = -1, least = reach * reach;
  for (let number = 0; data && number < data.images; number++) {
    if (!isBright(number)) continue;
    const [left, top] = place(number), distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance < least) { least = distance; best = number; }
  }
  return best;
};
const hover = (number) => {
  if (number === hovered) return;
  hovered = number;
  const tip = find(".map-tip");
  tip.hidden = number < 0;
  if (number >= 0) {
    const lines = make("span");
    words(number).forEach((line, at) => lines.append(make(at === 1 ? "b" : "span", line), make("br")));
    tip.replaceChildren(picture(number), lines);
    const [x, y] = place(number), box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, x + 14 + box.width > screen.width ? x - 14 - box.width : x + 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, screen.height - box.height - 4))}px`;
    clearTimeout(hover.timer);
    hover.timer = setTimeout(() => need([number]), 60);
  }
  draw();
};
const pin = (number) => {
  pinned = number;
  const box = find(".map-pinned");
  if (number < 0) { box.replaceChildren(); draw(); return; }
  const lines = make("div");
  words(number).forEach((line, at) => lines.append(make(at === 1 ? "b" : "span", line), make("br")));
  lines.append(make("button", `Open cluster ${data.clusters[number]}`, { type: "button", "data-cluster": data.clusters[number] }));
  box.replaceChildren(picture(number), lines);
  need([number]);
  draw();
};

// --- selecting ----------------------------------------------------------------------------------------------------
const corners = (path) => {
  if (path.lasso) return path.points;
  const [[left, top], [right, bottom]] = [path.points[0], path.points[path.points.length - 1]];
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
};
const isInside = (x, y, polygon) => {
  let inside = false;
  for (let at = 0, before = polygon.length - 1; at < polygon.length; before = at++) {
    const [x1, y1] = polygon[at], [x2, y2] = polygon[before];
    if ((y1 > y) !== (y2 > y) && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
};
const select = (polygon) => {
  const numbers = [];
  for (let number = 0; number < data.images; number++) {
    if (isBright(number) && isInside(...place(number), polygon)) numbers.push(number);
  }
  list(numbers);
};
const tally = (numbers, keyOf, nameOf) => {
  const found = new Map();
  for (const number of numbers) found.set(keyOf(number), (found.get(keyOf(number)) ?? 0) + 1);
  const sorted = [...found].sort((one, other) => other[1] - one[1]);
  const most = sorted.slice(0, 6).map(([key, size]) => `${nameOf(key)} ${size.toLocaleString("en")}`);
  return most.join(", ") + (sorted.length > 6 ? `, ${sorted.length - 6} more` : "");
};
const list = (numbers) => {
  selected = numbers;
  listed = 0;
  data.isSelected = new Uint8Array(data.images);
  for (const number of numbers) data.isSelected[number] = 1;
  const box = find(".map-list"), head = make("header");
  head.append(make("h3", numbers.length ? `${count(numbers.length, "image")} selected` : "No image is in there"),
    make("button", "Let go", { type: "button", "data-do": "drop" }));
  const lines = [head];
  if (numbers.length) {
    lines.push(make("p", `Clusters: ${tally(numbers, (number) => data.clusters[number], (key) => `#${key}`)}`));
    if (data.classes) lines.push(make("p", `Classes: ${tally(numbers, (number) => data.classes[number], className)}`));
    lines.push(make("ul"), make("button", "More", { type: "button", "data-do": "more" }));
  }
  box.replaceChildren(...lines);
  more();
  draw();
};
const more = () => {
  const box = find(".map-list ul");
  if (!box) return;
  const next = selected.slice(listed, listed + PAGE);
  listed += next.length;
  for (const number of next) {
    const item = make("li"), button = make("button", undefined, { type: "button", "data-image": number });
    button.append(picture(number), `#${data.clusters[number]}${data.classes ? ` ${className(data.classes[number])}` : ""} ${confidence(number).toFixed(2)}`);
    button.title = words(number).join(", ");
    item.append(button);
    box.append(item);
  }
  find('[data-do="more"]').hidden = listed >= selected.length;
  need(next, false);
};
const drop = () => {
  selected = null;
  find(".map-list").replaceChildren();
  draw();
};

// --- legend -------------------------------------------------------------------------------------------------------
const legend = () => {
  const box = find(".map-legend");
  for (const button of element.querySelectorAll("[data-color]")) {
    button.setAttribute("aria-pressed", String(button.dataset.color === color));
    button.disabled = button.dataset.color === "classes" && data !== null && !data.classes;
    if (button.disabled) button.title = "These images have no labels.";
  }
  if (!data) { box.replaceChildren(); return; }
  if (color === "confidence") {
    const bar = make("div", undefined, { class: "map-ramp", role: "img", "aria-label": "from unsure, dark blue, to sure, yellow" });
    bar.style.background = `linear-gradient(90deg, ${shades().filter((_, at) => at % 7 === 0).map((shade) => `rgb(${shade.join(",")})`).join(",")})`;
    const ends = make("div", undefined, { class: "map-ends" });
    ends.append(make("span", `${data.low.toFixed(2)} or less`), make("span", `${data.high.toFixed(2)} or more`));
    box.replaceChildren(make("p", "Probability of the image's cluster"), bar, ends);
    return;
  }
  const sizes = new Map();
  for (let number = 0; number < data.images; number++) sizes.set(groupOf(number), (sizes.get(groupOf(number)) ?? 0) + 1);
  const rows = [...sizes].sort((one, other) => other[1] - one[1] || one[0] - other[0]).map(([key, size]) => {
    const item = make("li"), button = make("button", undefined, { type: "button", "data-only": key, "aria-pressed": String(key === only) });
    const dot = make("i", undefined, { class: "map-dot" });
    const shade = color === "classes" ? data.class_colors[key] : data.cluster_colors[key];
    dot.style.background = `rgb(${shade.join(",")})`;
    const name = color === "classes" ? className(key) : `#${key}${data.cluster_classes[key] ? ` ${data.cluster_classes[key]}` : ""}`;
    button.append(dot, make("span", name), make("small", size.toLocaleString("en")));
    item.append(button);
    return item;
  });
  const names = make("ul");
  names.append(...rows);
  const title = `${count(sizes.size, color === "classes" ? "class" : "cluster")}; press one to see it alone`;
  box.replaceChildren(make("p", title), names);
};

// --- the map from the server --------------------------------------------------------------------------------------
const wish = () => JSON.stringify([known().request, known().view, method]);
const refresh = async (again = false) => {
  if (!shown() || (!again && asked === wish())) return;
  const mine = ++turn;
  asked = wish();
  if (!known().request.model) { data = null; legend(); paint(); say("Open a model and images above; their map is drawn here."); return; }
  working = true;
  paused = false;
  if (!data) say("Asking for the map ...");
  try {
    for (;;) {
      const answer = await server.map_open({ request: known().request, view: known().view, method });
      if (mine !== turn) return;
      if (answer.error) { say(answer.error, { error: true, again: true }); return; }
      if (!answer.step) { take(answer); return; }
      const { done, total, task: what } = answer.step;
      const share = total > 1 ? done / total : null;
      say(share === null ? `${what} ...` : `${what}, ${Math.round(100 * share)} %`, { share, stop: true });
      if (!shown()) { asked = ""; return; } // goes on when the page is seen again
    }
  } catch {
    if (mine === turn) say("The server didn't answer.", { error: true, again: true });
  } finally {
    if (mine === turn) working = false;
  }
};
let openedRequest = "";
const take = (answer) => {
  const request = JSON.stringify(known().request);
  const isOther = request !== openedRequest;
  const isMoved = isOther || !data || data.method !== answer.method;
  openedRequest = request;
  if (isOther) pictures.clear();
  const packed = unpack(answer.points, Int16Array);
  const table = (colors) => Object.fromEntries(Object.entries(colors).map(([key, hex]) => [key, parts(hex)]));
  data = {
    ...answer,
    images: packed.length / 2,
    points: Float32Array.from(packed, (value) => value / 32767),
    clusters: unpack(answer.clusters, Int32Array),
    classes: answer.classes && unpack(answer.classes, Int32Array),
    confidence: unpack(answer.confidence, Float32Array),
    class_colors: table(answer.class_colors),
    cluster_colors: answer.cluster_colors.map(parts),
    shades: answer.shades.map(parts),
  };
  data.extent = [0, 1].map((axis) => data.points.reduce((most, value, at) => (at % 2 === axis ? Math.max(most, Math.abs(value)) : most), 0.02));
  fit();
  if (color === "classes" && !data.classes) color = "clusters";
  if (isMoved) view = { x: 0, y: 0, zoom: 1 };
  only = null;
  hover(-1);
  drop();
  pin(isOther ? -1 : pinned);
  say("");
  legend();
  find(".map-how").textContent = `${count(data.images, "image")}, ${data.description}.`;
  canvas.setAttribute("aria-label", `Map of ${count(data.images, "image")}. "List what is in view" gives them as a list.`);
  methods();
  draw();
};
const methods = () => {
  const box = find(".map-method");
  box.replaceChildren(...known().methods.map(([key, name]) => make("option", name, { value: key })));
  box.value = method === "auto" ? (data ? data.method : (known().methods[0] || [""])[0]) : method;
};

// --- events -------------------------------------------------------------------------------------------------------
const fingers = new Map();
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
let pressed = null;
canvas.addEventListener("pointerdown", (event) => {
  if (!data || event.button > 0) return;
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, at(event));
  pressed = fingers.size === 1 ? { from: at(event), moved: false } : null;
  outline = fingers.size === 1 && (tool !== "move" || event.shiftKey) ? { lasso: tool === "lasso", points: [at(event)] } : null;
  canvas.classList.toggle("map-dragging", !outline);
});
canvas.addEventListener("pointermove", (event) => {
  if (!data) return;
  const now = at(event), before = fingers.get(event.pointerId);
  if (!before) { hover(nearest(...now, REACH)); return; }
  if (pressed && Math.hypot(now[0] - pressed.from[0], now[1] - pressed.from[1]) > 4) pressed.moved = true;
  if (fingers.size === 2) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const spread = (point) => Math.max(10, Math.hypot(point[0] - other[0], point[1] - other[1]));
    zoomBy(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    moveBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  } else if (outline) {
    outline.points.push(now);
    draw();
  } else if (pressed && pressed.moved) {
    moveBy(now[0] - before[0], now[1] - before[1]);
  }
  if (!pressed || pressed.moved) fingers.set(event.pointerId, now);
});
const release = (event) => {
  if (!fingers.delete(event.pointerId)) return;
  canvas.classList.remove("map-dragging");
  const path = outline;
  outline = null;
  if (event.type === "pointerup" && data) {
    if (path && pressed && pressed.moved) select(corners(path));
    else if (pressed && !pressed.moved) pin(nearest(...at(event), event.pointerType === "touch" ? 2 * REACH : REACH));
  }
  pressed = null;
  draw();
};
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("wheel", (event) => {
  if (!data) return;
  event.preventDefault();
  zoomBy(Math.exp(-Math.max(-120, Math.min(120, event.deltaY * (event.deltaMode ? 20 : 1))) / 300), ...at(event));
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  if (!data || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = 60, keys = {
    ArrowLeft: () => moveBy(step, 0), ArrowRight: () => moveBy(-step, 0), ArrowUp: () => moveBy(0, step), ArrowDown: () => moveBy(0, -step),
    "+": () => zoomBy(1.3), "=": () => zoomBy(1.3), "-": () => zoomBy(1 / 1.3), 0: () => act.reset(),
    Enter: () => pin(hovered >= 0 ? hovered : nearest(screen.width / 2, screen.height / 2, 60)),
  };
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
  if (event.key !== "Enter") hover(nearest(screen.width / 2, screen.height / 2, 40));
});
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", () => { hover(-1); draw(); });

const act = {
  in: () => zoomBy(1.5),
  out: () => zoomBy(1 / 1.5),
  reset: () => { view = { x: 0, y: 0, zoom: 1 }; hold(); },
  pictures: (button) => {
    withPictures = !withPictures;
    button.setAttribute("aria-pressed", String(withPictures));
    draw();
  },
  list: () => { if (data) select([[0, 0], [screen.width, 0], [screen.width, screen.height], [0, screen.height]]); },
  drop: () => { drop(); canvas.focus({ preventScroll: true }); },
  more,
  stop: () => { turn++; working = false; paused = true; say("Stopped. What was done is kept for a while.", { again: true }); },
  again: () => refresh(true),
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { do: what, color: by, tool: kind, only: alone, image, cluster } = button.dataset;
  if (what) act[what](button);
  else if (by) { color = by; only = null; legend(); draw(); }
  else if (kind) {
    tool = kind;
    for (const other of element.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", String(other === button));
    canvas.classList.toggle("map-select", tool !== "move");
  } else if (alone !== undefined) {
    only = only === Number(alone) ? null : Number(alone);
    for (const other of element.querySelectorAll("[data-only]")) other.setAttribute("aria-pressed", String(Number(other.dataset.only) === only));
    hover(-1);
    draw();
  } else if (image !== undefined) pin(Number(image));
  else if (cluster !== undefined) trigger("select", { cluster: Number(cluster), clicked: performance.now() });
});
const overList = (event) => {
  const button = event.target.closest("[data-image]");
  if (button && data) { hovered = Number(button.dataset.image); draw(); }
};
element.addEventListener("pointerover", overList);
element.addEventListener("focusin", overList);
element.addEventListener("pointerout", (event) => { if (event.target.closest("[data-image]")) { hovered = -1; draw(); } });
element.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (outline) outline = null;
  else if (selected) drop();
  else if (only !== null) { only = null; legend(); }
  else pin(-1);
  draw();
});
find(".map-method").addEventListener("change", (event) => { method = event.target.value; refresh(); });

new ResizeObserver(() => { resize(); if (!paused) refresh(); }).observe(canvas);
new MutationObserver(() => { if (color === "confidence") legend(); draw(); }).observe(document.body, { attributes: true, attributeFilter: ["class"] }); // dark mode
methods();
legend();
say("Open a model and images above; their map is drawn here.");
watch("value", () => { paused = false; refresh(); });
// Gradio may take that value for known and not hand it on: it is asked for once more.
if (!known().methods.length) setTimeout(() => { if (!known().methods.length) trigger("ready"); }, 300);
