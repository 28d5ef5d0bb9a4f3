// The page: draws what the camera sees, coarsely while it moves and fully at rest, and moves it.
//
//   voxfield.ready                      a promise: the first picture is there
//   voxfield.setCamera(rows, fov)       camera, and the angle of view from top to bottom in degrees
//   voxfield.camera()                   {cameraToWorld, fov} as they are now
//   voxfield.rendered()                 a promise: the picture is there in full quality
//
// The address may say the same: page.html#camera=12 numbers&fov=40&background=black&ui=off

const FASTEST = 33; // milliseconds that a picture may take while the camera moves
const STRIP = 40; // milliseconds at a time for the picture at rest, so that the page stays responsive
const REST = 150; // milliseconds without a move after which the camera is at rest

const canvas = element("view");

function say(text) {
  element("message").textContent = text;
  element("message").hidden = !text;
}

class Page {
  constructor(gl, scene, filled) {
    this.scene = scene;
    this.painter = new Painter(gl, scene, filled);
    this.look = new Look(scene);
    this.quality = 0.5; // of the width and height, while the camera moves
    this.pace = 1; // rows in a millisecond at full quality
    this.movedAt = -Infinity;
    this.stage = "changed"; // then "resting", "refining", "done"
    this.waiting = []; // for full quality
    this.planned = false; // is there a next frame
    this.ready = new Promise((resolve) => (this.shown = resolve));
    this.colour(scene.background);
    this.obey();
    this.listen();
    this.plan();
  }

  colour(name) {
    const known = { white: "#ffffff", black: "#000000", grey: "#808080" };
    const hex = known[name] || name;
    const clear = hex === "transparent";
    if (!clear && !/^#[0-9a-f]{6}$/i.test(hex)) return;
    document.documentElement.classList.toggle("clear", clear);
    const values = clear ? [0, 0, 0] : [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
    const light = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    this.look.background = [...(this.scene.linear ? values.map(light) : values), clear ? 0 : 1];
    element("background").value = clear ? "#ffffff" : hex;
    this.change();
  }

  setCamera(rows, fov, aspect = null) {
    const numbers = Array.from(rows, Number);
    const angle = fov === undefined ? this.look.fov : Number(fov);
    const columns = [0, 1, 2].map((i) => [numbers[i], numbers[4 + i], numbers[8 + i]]);
    const rigid = columns.every((a) => Math.abs(Math.hypot(...a) - 1) < 1e-2);
    const right = dot(cross(columns[0], columns[1]), columns[2]) > 0.9;
    if (numbers.length < 12 || !numbers.every(Number.isFinite) || !rigid || !right || !(angle > 0 && angle < 180)) {
      throw new Error("expected the rows of a camera-to-world matrix, and degrees between 0 and 180");
    }
    this.look.place(numbers, angle, aspect);
    this.change();
  }

  // What the address asks for; what it asks wrongly is left alone.
  obey() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (asked.has("background")) this.colour(asked.get("background"));
    element("panel").hidden = asked.get("ui") === "off";
    if (!asked.has("camera")) return;
    try {
      this.setCamera(asked.get("camera").split(","), asked.has("fov") ? asked.get("fov") : undefined);
    } catch (error) {
      console.warn(`camera: ${error.message}`);
    }
  }

  change() {
    this.movedAt = performance.now();
    this.stage = "changed";
    this.plan();
  }

  plan() {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => {
      this.planned = false;
      this.draw();
    });
  }

