// The page of an exported field: unpacks the voxels, lays them out in textures, draws what the camera sees, and moves it.
//
// The voxels come as deflated, base64 coded parts, which export/packed_voxels.py describes. The world is right-handed
// with +Z up; a camera is 12 numbers, the rows of its 3 x 4 camera-to-world matrix, and looks along its own -Z.
//
//   voxfield.ready                      a promise: the first picture is there
//   voxfield.setCamera(rows, fov)       camera, and the angle of view from top to bottom in degrees
//   voxfield.camera()                   {cameraToWorld, fov} as they are now
//   voxfield.rendered()                 a promise: the picture is there in full quality
//
// The address may say the same: page.html#camera=12 numbers&fov=40&background=black&ui=off
"use strict";
(() => {
  const SIDE = 4; // of a brick, in voxels
  const TEXELS = SIDE + 1; // of its share of an atlas: the last belong to the next brick too
  const EMPTY = 0x80000000; // see voxels.glsl
  const MOST_APART = 255; // bricks: what an entry can say
  const FASTEST = 33; // milliseconds that a picture may take while the camera moves
  const STRIP = 40; // milliseconds at a time for the picture at rest, so that the page stays responsive
  const REST = 150; // milliseconds without a move after which the camera is at rest

  const element = (id) => document.getElementById(id);
  const canvas = element("view");

  function say(text) {
    element("message").textContent = text;
    element("message").hidden = !text;
  }

  // ------------------------------------------------------------------------------------------ what the page carries

  function bytesOfBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const bytes = new Uint8Array((text.length / 4) * 3 - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0));
    for (let from = 0, to = 0; from < text.length; from += 1 << 20) {
      const piece = atob(text.slice(from, from + (1 << 20)));
      for (let i = 0; i < piece.length; i++) bytes[to++] = piece.charCodeAt(i);
    }
    return bytes;
  }

  async function part(name) {
    const holder = element(`part-${name}`);
    const packed = bytesOfBase64(holder.textContent);
    holder.remove(); // the text is as large as the file
    const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(inflated).arrayBuffer());
  }

  // Bricks that store voxels, and for each of their 64 voxels its row in the values, or -1.
  function readTopology(bytes, count, size) {
    const shape = size.map((voxels) => Math.ceil(voxels / SIDE));
    const view = new DataView(bytes.buffer);
    const number = new Int32Array(shape[0] * shape[1] * shape[2]).fill(-1); // of the brick at a place
    const places = new Uint32Array(count);
    const rows = new Int32Array(count * SIDE ** 3).fill(-1);
    let place = 0, row = 0;
    for (let brick = 0; brick < count; brick++) {
      place += view.getUint32(4 * brick, true);
      places[brick] = place;
      number[place] = brick;
      for (let half = 0; half < 2; half++) {
        const mask = view.getUint32(4 * count + 8 * brick + 4 * half, true);
        for (let bit = 0; bit < 32; bit++) {
          if ((mask >>> bit) & 1) rows[64 * brick + 32 * half + bit] = row++;
        }
      }
    }
    return { shape, number, places, rows };
  }

  // Half floats: a plane of their low bytes, then one of their high bytes.
  function readHalves(bytes) {
    const count = bytes.length / 2;
    const halves = new Uint16Array(count);
    for (let i = 0; i < count; i++) halves[i] = bytes[i] | (bytes[count + i] << 8);
    return halves;
  }

  // ------------------------------------------------------------------------------------------------------- textures

  // Which bricks of cells have a voxel of some density at one of their corners, apron included.
  function bricksWithMatter({ shape, places, rows }, density) {
    const full = new Uint8Array(shape[0] * shape[1] * shape[2]);
    const across = [1, shape[0], shape[0] * shape[1]];
    places.forEach((place, brick) => {
      const at = [place % shape[0], Math.floor(place / shape[0]) % shape[1], Math.floor(place / across[2])];
      for (let voxel = 0; voxel < 64; voxel++) {
        const row = rows[64 * brick + voxel];
        if (row < 0 || density[row] === 0 || density[row] & 0x8000) continue;
        // A voxel at the lower side of its brick is the last texel of the brick before.
        const side = ((voxel & 3) === 0 && at[0] > 0) | (((voxel >> 2) & 3) === 0 && at[1] > 0) << 1
          | (voxel >> 4 === 0 && at[2] > 0) << 2;
        for (let step = 0; step < 8; step++) {
          if (step & ~side) continue;
          full[place - (step & 1) - ((step >> 1) & 1) * across[1] - (step >> 2) * across[2]] = 1;
        }
      }
    });
    return full;
  }

  // Steps from each brick to the nearest with matter, diagonals counting as one: forth and back through the bricks.
  function stepsToMatter(full, shape) {
    const steps = new Uint8Array(full.length);
    for (let i = 0; i < full.length; i++) steps[i] = full[i] ? 0 : MOST_APART;
    const before = [];
    for (let dz = -1; dz <= 0; dz++) for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) {
      if (dz < 0 || dy < 0 || (dy === 0 && dx < 0)) before.push([dx, dy, dz]);
    }
    for (const sign of [1, -1]) {
      for (let n = 0; n < full.length; n++) {
        const i = sign > 0 ? n : full.length - 1 - n;
        if (steps[i] === 0) continue;
        const x = i % shape[0], y = Math.floor(i / shape[0]) % shape[1], z = Math.floor(i / (shape[0] * shape[1]));
        for (const [dx, dy, dz] of before) {
          const u = x + sign * dx, v = y + sign * dy, w = z + sign * dz;
          if (u < 0 || v < 0 || w < 0 || u >= shape[0] || v >= shape[1] || w >= shape[2]) continue;
          steps[i] = Math.min(steps[i], steps[(w * shape[1] + v) * shape[0] + u] + 1);
        }
      }
    }
    return steps;
  }

  // Where bricks lie in the atlases: what u_bricks holds, the atlases' size, and each texel's row in the values.
  function layOut(topology, density, size, largest) {
    const { shape, number, rows } = topology;
    const full = bricksWithMatter(topology, density), steps = stepsToMatter(full, shape);
    const count = full.reduce((sum, one) => sum + one, 0);
    const wide = Math.max(1, Math.ceil(Math.cbrt(count)));
    const high = Math.max(1, Math.ceil(Math.sqrt(count / wide)));
    const across = [wide, high, Math.max(1, Math.ceil(count / (wide * high)))];
    const atlas = across.map((bricks) => bricks * TEXELS);
    if (Math.max(...atlas, ...shape) > largest || Math.max(...across) > 1023) {
      throw new Error(`This device's textures are too small for the scene (${largest} texels).`);
    }
    const entries = new Uint32Array(full.length);
    const texels = new Int32Array(atlas[0] * atlas[1] * atlas[2]).fill(-1);
    let next = 0;
    for (let i = 0; i < full.length; i++) {
      if (!full[i]) {
        entries[i] = EMPTY | steps[i];
        continue;
      }
      const to = [next % wide, Math.floor(next / wide) % high, Math.floor(next / (wide * high))];
      const from = [i % shape[0], Math.floor(i / shape[0]) % shape[1], Math.floor(i / (shape[0] * shape[1]))];
      entries[i] = to[0] | (to[1] << 10) | (to[2] << 20);
      next++;
      for (let z = 0; z < TEXELS; z++) for (let y = 0; y < TEXELS; y++) for (let x = 0; x < TEXELS; x++) {
        const vx = from[0] * SIDE + x, vy = from[1] * SIDE + y, vz = from[2] * SIDE + z;
        if (vx >= size[0] || vy >= size[1] || vz >= size[2]) continue;
        const brick = number[((vz >> 2) * shape[1] + (vy >> 2)) * shape[0] + (vx >> 2)];
        if (brick < 0) continue;
        const texel = ((to[2] * TEXELS + z) * atlas[1] + to[1] * TEXELS + y) * atlas[0] + to[0] * TEXELS + x;
        texels[texel] = rows[64 * brick + (vx & 3) + 4 * (vy & 3) + 16 * (vz & 3)];
      }
    }
    return { entries, shape, atlas, texels };
  }

  function makeTexture(gl, unit, size, format, pixels) {
    const [inside, outside, type] = format;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage3D(gl.TEXTURE_3D, 0, inside, size[0], size[1], size[2], 0, outside, type, pixels);
    const filter = outside === gl.RED_INTEGER ? gl.NEAREST : gl.LINEAR;
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_3D, name, filter);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) {
      gl.texParameteri(gl.TEXTURE_3D, name, gl.CLAMP_TO_EDGE);
    }
  }

  // For each texture of colours the planes of codes (channel * bands + band) in its four channels; -1: none.
  function planesOf(degree) {
    const bands = (degree + 1) ** 2, parts = Math.ceil((bands - 1) / 4);
    const planes = [[0, bands, 2 * bands, -1]];
    for (let channel = 0; channel < 3; channel++) for (let piece = 0; piece < parts; piece++) {
      planes.push([0, 1, 2, 3].map((i) => {
        const band = 1 + 4 * piece + i;
        return band < bands ? channel * bands + band : -1;
      }));
    }
    return planes;
  }

  // Fill the textures; returns what the shader needs to know of them.
  async function upload(gl, scene) {
    const topology = readTopology(await part("topology"), scene.bricks, scene.size);
    const density = readHalves(await part("density"));
    const laid = layOut(topology, density, scene.size, gl.getParameter(gl.MAX_3D_TEXTURE_SIZE));
    const { atlas, texels } = laid;
    makeTexture(gl, 0, laid.shape, [gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT], laid.entries);
    const halves = Uint16Array.from(texels, (row) => (row < 0 ? 0 : density[row]));
    makeTexture(gl, 1, atlas, [gl.R16F, gl.RED, gl.HALF_FLOAT], halves);
    const bands = [];
    for (let band = 0; band <= scene.degree; band++) bands.push(await part(`band-${band}`));
    // Plane channel * bands + b: in part l of band l's harmonics, channel by channel.
    const plane = (number) => {
      const all = (scene.degree + 1) ** 2, channel = Math.floor(number / all), b = number % all;
      const l = Math.floor(Math.sqrt(b)), from = (channel * (2 * l + 1) + b - l * l) * scene.voxels;
      return bands[l].subarray(from, from + scene.voxels);
    };
    const gain = [], base = [];
    const codes = new Uint8Array(4 * texels.length);
    planesOf(scene.degree).forEach((four, unit) => {
      codes.fill(0);
      four.forEach((number, i) => {
        gain.push(number < 0 ? 0 : 255 * scene.steps[number]);
        base.push(number < 0 ? 0 : -scene.zeros[number] * scene.steps[number]);
        if (number < 0) return;
        const values = plane(number), zero = scene.zeros[number];
        for (let t = 0; t < texels.length; t++) codes[4 * t + i] = texels[t] < 0 ? zero : values[texels[t]];
      });
      makeTexture(gl, 2 + unit, atlas, [gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE], codes);
    });
    const error = gl.getError();
    if (error) throw new Error(`This device has not enough graphics memory for the scene (WebGL error ${error}).`);
    return { atlas, gain, base, textures: gain.length / 4 };
  }

  // -------------------------------------------------------------------------------------------------------- drawing

  function compile(gl, scene, textures) {
    const shader = (kind, text) => {
      const made = gl.createShader(kind);
      gl.shaderSource(made, text);
      gl.compileShader(made);
      if (!gl.getShaderParameter(made, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(made));
      return made;
    };
    const program = gl.createProgram();
    // One triangle that covers everything.
    const corners = "void main() { gl_Position = vec4(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1, 0, 1); }";
    const head = `#version 300 es\n#define DEGREE ${scene.degree}\n#define TEXTURES ${textures}\n`;
    gl.attachShader(program, shader(gl.VERTEX_SHADER, `#version 300 es\n${corners}`));
    gl.attachShader(program, shader(gl.FRAGMENT_SHADER, head + element("shader").textContent));
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    return (name) => gl.getUniformLocation(program, name);
  }

  // Pictures of any part of the canvas' size, drawn strip by strip, then shown at once.
  class Painter {
    constructor(gl, scene, filled) {
      this.gl = gl;
      const at = (this.at = compile(gl, scene, filled.textures));
      gl.uniform1i(at("u_bricks"), 0);
      gl.uniform1i(at("u_density"), 1);
      gl.uniform1iv(at("u_colours"), Array.from({ length: filled.textures }, (_, i) => 2 + i));
      gl.uniform4fv(at("u_gain"), filled.gain);
      gl.uniform4fv(at("u_base"), filled.base);
      gl.uniform3fv(at("u_size"), scene.size);
      gl.uniform3fv(at("u_low"), scene.low);
      gl.uniform3fv(at("u_high"), scene.high);
      gl.uniform3fv(at("u_texel"), filled.atlas.map((texels) => 1 / texels));
      gl.uniform1f(at("u_thickness"), 1 / scene.voxel);
      gl.uniform1f(at("u_near"), scene.near);
      gl.uniform1i(at("u_linear"), scene.linear ? 1 : 0);
      this.unit = gl.TEXTURE0 + 2 + filled.textures;
      this.buffer = gl.createFramebuffer();
      this.width = this.height = 0;
    }

    // A new surface to draw on, of the canvas' size.
    resize(width, height) {
      const gl = this.gl;
      if (this.width === width && this.height === height) return;
      [this.width, this.height] = [canvas.width, canvas.height] = [width, height];
      gl.deleteTexture(this.texture);
      this.texture = gl.createTexture();
      gl.activeTexture(this.unit);
      gl.bindTexture(gl.TEXTURE_2D, this.texture);
      gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA8, width, height);
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.texture, 0);
    }

    begin(look, width, height, step) {
      const { gl, at } = this;
      gl.uniform3fv(at("u_eye"), look.eye);
      gl.uniformMatrix3fv(at("u_axes"), false, look.axes.flat());
      gl.uniform2fv(at("u_tangent"), look.tangents(this.width / this.height));
      gl.uniform2f(at("u_pixels"), width, height);
      gl.uniform4fv(at("u_background"), look.background);
      gl.uniform1f(at("u_step"), step);
      gl.viewport(0, 0, width, height);
      [this.partWide, this.partHigh, this.done] = [width, height, 0];
    }

    // Draw the next rows; returns the milliseconds that took.
    strip(rows) {
      const gl = this.gl, from = performance.now();
      const count = Math.min(rows, this.partHigh - this.done);
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(0, this.done, this.partWide, count);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
      gl.disable(gl.SCISSOR_TEST);
      // Drawing only ends now: without reading nothing would wait for it.
      gl.readPixels(0, this.done, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
      this.done += count;
      return performance.now() - from;
    }

    show() {
      const gl = this.gl;
      gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.buffer);
      gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
      const same = this.partWide === this.width && this.partHigh === this.height;
      gl.blitFramebuffer(0, 0, this.partWide, this.partHigh, 0, 0, this.width, this.height, gl.COLOR_BUFFER_BIT,
        same ? gl.NEAREST : gl.LINEAR);
    }
  }

  // --------------------------------------------------------------------------------------------------------- camera

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const along = (a, b, t) => a.map((value, i) => value + t * b[i]);
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => a.map((value) => value / Math.hypot(...a));

  function turned(v, axis, angle) {
    const c = Math.cos(angle), s = Math.sin(angle), w = cross(axis, v), d = dot(axis, v) * (1 - c);
    return v.map((value, i) => value * c + w[i] * s + axis[i] * d);
  }

  class Look {
    constructor(scene) {
      this.scene = scene;
      this.longest = Math.max(...scene.high.map((high, i) => high - scene.low[i]));
      this.background = [0, 0, 0, 0];
      this.begin();
    }

    begin() {
      this.place(this.scene.camera, this.scene.fov, this.scene.aspect);
    }

    // Take a pose, and turn from now on about the point before it that is nearest to the middle of the scene.
    place(rows, fov, aspect) {
      const column = (i) => [rows[i], rows[4 + i], rows[8 + i]];
      this.eye = column(3);
      const back = unit(column(2)), right = unit(cross(column(1), back));
      this.axes = [right, cross(back, right), back];
      this.fov = fov;
      this.aspect = aspect;
      const middle = this.scene.high.map((high, i) => (high + this.scene.low[i]) / 2);
      const away = Math.max(-dot(along(middle, this.eye, -1), back), 0.05 * this.longest);
      this.target = along(this.eye, back, -away);
    }

    get rows() {
      return [0, 1, 2].flatMap((i) => [...this.axes.map((axis) => axis[i]), this.eye[i]]);
    }

    get distance() {
      return Math.hypot(...along(this.eye, this.target, -1));
    }

    // Of half the angles of view: all of the picture is to be seen, whatever the shape of the canvas.
    tangents(shape) {
      const high = Math.tan((this.fov * Math.PI) / 360);
      if (this.aspect === null || shape >= this.aspect) return [high * shape, high];
      return [high * this.aspect, (high * this.aspect) / shape];
    }

    orbit(sideways, upwards) {
      const up = [0, 0, 1];
      // Not over the poles, where left and right would change places; who begins beyond may go on.
      const steep = Math.acos(Math.max(-1, Math.min(1, dot(this.axes[2], up))));
      const pitch = Math.max(Math.min(upwards, Math.max(0, steep - 0.03)), Math.min(0, steep - (Math.PI - 0.03)));
      const right = this.axes[0];
      const turn = (v) => turned(turned(v, right, -pitch), up, -sideways);
      this.eye = along(this.target, turn(along(this.eye, this.target, -1)), 1);
      this.axes = this.axes.map((axis) => unit(turn(axis)));
    }

    pan(right, up) {
      for (const name of ["eye", "target"]) {
        this[name] = along(along(this[name], this.axes[0], right * this.distance), this.axes[1], up * this.distance);
      }
    }

    zoom(factor) {
      const distance = Math.min(Math.max(this.distance * factor, 0.01 * this.longest), 50 * this.longest);
      this.eye = along(this.target, unit(along(this.eye, this.target, -1)), distance);
    }
  }

  // ------------------------------------------------------------------------------------------------------- the page

  class Page {
    constructor(gl, scene, filled) {
      this.scene = scene;
      this.painter = new Painter(gl, scene, filled);
      this.look = new Look(scene);
      this.quality = 0.5; // of the width and height, while the camera moves
      this.pace = 1; // rows in a millisecond at full quality
      this.movedAt = -Infinity;
      this.stage = "changed"; // then "refining", then "done"
      this.waiting = [];
      this.planned = false;
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
      document.documentElement.classList.toggle("clear", clear);
      if (!clear && !/^#[0-9a-f]{6}$/i.test(hex)) return;
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
      if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, button, summary")) return;
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
})();