  rendered() {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.plan();
    });
  }

  draw() {
    const density = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * density));
    const height = Math.max(1, Math.round(canvas.clientHeight * density));
    const painter = this.painter;
    if (painter.width !== width || painter.height !== height) this.stage = "changed";
    painter.resize(width, height);
    if (this.stage === "changed") this.drawQuickly(width, height);
    else if (this.stage === "resting" && performance.now() - this.movedAt >= REST) {
      painter.begin(this.look, width, height, this.scene.step);
      this.stage = "refining";
    } else if (this.stage === "refining") this.refine();
    if (this.stage !== "done") this.plan();
    else this.waiting.splice(0).forEach((resolve) => resolve());
  }

  drawQuickly(width, height) {
    const painter = this.painter;
    const [wide, high] = [width, height].map((pixels) => Math.max(1, Math.round(pixels * this.quality)));
    painter.begin(this.look, wide, high, Math.max(this.scene.step, 1));
    const took = painter.strip(high);
    painter.show();
    this.shown();
    const better = this.quality * Math.sqrt(FASTEST / Math.max(took, 1));
    this.quality = Math.min(1, Math.max(0.1, 0.5 * (this.quality + better)));
    this.pace = Math.max(0.2, (high / Math.max(took, 1)) * (wide / width) * 0.5);
    this.stage = "resting";
  }

  refine() {
    const painter = this.painter;
    const rows = Math.max(1, Math.round(this.pace * STRIP));
    const took = painter.strip(rows);
    this.pace = Math.max(0.02, rows / Math.max(took, 1));
    if (painter.done < painter.partHigh) return;
    painter.show();
    this.stage = "done";
  }

  // ----------------------------------------------------------------------------------------------------- controls

  listen() {
    this.pointers = new Map();
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        this.pointers.delete(event.pointerId);
        canvas.classList.toggle("held", this.pointers.size > 0);
      });
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaY * (event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 600 : 1);
      this.look.zoom(Math.exp(0.0015 * Math.max(-300, Math.min(300, lines))));
      this.change();
    }, { passive: false });
    window.addEventListener("keydown", (event) => this.type(event));
    window.addEventListener("hashchange", () => this.obey());
    new ResizeObserver(() => this.plan()).observe(canvas);
    element("again").addEventListener("click", () => this.again());
    element("background").addEventListener("input", (event) => this.colour(event.target.value));
    canvas.addEventListener("webglcontextlost", () => {
      this.planned = true; // nothing can be drawn any more
      say("The browser took the graphics device away. Load the page again.");
    });
  }

  again() {
    this.look.begin();
    this.change();
  }

  press(event) {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, button: event.button });
    canvas.classList.add("held");
  }

  drag(event) {
    const held = this.pointers.get(event.pointerId);
    if (!held) return;
    const before = this.gesture();
    const dx = event.clientX - held.x, dy = event.clientY - held.y;
    [held.x, held.y] = [event.clientX, event.clientY];
    if (this.pointers.size > 1) {
      const after = this.gesture();
      this.shift(after.x - before.x, after.y - before.y);
      if (after.apart > 0 && before.apart > 0) this.look.zoom(before.apart / after.apart);
    } else if (held.button !== 0 || event.shiftKey) this.shift(dx, dy);
    else this.look.orbit((dx / canvas.clientHeight) * Math.PI, (dy / canvas.clientHeight) * Math.PI);
    this.change();
  }

  // The middle of the first two fingers, and how far they are apart.
  gesture() {
    const [a, b] = [...this.pointers.values()];
    if (!b) return { x: a.x, y: a.y, apart: 0 };
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
  }

  // Move so that what is at the target's distance follows the pointer.
  shift(dx, dy) {
    const [, high] = this.look.tangents(canvas.clientWidth / canvas.clientHeight);
    const size = (2 * high) / canvas.clientHeight;
    this.look.pan(-dx * size, dy * size);
  }

  type(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input")) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) this.look.pan(0.05 * arrow[0], -0.05 * arrow[1]);
    else if (arrow) this.look.orbit(-0.08 * arrow[0], -0.08 * arrow[1]);
    else if (event.key === "+" || event.key === "=") this.look.zoom(1 / 1.1);
    else if (event.key === "-") this.look.zoom(1.1);
    else if (event.key === "Home") this.look.begin();
    else return;
    event.preventDefault();
    this.change();
  }
}

async function start() {
  const scene = JSON.parse(element("scene").textContent);
  // Kept until the next picture, so that the canvas can be copied.
  const gl = canvas.getContext("webgl2", { antialias: false, depth: false, preserveDrawingBuffer: true });
  if (!gl) throw new Error("This page needs WebGL 2, which this browser or device does not offer or has switched off.");
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for this page: it has no DecompressionStream.");
  }
  const page = new Page(gl, scene, await upload(gl, scene));
  await page.ready;
  say("");
  return page;
}

const started = start();
started.catch((error) => say(error.message));
let page = null;
const ready = started.then((one) => void (page = one));
ready.catch(() => {}); // said above
window.voxfield = {
  ready,
  setCamera: (rows, fov) => page.setCamera(rows, fov),
  camera: () => ({ cameraToWorld: page.look.rows, fov: page.look.fov }),
  rendered: () => ready.then(() => page.rendered()),
};
